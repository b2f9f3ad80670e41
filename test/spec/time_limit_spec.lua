local mtstates = require("mtstates")
local support = require("support")
local uv = require("luv")

local LIMIT = 0.05 * support.slowness -- seconds

local function now()
    return uv.hrtime() / 1e9
end

-- A state with that limit, whose callback runs the function `body` without upvalues.
local function limited(body, limit)
    return mtstates.newstate({ time_limit = limit or LIMIT }, function(code)
        breathe = os.getenv("MTSTATES_TEST_TSAN") and os.time or function() end -- luacheck: ignore
        function forever() -- luacheck: ignore
            while true do
                breathe() -- luacheck: ignore
            end
        end
        local body = load(code, "=body", "b") -- luacheck: ignore
        return function(...)
            if ... == "innocent" then
                return ...
            end
            return body(...)
        end
    end, string.dump(body))
end

-- The setup of a state whose callback runs until it is ended, or returns the value that it is called with.
local function looping()
    local breathe = os.getenv("MTSTATES_TEST_TSAN") and os.time or function() end -- see CMakeLists.txt
    return function(value)
        while value == nil do
            breathe()
        end
        return value
    end
end

-- That f(...) raises time_limit, not before `limits` limits are over; the message.
local function time_limit_of(limits, f, ...)
    local begun = now()
    local message = support.error_of(f, ...)
    local took = now() - begun
    assert.matches("^" .. mtstates.error.invoking_state, message)
    assert.matches(mtstates.error.time_limit, message)
    assert.is_true(took >= limits * LIMIT, took)
    return message
end

describe("time_limit", function()
    it("ends a stay that lasts too long, and the state answers the next call", function()
        local state = limited(function() forever() end) -- luacheck: ignore
        for _ = 1, 3 do
            time_limit_of(1, state.call, state)
            assert.equal("innocent", state:call("innocent"))
            time_limit_of(1, state.tcall, state, 1)
            assert.same({ true, "innocent" }, { state:tcall(1, "innocent") })
        end
    end)

    it("raises a string that begins with its name, which the code can catch, once", function()
        local state = limited(function()
            return pcall(forever) -- luacheck: ignore
        end)
        local ok, message = state:call()
        assert.is_false(ok)
        assert.equal(mtstates.error.time_limit, message)
    end)

    it("strikes at every operation after as long again, until the stay has ended", function()
        local state = limited(function()
            while true do
                pcall(forever) -- luacheck: ignore
            end
        end)
        time_limit_of(2, state.call, state)
        assert.equal("innocent", state:call("innocent"))
    end)

    it("lets code clean up once, however short the limit is", function()
        for _, limit in ipairs({ 0.001, 0.004 }) do
            local state <close> = limited(function()
                pcall(forever) -- luacheck: ignore
                return "cleaned up"
            end, limit * support.slowness)
            for _ = 1, 10 do
                assert.equal("cleaned up", state:call())
            end
        end
    end)

    it("lets __close clean up", function()
        local state = limited(function()
            cleaned = cleaned or 0 -- luacheck: ignore
            local _ <close> = setmetatable({}, { __close = function()
                for _ = 1, 1000 do
                    cleaned = cleaned + 1 -- luacheck: ignore
                end
            end })
            if cleaned < 1000 then -- luacheck: ignore
                forever() -- luacheck: ignore
            end
            return cleaned -- luacheck: ignore
        end)
        time_limit_of(1, state.call, state)
        assert.equal(1000, state:call())
    end)

    it("counts the stay, not its state's life", function()
        local state = limited(function(seconds)
            local hrtime = require("luv").hrtime
            local deadline = hrtime() + seconds * 1e9
            repeat
                breathe() -- luacheck: ignore
            until hrtime() > deadline
            return "done"
        end)
        for _ = 1, 10 do
            assert.equal("done", state:call(LIMIT / 4))
        end
    end)

    it("counts a stay with all that it calls, and strikes in whatever state runs by then", function()
        local inner <close> = mtstates.newstate("inner of a limited one", looping)
        local outer = limited(function(how)
            local mt = require("mtstates")
            local target = mt.state("inner of a limited one")
            if how == "catch" then
                return pcall(target.call, target)
            end
            return target:call()
        end)
        local message = time_limit_of(1, outer.call, outer)
        local _, count = message:gsub("invoking_state", "")
        assert.equal(2, count)
        local ok
        ok, message = outer:call("catch")
        assert.is_false(ok)
        assert.matches("^" .. mtstates.error.invoking_state .. '.-inner of a limited one.-'
            .. mtstates.error.time_limit, message)
        assert.equal("innocent", inner:call("innocent"))
        assert.equal("innocent", outer:call("innocent"))
    end)

    it("strikes a state that another one calls in a loop", function()
        local called <close> = mtstates.newstate("called in a loop",
            "return function() for i = 1, 1000 do end end")
        local outer = limited(function()
            local target = require("mtstates").state("called in a loop")
            while true do
                pcall(target.call, target)
            end
        end)
        time_limit_of(1, outer.call, outer) -- 2, where the first strike is caught
        assert.is_nil(called:call())
    end)

    it("of an inner state leaves the outer one alone", function()
        local outer = mtstates.newstate(function(limit, setup)
            local inner = require("mtstates").newstate({ time_limit = limit }, setup)
            return function()
                local results = {}
                for i = 1, 3 do
                    results[i] = pcall(inner.call, inner)
                end
                return table.unpack(results)
            end
        end, LIMIT, looping)
        assert.same({ false, false, false }, { outer:call() })
    end)

    it("of an outer state holds where the inner one has a longer or a shorter one", function()
        for _, factor in ipairs({ 0.5, 100 }) do
            local outer = limited(function(limit, setup)
                local inner = require("mtstates").newstate({ time_limit = limit }, setup)
                while true do
                    pcall(inner.call, inner)
                end
            end)
            time_limit_of(2, outer.call, outer, LIMIT * factor, looping)
            assert.equal("innocent", outer:call("innocent"))
        end
    end)

    it("holds when the state calls itself", function()
        local state = limited(function(id, depth)
            if depth == 0 then
                forever() -- luacheck: ignore
            end
            return require("mtstates").state(id):call(id, depth - 1)
        end)
        time_limit_of(1, state.call, state, state:id(), 5)
        assert.equal("innocent", state:call("innocent"))
    end)

    it("does not count waiting to get in", function()
        local state = limited(function() return require("luv").sleep(20) end, LIMIT + 0.02)
        local threads = {}
        for i = 1, 8 do
            threads[i] = support.thread(function(id)
                local s = require("mtstates").state(id)
                for _ = 1, 5 do
                    s:tcall(math.huge)
                end
                return "done"
            end, state:id())
        end
        for i = 1, 8 do
            assert.same({ true, "done" }, { threads[i].join() })
        end
    end)

    it("holds in setup, also in a singleton's, which others may try again", function()
        local code = "local breathe = os.getenv('MTSTATES_TEST_TSAN') and os.time or function() end "
            .. "while true do breathe() end"
        time_limit_of(1, mtstates.newstate, { time_limit = LIMIT }, code)
        time_limit_of(1, mtstates.singleton, { name = "slow to make", time_limit = LIMIT }, code)
        local state <close> = mtstates.singleton({ name = "slow to make" }, support.echo)
        assert.equal(1, state:call(1))
    end)

    it("does not strike in finalizers, and these do not outlast what comes after", function()
        local state = limited(function()
            setmetatable({}, { __gc = function()
                local deadline = os.clock() + 0.1
                repeat until os.clock() > deadline
                finalized = true -- luacheck: ignore
            end })
            collectgarbage()
            for _ = 1, 1000 do
                breathe() -- luacheck: ignore
            end
        end)
        pcall(state.call, state)
        assert.equal("innocent", state:call("innocent"))
    end)

    it("strikes a C function when it returns", function()
        local state = limited(function(seconds)
            os.execute("sleep " .. seconds)
            for _ = 1, 100000 do
                breathe() -- luacheck: ignore
            end
            return "not struck"
        end)
        time_limit_of(3, state.call, state, 3 * LIMIT)
    end)

    it("and an interrupt do not get in each other's way", function()
        local state = limited(function() return pcall(forever) end) -- luacheck: ignore
        local thread = support.thread(function(id)
            require("luv").sleep(10)
            require("mtstates").state(id):interrupt()
        end, state:id())
        local _, message = state:call()
        thread.join()
        assert.equal(mtstates.error.interrupted, message)
        _, message = state:call()
        assert.equal(mtstates.error.time_limit, message)
        state:interrupt(true)
        assert.matches(mtstates.error.interrupted, support.error_of(state.call, state, "innocent"))
        state:interrupt(false)
        assert.equal("innocent", state:call("innocent"))
    end)

    it("holds in coroutines, which it leaves as an error does", function()
        local state = limited(function()
            local co = coroutine.create(forever) -- luacheck: ignore
            local ok, message = coroutine.resume(co)
            return ok, message, coroutine.status(co)
        end)
        assert.same({ false, mtstates.error.time_limit, "dead" }, { state:call() })
    end)

    it("holds in many threads at once, each for its own stay", function()
        local threads = {}
        for i = 1, 10 do
            threads[i] = support.thread(function(limit, n, setup)
                local mt, luv = require("mtstates"), require("luv")
                local state = mt.newstate({ time_limit = limit }, setup)
                for _ = 1, 3 do
                    local begun = luv.hrtime()
                    local ok, message = pcall(state.call, state)
                    assert(not ok and message:find(mt.error.time_limit, 1, true), message)
                    assert((luv.hrtime() - begun) / 1e9 >= limit)
                    for _ = 1, 1000 do
                        assert(state:call("short") == "short")
                    end
                end
                return n
            end, LIMIT * (1 + i % 3), i, string.dump(looping))
        end
        for i = 1, 10 do
            assert.same({ true, i }, { threads[i].join() })
        end
    end)

    it("does not keep a closed state, or the process, from ending", function()
        for _ = 1, 20 do
            local state = limited(function() forever() end) -- luacheck: ignore
            local ok = pcall(state.call, state)
            assert.is_false(ok)
            state:close()
        end
    end)
end)
