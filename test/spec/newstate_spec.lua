local mtstates = require("mtstates")
local support = require("support")

local echo = support.echo

describe("newstate", function()
    it("takes any number of arguments", function()
        for n = 0, 60 do
            local given = table.pack(table.unpack({}, 1, n))
            local state, count = mtstates.newstate("name", false, function(...)
                return function() end, select("#", ...)
            end, table.unpack(given, 1, n))
            assert.equal(n, count)
            state:close()
            support.error_of(mtstates.newstate, "name", "no code", table.unpack(given, 1, n))
        end
    end)

    it("returns an owning handle and the further results of setup", function()
        local state, a, b, c = mtstates.newstate(function(...)
            return function() end, ...
        end, 1, nil, "three")
        assert.is_true(state:isowner())
        assert.same({ 1, nil, "three" }, { a, b, c })
    end)

    it("runs the callback in an interpreter of its own", function()
        global_of_the_host = 1 -- luacheck: ignore
        local state = mtstates.newstate(function()
            return function()
                return _G.global_of_the_host
            end
        end)
        assert.is_nil(state:call())
        global_of_the_host = nil -- luacheck: ignore
    end)

    it("takes nil for libs that are as usual", function()
        local state = mtstates.newstate("usual", nil, function()
            return function() return math.type(1) end
        end)
        assert.equal("integer", state:call())
    end)

    it("takes a name or none", function()
        assert.equal("n", mtstates.newstate("n", echo):name())
        assert.is_nil(mtstates.newstate(nil, echo):name())
        assert.is_nil(mtstates.newstate(echo):name())
    end)

    it("takes names with any bytes, of 0 to 65535 bytes", function()
        for _, name in ipairs({ "", "a\0b", "\1\127\n", ("x"):rep(65535) }) do
            local state = mtstates.newstate(name, echo)
            assert.equal(name, state:name())
            assert.equal(state, mtstates.state(name))
        end
        assert.matches("bad argument #1 to 'newstate' %(name longer than 65535 bytes%)",
            support.error_of(mtstates.newstate, ("x"):rep(65536), echo))
    end)

    it("takes one lone string for code", function()
        local state = mtstates.newstate("return function(x) return x + 1 end")
        assert.equal(2, state:call(1))
        assert.is_nil(state:name())
    end)

    it("takes code as text and as binary, as load does", function()
        local text = "local a = ... return function() return a end"
        assert.equal(7, mtstates.newstate("t", text, 7):call())
        assert.equal(8, mtstates.newstate("b", string.dump(load(text)), 8):call())
    end)

    it("refuses code that does not compile by an argument error with the message", function()
        assert.matches("bad argument #2 to 'newstate' %(%[string \"x x\"%]:1: syntax error",
            support.error_of(mtstates.newstate, "name", "x x"))
        assert.matches("bad argument #1 to 'newstate'", support.error_of(mtstates.newstate, "x x"))
    end)

    it("takes options instead of the name", function()
        local state = mtstates.newstate({ name = "opt", libs = false, inherit = false }, function()
            return function()
                return string == nil, require("package").cpath
            end
        end)
        local no_string, cpath = state:call()
        assert.equal("opt", state:name())
        assert.is_true(no_string)
        local default_cpath = mtstates.newstate({ inherit = false }, function()
            return function()
                return package.cpath
            end
        end):call()
        assert.equal(default_cpath, cpath)
    end)

    it("refuses unknown options and options of a wrong kind", function()
        local function message(options)
            return support.error_of(mtstates.newstate, options, echo)
        end
        assert.matches("#1 to 'newstate' %(unknown option 'nmae'", message({ nmae = "x" }))
        assert.matches("#1 to 'newstate' %(unknown option '1'", message({ "x" }))
        assert.matches("#1 to 'newstate' %(name: string expected, got number", message({ name = 1 }))
        assert.matches("#1 to 'newstate' %(option 'libs': boolean expected", message({ libs = 1 }))
        assert.matches("#1 to 'newstate' %(option 'inherit': boolean expected",
            message({ inherit = "no" }))
        assert.matches("#2 to 'newstate' %(libs is among the options",
            support.error_of(mtstates.newstate, { libs = true }, true, echo))
    end)

    it("opens all standard libraries by default", function()
        local state = mtstates.newstate(function()
            return function()
                local missing = ""
                for _, name in ipairs({ "coroutine", "table", "io", "os", "string", "math", "utf8",
                    "debug", "package" }) do
                    if _G[name] == nil or package.loaded[name] ~= _G[name] then
                        missing = missing .. name
                    end
                end
                return missing
            end
        end)
        assert.equal("", state:call())
    end)

    it("opens only base and package with libs=false, and has the others ready for require", function()
        for _, make in ipairs({
            function(setup) return mtstates.newstate(false, setup) end,
            function(setup) return mtstates.newstate("no libs", false, setup) end,
            function(setup) return mtstates.newstate({ libs = false }, setup) end,
        }) do
            local state = make(function()
                return function()
                    local early = ""
                    for _, name in ipairs({ "coroutine", "table", "io", "os", "string", "math",
                        "utf8", "debug" }) do
                        if _G[name] ~= nil then
                            early = early .. name
                        end
                        if type(require(name)) ~= "table" then
                            early = early .. "?" .. name
                        end
                    end
                    return early, require("string").upper("x")
                end
            end)
            assert.same({ "", "X" }, { state:call() })
        end
    end)

    it("refuses a C function as setup", function()
        assert.matches("bad argument #1 to 'newstate' %(lua function expected%)",
            support.error_of(mtstates.newstate, print))
    end)

    it("refuses a captured upvalue by its name, _ENV excepted", function()
        local captured = 1
        assert.matches("bad argument #2 to 'newstate' %(setup function uses upvalue 'captured': make it",
            support.error_of(mtstates.newstate, "n", function()
                return captured
            end))
        assert.equal(type(print), mtstates.newstate(function()
            local kind = type(print)
            return function()
                return kind
            end
        end):call())
    end)

    it("refuses a captured upvalue that has the globals, too", function()
        local globals = _G
        assert.matches("setup function uses upvalue 'globals'",
            support.error_of(mtstates.newstate, function()
                local say = print
                return function()
                    return globals, say
                end
            end))
    end)

    it("takes a stripped function whose only upvalue is the globals", function()
        local stripped = load(string.dump(function()
            local kind = type(print)
            return function()
                return kind
            end
        end, true))
        assert.equal("function", mtstates.newstate(stripped):call())
    end)

    it("keeps line numbers and source names", function()
        local line = debug.getinfo(1, "l").currentline + 3
        local state = mtstates.newstate(function()
            return function()
                error("here")
            end
        end)
        assert.matches("newstate_spec.lua:" .. line .. ": here", support.error_of(state.call, state))
    end)

    it("raises state_result when setup gives no Lua function", function()
        for _, setup in ipairs({ "return", "return nil", "return 1", "return print", "return {}" }) do
            assert.matches("^" .. mtstates.error.state_result,
                support.error_of(mtstates.newstate, nil, setup))
        end
    end)

    it("raises state_result when a further result cannot cross", function()
        assert.matches("^" .. mtstates.error.state_result .. ".*#2 %(in field 'f': C function",
            support.error_of(mtstates.newstate, nil, "return function() end, { f = print }"))
    end)

    it("refuses arguments that cannot cross, by position", function()
        assert.matches("bad argument #4 to 'newstate' %(in field 'f': C function",
            support.error_of(mtstates.newstate, "refused", echo, 1, { f = print }))
        assert.is_false((pcall(mtstates.state, "refused")))
    end)

    it("refuses what is no setup", function()
        assert.matches("bad argument #1 to 'newstate' %(lua function or string expected, got no value",
            support.error_of(mtstates.newstate))
        assert.matches("bad argument #1 to 'newstate' .*got number", support.error_of(mtstates.newstate, 1))
        assert.matches("bad argument #2 to 'newstate' .*got no value",
            support.error_of(mtstates.newstate, nil))
        assert.matches("bad argument #3 to 'newstate' .*got nil",
            support.error_of(mtstates.newstate, "n", true, nil))
    end)

    it("lets nobody find the state before setup has returned", function()
        local state, by_id, by_name = mtstates.newstate("in setup", function()
            local mt = require("mtstates")
            local by_id = select(2, pcall(mt.state, mt.id()))
            local by_name = select(2, pcall(mt.state, "in setup"))
            return function() end, by_id, by_name
        end)
        assert.matches("^" .. mtstates.error.unknown_object, by_id)
        assert.matches("^" .. mtstates.error.unknown_object, by_name)
        assert.equal(state, mtstates.state("in setup"))
    end)

    it("inherits the creator's package.path and package.cpath", function()
        local path, cpath = package.path, package.cpath
        package.path, package.cpath = "p/?.lua", "c/?.so"
        local state = mtstates.newstate(function()
            return function()
                return package.path, package.cpath
            end
        end)
        package.path, package.cpath = path, cpath
        assert.same({ "p/?.lua", "c/?.so" }, { state:call() })
    end)

    it("needs no package library in the creator", function()
        local parent = mtstates.newstate(function()
            local mt = require("mtstates")
            package.loaded.package = nil
            return function()
                return mt.newstate("return function() return package.path end"):call()
            end
        end)
        assert.equal("string", type(parent:call()))
    end)

    it("raises invoking_state when setup raises an error, and leaves nothing behind", function()
        assert.matches("^" .. mtstates.error.invoking_state .. ".*boom",
            support.error_of(mtstates.newstate, "failed", function()
                error("boom")
            end))
        assert.matches("^" .. mtstates.error.unknown_object,
            support.error_of(mtstates.state, "failed"))
    end)

    it("runs the finalizers of a failed state whose stack is full of results", function()
        for count = 999970, 999990 do -- Lua's limit is 1000000 values
            local ok, message = pcall(mtstates.newstate, function(n)
                keep = require("mtstates").newstate("kept", function() return function() end end) -- luacheck: ignore
                return function() end, table.unpack({}, 1, n)
            end, count)
            if not ok then
                assert.matches("too many", message)
            end
            assert.equal(ok, (pcall(mtstates.state, "kept")))
            collectgarbage()
        end
    end)
end)
