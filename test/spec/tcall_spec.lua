local mtstates = require("mtstates")
local support = require("support")
local uv = require("luv")

local echo = support.echo

local function elapsed(f, ...)
    local start = uv.hrtime()
    local results = table.pack(f(...))
    return (uv.hrtime() - start) / 1e9, table.unpack(results, 1, results.n)
end

describe("tcall", function()
    it("returns true and the results of a free state, whatever the timeout", function()
        local state = mtstates.newstate(echo)
        for _, timeout in ipairs({ 0, 0.0, -1, -math.huge, 1, math.huge, 1e300 }) do
            assert.same({ true, 1, nil, "x" }, { state:tcall(timeout, 1, nil, "x") })
        end
        assert.same({ true }, { state:tcall(0) })
    end)

    it("refuses NaN and what is no number", function()
        local state = mtstates.newstate(echo)
        assert.matches("bad argument #1 to 'tcall' %(timeout is NaN%)",
            support.error_of(function() state:tcall(0 / 0) end))
        for _, value in ipairs({ "1", true, {}, print }) do
            assert.matches("bad argument #1 to 'tcall' %(number expected, got " .. type(value),
                support.error_of(function() state:tcall(value) end))
        end
        assert.matches("got no value", support.error_of(function() state:tcall() end))
    end)

    it("nests from the same thread", function()
        local state = mtstates.newstate("tcall nests", function()
            local mt = require("mtstates")
            return function(x)
                if x > 0 then
                    return mt.state("tcall nests"):tcall(0, x - 1)
                end
                return "bottom"
            end
        end)
        assert.same({ true, true, true, "bottom" }, { state:tcall(0, 2) })
    end)

    it("returns false when the time is up, not before, and uses no CPU meanwhile", function()
        local busy, release = support.busy_state()
        local seconds, ok
        for _, timeout in ipairs({ 0, -1, -math.huge }) do
            seconds, ok = elapsed(busy.tcall, busy, timeout)
            assert.is_false(ok)
            assert.is_true(seconds < 0.05, seconds)
        end
        local cpu = os.clock()
        seconds, ok = elapsed(busy.tcall, busy, 0.2)
        cpu = os.clock() - cpu
        assert.is_false(ok)
        assert.is_true(seconds >= 0.2 and seconds < 1.0, seconds)
        assert.is_true(cpu < 0.05, cpu)
        release()
    end)

    it("gets the state when it becomes free", function()
        local busy, release = support.busy_state("becomes free")
        local waiter = support.thread(function()
            return select(2, require("mtstates").state("becomes free"):tcall(math.huge, "x"))
        end)
        uv.sleep(50)
        release()
        assert.same({ true, "done" }, { waiter.join() })
        assert.equal("done", busy:call())
    end)

    it("raises object_closed in a waiter whose state closes", function()
        local busy, release = support.busy_state("closes while waited for") -- luacheck: ignore
        local waiter = support.thread(function()
            require("mtstates").state("closes while waited for"):tcall(math.huge, "x")
        end)
        uv.sleep(50)
        busy = nil -- luacheck: ignore
        collectgarbage()
        collectgarbage()
        local ok, message = waiter.join()
        assert.is_false(ok)
        assert.matches("^" .. mtstates.error.object_closed, message)
        release()
    end)

    it("lets every one of many waiters in, in a fair share", function()
        local counter = mtstates.newstate("fair", function()
            local counts, total = {}, 0
            return function(who)
                if who == "total" then
                    return total
                elseif who == "least" then
                    local least = math.huge
                    for _, count in pairs(counts) do
                        least = math.min(least, count)
                    end
                    return least
                end
                counts[who] = (counts[who] or 0) + 1
                total = total + 1
            end
        end)
        local threads = {}
        for i = 1, 4 do
            threads[i] = support.thread(function(who)
                local state = require("mtstates").state("fair")
                local luv = require("luv")
                local deadline, calls = luv.hrtime() + 1e9, 0
                while luv.hrtime() < deadline do
                    assert(state:tcall(math.huge, who))
                    calls = calls + 1
                end
                return calls
            end, i)
        end
        local calls = 0
        for i = 1, 4 do
            local ok, count = threads[i].join()
            assert.is_true(ok, count)
            calls = calls + count
        end
        assert.equal(calls, counter:call("total"))
        assert.is_true(counter:call("least") * 20 > calls / 4, counter:call("least") .. " of " .. calls)
    end)
end)
