local mtstates = require("mtstates")
local support = require("support")

-- The setup of states that do what they are told.
local function worker()
    local uv = require("luv") -- luacheck: ignore
    local mt = require("mtstates")
    return function(what, arg, ...)
        if what == "sleep" then uv.sleep(arg)
        elseif what == "raise" then error("an error")
        elseif what == "interrupt" then mt.state(mt.id()):interrupt() return uv.sleep(0)
        elseif what == "self" then return mt.state(mt.id()):call(arg, ...)
        elseif what == "keep" then KEPT = ("x"):rep(arg) -- luacheck: ignore
        end
        return what
    end
end

-- A thread that keeps the object busy for so many milliseconds; returns when it is.
local function occupy(object, look_up, milliseconds)
    local thread = support.thread(function(id, name, ms)
        return (require("mtstates")[name](id):call("sleep", ms))
    end, object:id(), look_up, milliseconds)
    support.eventually(function()
        local busy = object:stats().busy
        return busy == true or busy ~= false and busy > 0
    end)
    return thread
end

describe("stats of a state", function()
    it("count calls, errors and interrupts, of calls to itself as well", function()
        local state <close> = mtstates.newstate(worker)
        local at_first = state:stats()
        assert.same({ 0, 0, 0, 0, 0, 0, 0.0, false },
            { at_first.calls, at_first.errors, at_first.refused, at_first.waited, at_first.timed_out,
                at_first.interrupted, at_first.wait_seconds, at_first.busy })
        state:call("x")
        state:call("self", "x") -- two
        pcall(state.call, state, "raise")
        pcall(state.call, state, "self", "raise") -- two, both fail
        pcall(state.call, state, "interrupt")
        local stats = state:stats()
        assert.same({ 7, 4, 1 }, { stats.calls, stats.errors, stats.interrupted })
    end)

    it("count what is refused, waits, and waits in vain", function()
        local state <close> = mtstates.newstate(worker)
        local busy = occupy(state, "state", 300 * support.slowness)
        assert.is_true(state:stats().busy)
        pcall(state.call, state)
        assert.is_false(state:tcall(0))
        assert.is_false(state:tcall(0.02))
        assert.is_true((state:tcall(math.huge, "x")))
        busy.join()
        local stats = state:stats()
        assert.same({ 2, 2, 1, 2 }, { stats.refused, stats.waited, stats.timed_out, stats.calls })
        assert.is_true(stats.wait_seconds >= 0.02 and stats.wait_seconds < 10 * support.slowness)
    end)

    it("tell the memory that there is, and was", function()
        local state <close> = mtstates.newstate(worker)
        local before = state:stats().bytes
        state:call("keep", 100000)
        state:call("keep", 0)
        local stats = state:stats()
        assert.is_true(before > 10000 and stats.peak_bytes > before + 100000)
        assert.same({ stats.bytes, stats.peak_bytes }, { state:memory() })
    end)

    it("are no more to be had when it is closed", function()
        local state = mtstates.newstate(worker)
        state:close()
        assert.matches("object_closed", support.error_of(state.stats, state))
    end)
end)

-- How many there are in a histogram, and how many of at least so many microseconds.
local function count(histogram, microseconds)
    local all, long = 0, 0
    for i, n in ipairs(histogram) do
        all = all + n
        long = long + (1 << (i - 1) >= microseconds and n or 0)
    end
    return all, long
end

describe("timing", function()
    it("measures stays and waits of a state", function()
        local state <close> = mtstates.newstate({ timing = true }, worker)
        state:call("x")
        state:call("self", "x") -- one stay
        state:call("sleep", 5)
        local busy = occupy(state, "state", 100 * support.slowness)
        assert.is_false(state:tcall(0.01))
        busy.join()
        local stats = state:stats()
        assert.equal(33, #stats.inside_histogram)
        assert.same({ 4, 2 }, { count(stats.inside_histogram, 4000) })
        assert.same({ 1, 1 }, { count(stats.wait_histogram, 8000) })
        assert.is_true(stats.inside_seconds >= 0.1 and stats.inside_seconds < 10 * support.slowness)
    end)

    it("goes with a time limit, with errors, interrupts, and the members of pools that are gone", function()
        local pool <close> = mtstates.newpool({ size = 1, timing = true, time_limit = 100 }, worker)
        pool:call("x")
        pcall(pool.call, pool, "raise")
        pcall(pool.call, pool, "interrupt")
        pool:reload()
        pool:call("x")
        assert.equal(4, (count(pool:stats().inside_histogram, 0)))
        local busy = occupy(pool, "pool", 100 * support.slowness)
        assert.is_true((pool:tcall(math.huge)))
        busy.join()
        assert.equal(1, (count(pool:stats().wait_histogram, 0)))
    end)

    it("is not there for those who did not ask", function()
        local state <close> = mtstates.newstate(worker)
        assert.is_nil(state:stats().inside_seconds)
        assert.matches("bad argument #1 to 'newstate' %(option 'timing': boolean expected, got number%)",
            support.error_of(mtstates.newstate, { timing = 1 }, worker))
    end)

    it("gives histograms to the metrics", function()
        local pool <close> = mtstates.newpool({ name = "timed", size = 1, timing = true }, worker)
        pool:call("sleep", 3)
        local text = mtstates.metrics()
        local function at(le)
            local bucket = ('mtstates_pool_inside_seconds_bucket{pool="timed",le="%s"} '):format(le)
            local _, last = text:find(bucket, 1, true)
            return tonumber(text:match("^%d+", last + 1))
        end
        assert.same({ 0, 1, 1 }, { at("0.002048"), at("2147.483648"), at("+Inf") })
        assert.is_truthy(text:find('\nmtstates_pool_inside_seconds_count{pool="timed"} 1\n', 1, true))
    end)
end)

describe("stats of a pool", function()
    it("count what its members count and had counted, and what it refuses itself", function()
        local pool <close> = mtstates.newpool({ size = 1 }, worker)
        pool:call("x")
        pcall(pool.call, pool, "raise")
        pool:reload() -- the member is gone, its counts are not
        pool:call("x")
        local busy = occupy(pool, "pool", 200 * support.slowness)
        pcall(pool.call, pool)
        assert.is_false(pool:tcall(0))
        assert.is_false(pool:tcall(0.01))
        assert.is_true((pool:tcall(math.huge)))
        busy.join()
        local stats = pool:stats()
        assert.same({ 5, 1, 2, 2, 1 },
            { stats.calls, stats.errors, stats.refused, stats.waited, stats.timed_out })
        assert.is_true(stats.wait_seconds > 0 and stats.bytes > 0 and stats.peak_bytes >= stats.bytes)
    end)
end)

describe("stats of the process", function()
    it("keep what closed states and pools had counted", function()
        collectgarbage() -- nobody else's states go meanwhile
        local before = mtstates.stats()
        local state, pool = mtstates.newstate(worker), mtstates.newpool({ size = 2 }, worker)
        for _ = 1, 3 do
            state:call("x")
            pool:call("x")
        end
        pcall(pool.call, pool, "raise")
        local now = mtstates.stats()
        assert.same({ 7, 1, 3, 3, 1 }, { now.calls - before.calls, now.errors - before.errors,
            now.states - before.states, now.made - before.made, now.pools - before.pools })
        state:close()
        pool:close()
        collectgarbage()
        local later = mtstates.stats()
        assert.same({ now.calls, now.errors, before.states, before.pools, now.made },
            { later.calls, later.errors, later.states, later.pools, later.made })
    end)

    it("never fall, and lose nothing, while threads make, call and close", function()
        local before, threads = mtstates.stats(), {}
        for i = 1, 4 do
            threads[i] = support.thread(function(rounds)
                local mt = require("mtstates")
                for _ = 1, rounds do
                    local s <close> = mt.newstate(nil, false, "return function() end")
                    for _ = 1, 10 do
                        s:call()
                    end
                end
                return "done"
            end, 200 // math.min(support.slowness, 10))
        end
        local last = before
        repeat
            local now = mtstates.stats()
            assert.is_true(now.calls >= last.calls and now.made >= last.made)
            last = now
            local ended = 0
            for _, thread in ipairs(threads) do
                ended = ended + (thread.ended() and 1 or 0)
            end
        until ended == #threads
        for _, thread in ipairs(threads) do
            assert.same({ true, "done" }, { thread.join() })
        end
        local made = 4 * (200 // math.min(support.slowness, 10))
        assert.is_true(mtstates.stats().calls - before.calls >= 10 * made)
        assert.is_true(mtstates.stats().made - before.made >= made)
    end)
end)

describe("states and pools", function()
    it("list all that live, members as well, by handles that do not own", function()
        local function ids(list)
            local set = {}
            for _, handle in ipairs(list) do
                local living, owns = pcall(handle.isowner, handle) -- others may have gone meanwhile
                if living then
                    assert.is_false(owns)
                    set[handle:id()] = true
                end
            end
            return set
        end
        local state <close> = mtstates.newstate(worker)
        local pool <close> = mtstates.newpool({ size = 2 }, worker)
        local states, pools = ids(mtstates.states()), ids(mtstates.pools())
        assert.is_true(states[state:id()] and states[pool:state(1):id()] and states[pool:state(2):id()])
        assert.is_true(pools[pool:id()])
        local id, pool_id = state:id(), pool:id()
        state:close()
        pool:close()
        assert.is_nil(ids(mtstates.states())[id])
        assert.is_nil(ids(mtstates.pools())[pool_id])
    end)
end)

describe("metrics", function()
    -- The value of a sample; nil: there is none.
    local function value(sample, text)
        local at, last = text:find("\n" .. sample .. " ", 1, true)
        return at and tonumber(text:match("^[%d.]+", last + 1))
    end

    it("give all counts, of pools by name, and of states by name when asked", function()
        local state <close> = mtstates.newstate("metered", worker)
        local pools = {}
        for i = 1, 2 do -- of one name
            pools[i] = mtstates.newpool({ name = "metered", size = 2 }, worker)
            pools[i]:call("x")
        end
        state:call("x")
        local text = mtstates.metrics()
        assert.equal(2, value('mtstates_pool_calls_total{pool="metered"}', text))
        assert.equal(4, value('mtstates_pool_size{pool="metered"}', text))
        assert.equal(4, value('mtstates_pool_made_total{pool="metered"}', text))
        assert.equal(0, value('mtstates_pool_retired_total{pool="metered",cause="reload"}', text))
        assert.is_true(value('mtstates_state_calls_total{state=""}', text) >= 1)
        assert.is_nil(text:find('state="metered"', 1, true))
        text = mtstates.metrics({ names = true })
        assert.equal(1, value('mtstates_state_calls_total{state="metered"}', text))
        assert.is_true(value('mtstates_state_living{state=""}', text) >= 0)
        for _, pool in ipairs(pools) do
            pool:close()
        end
        assert.is_nil(value('mtstates_pool_calls_total{pool="metered"}', mtstates.metrics()))
    end)

    it("escape names of any bytes", function()
        local names = {
            ['quote"'] = [[quote\"]], ["back\\slash"] = [[back\\slash]], ["new\nline"] = [[new\nline]],
            ["\0\255"] = [[\\x00\\xff]], ["é€😀"] = "é€😀", ["\xc3("] = [[\\xc3(]], [""] = "",
            ["\xed\xa0\x80"] = [[\\xed\\xa0\\x80]], -- a surrogate
        }
        local states = {}
        for name in pairs(names) do
            states[name] = mtstates.newstate(name, worker)
        end
        local text = mtstates.metrics({ names = true })
        for name, escaped in pairs(names) do
            assert.is_truthy(value('mtstates_state_living{state="' .. escaped .. '"}', text), escaped)
            states[name]:close()
        end
    end)

    it("are what promtool takes for valid", function()
        local state <close> = mtstates.newstate('metered "\n\255', worker) -- luacheck: ignore
        local pool <close> = mtstates.newpool({ name = "metered", size = 2, timing = true }, -- luacheck: ignore
            worker)
        local path = os.tmpname()
        local file = io.open(path, "w")
        file:write(mtstates.metrics({ names = true }))
        file:close()
        local promtool = io.popen("LD_PRELOAD= promtool check metrics < " .. path .. " 2>&1")
        local said = promtool:read("a")
        assert.is_true(promtool:close(), said)
        os.remove(path)
    end)

    it("refuse options that they do not know", function()
        assert.matches("bad argument #1 to 'metrics' %(unknown option 'x'%)",
            support.error_of(mtstates.metrics, { x = 1 }))
        assert.matches("bad argument #1 to 'metrics' %(option 'names': boolean expected, got number%)",
            support.error_of(mtstates.metrics, { names = 1 }))
        assert.matches("bad argument #1 to 'metrics' %(table or nil expected, got number%)",
            support.error_of(mtstates.metrics, 1))
    end)
end)
