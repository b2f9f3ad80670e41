-- How a whole process ends. Each case is a script of its own. The threads are those of cqueues, which
-- stays loaded as mtstates does; luv would be unloaded under its own running threads.
local function exit_status(script)
    local path = os.tmpname()
    local file = assert(io.open(path, "w"))
    file:write(script)
    file:close()
    -- What still runs when a process ends has not been freed, and is no leak.
    local _, how, status = os.execute(
        ("ASAN_OPTIONS=detect_leaks=0 lua5.4 %s 2>%s.err"):format(path, path))
    local errors = assert(io.open(path .. ".err"))
    local text = errors:read("a")
    errors:close()
    os.remove(path)
    os.remove(path .. ".err")
    return how .. " " .. status .. " " .. text
end

local PROLOGUE = [[
    local mt, cqueues, thread = require("mtstates"), require("cqueues"), require("cqueues.thread")
    local states = {}
    for i = 1, 4 do
        states[i] = mt.newstate("state " .. i, function()
            local mt = require("mtstates")
            local child = mt.newstate(function() return function() end end)
            return function(seconds)
                local t, deadline = {}, os.clock() + seconds
                while os.clock() < deadline do
                    t[#t + 1] = { #t }
                    child:call(#t)
                end
            end
        end)
    end
    for i = 1, 3 do
        thread.start(function(_, name)
            local mt = require("mtstates")
            local state = mt.state(name)
            while pcall(state.call, state, 0.01) do
            end
            require("cqueues").sleep(0.02)
        end, "state " .. i)
    end
    cqueues.sleep(0.05)
]]

describe("a process whose threads are inside states", function()
    for _, ending in ipairs({ "os.exit(7, true)", "os.exit(7, false)",
        "states = nil collectgarbage() collectgarbage() cqueues.sleep(0.05) os.exit(7, true)",
        "for _, s in ipairs(states) do pcall(s.close, s) end os.exit(7, true)" }) do
        it("ends well by: " .. ending, function()
            for _ = 1, 3 do
                assert.equal("exit 7 ", exit_status(PROLOGUE .. ending))
            end
        end)
    end

    it("ends well when a state's own code calls os.exit", function()
        for _, close in ipairs({ "false", "true" }) do
            assert.equal("exit 7 ", exit_status(PROLOGUE .. [[
                mt.newstate(function() return function() os.exit(7, ]] .. close .. [[) end end):call()
            ]]))
        end
    end)

    for _, ending in ipairs({ "state:close()", "state = nil collectgarbage()", "os.exit(3, true)" }) do
        it("ends well when a finalizer of a closing state calls os.exit, after: " .. ending, function()
            for close, expected in pairs({ ["false"] = "exit 7 ", ["true"] = "exit 7 earlier" }) do
                assert.equal(expected, exit_status(PROLOGUE .. [[
                    local state = mt.newstate(function()
                        EARLIER = setmetatable({}, { __gc = function() io.stderr:write("earlier") end })
                        EXITS = setmetatable({}, { __gc = function() os.exit(7, ]] .. close .. [[) end })
                        return function() end
                    end)
                ]] .. ending))
            end
        end)
    end

    it("ends well at the end of its script", function()
        assert.equal("exit 0 ", exit_status(PROLOGUE))
    end)
end)
