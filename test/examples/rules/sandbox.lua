-- What a stranger's script sees. For the setup of a state with `libs = false` and `inherit = false`.
--
-- Left out, and why: whatever reaches files, programs or C (io, os, package, require, debug, load,
-- string.dump); collectgarbage and __gc, since finalizers cannot be interrupted; patterns (find, match,
-- gmatch, gsub), since one call of C may take hours on a short string, and a time limit strikes when it
-- returns. For the same reason string.rep and table.move take numbers up to MOST, and the table library
-- takes no table with a metatable, which may have any length.
return function()
    local MOST = 1000000
    local string, table, math, coroutine = -- luacheck: ignore
        require("string"), require("table"), require("math"), require("coroutine")

    local function some_of(library, names)
        local some = {}
        for name in string.gmatch(names, "%S+") do
            some[name] = library[name]
        end
        return some
    end

    local function check_number(n, what)
        if (tonumber(n) or 0) > MOST then
            error(("%s: at most %d"):format(what, MOST), 3)
        end
    end

    local function check_plain(t)
        if getmetatable(t) ~= nil then
            error("the table library is not for tables with a metatable here", 3)
        end
    end

    local function for_plain_tables(f)
        return function(t, ...)
            check_plain(t)
            return f(t, ...)
        end
    end

    local environment = some_of(_G, "assert error ipairs next pairs pcall select tonumber tostring type"
        .. " xpcall")
    environment.string = some_of(string, "byte char format len lower rep reverse sub upper")
    function environment.string.rep(text, n, separator)
        check_number(n, "string.rep")
        return string.rep(text, n, separator)
    end

    environment.table = some_of(table, "pack")
    for _, name in ipairs({ "concat", "insert", "remove", "sort", "unpack" }) do
        environment.table[name] = for_plain_tables(table[name])
    end
    environment.table.move = for_plain_tables(function(from, first, last, to, other)
        check_plain(other)
        check_number((tonumber(last) or 0) - (tonumber(first) or 0), "table.move")
        return table.move(from, first, last, to, other)
    end)
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
