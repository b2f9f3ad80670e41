-- Warnings of a state go to stderr as those of the lua5.4 program do, once the state wants them.
local child = require("child")

-- What the script writes to stderr. state(code) is a state that runs code when it is called.
local function warnings(script)
    local output, errors = child.run([[
        local mt = require("mtstates")
        local function state(code, libs)
            return mt.newstate({ libs = libs ~= false }, "local code = ... return load(code)", code)
        end
    ]] .. script .. " io.write('end')")
    assert.matches("^end.*%[exit 0%]$", output)
    return errors
end

describe("a state", function()
    it("does not warn until told to", function()
        assert.equal("", warnings([[state("warn('unheard')"):call()]]))
    end)

    it("warns after warn('@on') until warn('@off'), as lua5.4 does", function()
        assert.equal("Lua warning: heard\nLua warning: again\n", warnings([[
            state("warn('early') warn('@on') warn('heard') warn('@off') warn('unheard')"
                .. "warn('@on') warn('again')"):call()
        ]]))
    end)

    it("writes a warning in pieces as one, and takes no piece for a command", function()
        assert.equal("Lua warning: a, b, @off\nLua warning: @off, really\nLua warning: heard\n", warnings([[
            state("warn('@on') warn('a, ', 'b, ', '@off') warn('@off', ', really') warn('heard')"):call()
        ]]))
    end)

    it("ignores commands that it does not know", function()
        assert.equal("Lua warning: heard\n", warnings([[
            state("warn('@on') warn('@') warn('@loud') warn('heard')"):call()
        ]]))
    end)

    it("without libraries warns, too", function()
        assert.equal("Lua warning: heard\n", warnings([[
            state("warn('@on') warn('heard')", false):call()
        ]]))
    end)

    it("goes on warning in later calls and in its coroutines", function()
        assert.equal("Lua warning: 1\nLua warning: 2\n", warnings([[
            local s = state("n = (n or 0) + 1 if n == 1 then warn('@on') end "
                .. "coroutine.wrap(function() warn(tostring(n)) end)()")
            s:call()
            s:call()
        ]]))
    end)

    it("is told for itself, not by its host nor by other states", function()
        assert.equal("Lua warning: loud\nLua warning: host\n", warnings([[
            warn("@on")
            local quiet = state("warn('quiet')")
            local loud = state("warn('@on') warn('loud')")
            loud:call()
            quiet:call()
            state("warn('new')"):call()
            state("warn('@off')"):call()
            warn("host")
        ]]))
    end)

    it("warns in the middle of what another state has to say", function()
        assert.equal("Lua warning: inner\nLua warning: outer\n", warnings([[
            local inner <close> = mt.newstate("inner", "return function() warn('@on') warn('inner') end")
            state("warn('@on') require('mtstates').state('inner'):call() warn('outer')"):call()
        ]]))
    end)

    it("warns of errors in finalizers, once, when told to", function()
        local code = "setmetatable({}, { __gc = function() error('boom') end }) "
            .. "collectgarbage() collectgarbage() collectgarbage()"
        assert.equal("", warnings(("state(%q):call()"):format(code)))
        local text = warnings(("state(%q):call()"):format("warn('@on')" .. code))
        assert.matches("^Lua warning: error in __gc.*boom[^\n]*\n$", text)
    end)

    it("warns of errors in finalizers that run as it closes", function()
        local code = "%s keep = setmetatable({}, { __gc = function() error('last') end })"
        for _, ending in ipairs({ "s:close()", "s = nil collectgarbage() collectgarbage()", "",
            "os.exit(true, true)" }) do
            local text = child.run(([[
                local s = require("mtstates").newstate(nil, "local code = ... return load(code)", %q)
                s:call()
                %s
            ]]):format(code:format("warn('@on')"), ending))
            assert.matches("^Lua warning: error in __gc[^\n]*last[^\n]*\n%[exit 0%]$", text)
        end
        assert.equal("", warnings(("local s = state(%q) s:call() s:close()"):format(code:format(""))))
    end)

    it("that another thread calls warns, too", function()
        assert.equal("Lua warning: in a thread\n", warnings([[
            local s = state("warn('@on') warn('in a thread')")
            require("luv").new_thread(function(id)
                require("mtstates").state(id):call()
            end, s:id()):join()
        ]]))
    end)
end)
