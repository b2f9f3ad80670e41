-- A state has resume, wrap and close of its own, for the sake of interrupts. Nobody may notice.
local mtstates = require("mtstates")

-- Each returns what is to be the same in a state as in the host.
local behaviours = {
    ["coroutine.resume passes values both ways, and errors"] = function()
        local co = coroutine.create(function(...)
            error({ coroutine.yield(select("#", ...), ...) })
        end)
        local _, count, nothing, last = coroutine.resume(co, nil, "last")
        local ok, object = coroutine.resume(co, "an error's")
        return count, nothing, last, ok, object[1], coroutine.resume(co)
    end,
    ["coroutine.resume refuses more arguments than the coroutine has room for"] = function()
        local values = {}
        local co = coroutine.create(function(...)
            coroutine.yield(select("#", ...))
        end)
        local _, count = coroutine.resume(co, table.unpack(values, 1, 600000))
        return count, coroutine.resume(co, table.unpack(values, 1, 600000))
    end,
    ["coroutine.resume refuses more results than its caller has room for"] = function()
        local co = coroutine.create(function()
            return table.unpack({}, 1, 600000)
        end)
        local function crowded(...) -- luacheck: ignore
            local ok, message = coroutine.resume(co)
            return ok, message
        end
        return crowded(table.unpack({}, 1, 450000))
    end,
    ["coroutine.wrap gives errors the caller's position"] = function()
        return pcall(coroutine.wrap(function()
            error("inside", 0)
        end))
    end,
    ["coroutine.close tells how it went"] = function()
        local suspended = coroutine.create(coroutine.yield)
        coroutine.resume(suspended)
        local failed = coroutine.create(error)
        coroutine.resume(failed, "failed")
        local clean, message = coroutine.close(failed)
        return coroutine.close(suspended), coroutine.status(suspended), clean, message,
            coroutine.close(coroutine.create(print))
    end,
    ["coroutine.close refuses a coroutine that runs or waits for another"] = function()
        local outer
        outer = coroutine.create(function()
            local running, about_running = pcall(coroutine.close, outer)
            local inner = coroutine.wrap(function()
                return pcall(coroutine.close, outer)
            end)
            return running, about_running, inner()
        end)
        return coroutine.resume(outer)
    end,
    ["all of coroutine refuses what is none"] = function()
        local function complaint(...) -- what it calls a coroutine depends on the release
            return select(2, pcall(...)):match("bad argument #1 to '[%w.]+'")
        end
        return complaint(coroutine.resume, 1), complaint(coroutine.wrap, 1), complaint(coroutine.close)
    end,
}

describe("in a state", function()
    for behaviour, code in pairs(behaviours) do
        it(behaviour .. ", as in Lua", function()
            local binary = string.dump(code)
            local state = mtstates.newstate(function()
                return function(bytes)
                    return load(bytes)()
                end
            end)
            assert.same(table.pack(load(binary)()), table.pack(state:call(binary)))
        end)
    end
end)
