-- What a stranger's script sees. For the setup of a state with `libs = false` and `inherit = false`.
--
-- Left out, and why: whatever reaches files, programs or C (io, os, package, require, debug, load,
-- string.dump); collectgarbage and __gc, since finalizers cannot be interrupted; patterns (find, match,
-- gmatch, gsub), since one call of C may take hours on a short string, and a time limit strikes when it
-- returns.
return function()
    local string, table, math, coroutine = -- luacheck: ignore
        require("string"), require("table"), require("math"), require("coroutine")

    local function some_of(library, names)
        local some = {}
        for name in string.gmatch(names, "%S+") do
            some[name] = library[name]
        end
        return some
    end

    local environment = some_of(_G, "assert error ipairs next pairs pcall select tonumber tostring type"
        .. " xpcall")
    environment.string = some_of(string, "byte char format len lower rep reverse sub upper")
    environment.table = some_of(table, "concat insert move pack remove sort unpack")
    environment.math = some_of(math, "abs ceil floor fmod huge max maxinteger min mininteger pi random sqrt"
        .. " tointeger type ult")
    environment.coroutine = some_of(coroutine, "close create isyieldable resume running status wrap yield")

    function environment.setmetatable(t, metatable)
        if type(metatable) == "table" and rawget(metatable, "__gc") ~= nil then
            error("a metatable with __gc is not for scripts", 2)
        end
        return setmetatable(t, metatable)
    end

    getmetatable("").__index = environment.string -- ("x"):rep(3)
    return environment
end
