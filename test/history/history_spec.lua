-- What has happened in a process or in a state leaves it as fast as it was. Each case is a process of
-- its own, which measures the processor's time before and after, the least of many batches.
local child = require("child")

local PROLOGUE = [=[
    local mt = require("mtstates")
    collectgarbage("incremental") -- the other mode never makes Lua's own stack smaller
    local function echo() return function(...) return ... end end

    -- A state that does one thing or another.
    local function worker()
        KEPT = {}
        return function(what, n)
            if what == "collect" then
                collectgarbage()
            elseif what == "count" then
                collectgarbage()
                return collectgarbage("count")
            elseif what == "burst" then -- n MB in small pieces, of which few and scattered ones stay
                local function burst(pieces)
                    local all = {}
                    for i = 1, pieces do
                        all[i] = { i, i }
                        if i % 1000 == 0 then
                            KEPT[#KEPT % 4000 + 1] = { i }
                        end
                    end
                end
                burst(n * 9000)
                collectgarbage()
            elseif what == "keep" then -- as many as stay of a burst
                for i = 1, 4000 do
                    KEPT[i] = { i }
                end
            elseif what == "fill" then -- n MB in small pieces, made and dropped: how long that takes
                local start = os.clock()
                do
                    local all = {}
                    for i = 1, n * 9000 do
                        all[i] = { i, i }
                    end
                end
                collectgarbage()
                for i = 1, n * 9000 do
                    local _ = { i, i }
                end
                collectgarbage()
                do
                    local all = {}
                    for i = 1, n * 9000 do
                        all[i] = "text " .. i
                    end
                end
                collectgarbage()
                return os.clock() - start
            elseif what == "unpack" then
                return table.unpack({}, 1, n)
            end
        end
    end

    local function least(count, f)
        local best = math.huge
        for _ = 1, 15 do
            collectgarbage()
            local start = os.clock()
            for _ = 1, count do
                f()
            end
            best = math.min(best, os.clock() - start)
        end
        return best / count
    end

    -- Every kind of operation on `state`, which is a worker, and on new ones. Seconds by name.
    local function measure(state)
        local id = state:id()
        return {
            ["look-up by id"] = least(1000, function() mt.state(id) end),
            ["look-up by name"] = least(1000, function() mt.state("worker") end),
            ["call"] = least(1000, function() state:call() end),
            ["call with values"] = least(1000, function() state:call("nothing", 1, "text", true) end),
            ["tcall"] = least(1000, function() state:tcall(0) end),
            ["make and close"] = least(50, function() mt.newstate(echo):close() end),
            ["make by name and close"] = least(50, function() mt.newstate("new", false, echo):close() end),
            ["collection in the state"] = least(20, function() state:call("collect") end),
            ["collection in the host"] = least(20, function() collectgarbage() end),
            ["the machine itself"] = least(1000, function() select("#", pcall(tostring, 12345)) end),
        }
    end

    -- A collection takes microseconds, and sometimes twice as many; where it grows it takes hundreds.
    local function is_slower(name, before, after, most)
        return after > most * before and (after - before > 1e-5 or not name:find("collection"))
    end

    local function compare(before, after, most)
        for name, seconds in pairs(after) do
            local slower = is_slower(name, before[name], seconds, most)
            local text = ("%s: %.3f us, %.3f us before"):format(name, 1e6 * seconds, 1e6 * before[name])
            io.write(slower and "SLOWER " or "", text, "\n")
        end
    end

    -- Measures, lets it happen, and measures again; what seems slower is looked at once more.
    local function history(happen, prepare)
        local state = mt.newstate("worker", worker)
        if prepare then
            state:call(prepare)
        end
        local before = measure(state)
        happen(state)
        collectgarbage()
        collectgarbage()
        -- As it would be had the machine stayed as fast.
        local function measure_again()
            local after = measure(state)
            local slowed = math.max(1, after["the machine itself"] / before["the machine itself"])
            for name, seconds in pairs(after) do
                after[name] = seconds / slowed
            end
            return after
        end
        local after = measure_again()
        for name, seconds in pairs(after) do
            if is_slower(name, before[name], seconds, 2) then
                after[name] = math.min(seconds, measure_again()[name])
            end
        end
        compare(before, after, 2)
        return state
    end
]=]

local function is_as_fast(script)
    local output = child.run(PROLOGUE .. script)
    assert.matches("%[exit 0%]$", output)
    assert.is_nil(output:match("SLOWER"), output)
end

-- What may have happened in the state called `state`.
local events = {
    ["a call with 900000 arguments"] = "state:call(table.unpack({}, 1, 900000))",
    ["a call with 900000 results"] = "select('#', state:call('unpack', 900000))",
    ["a call that waits with 900000 values"] = "state:tcall(1, 'nothing', table.unpack({}, 1, 900000)) "
        .. "select('#', state:tcall(1, 'unpack', 900000))",
    ["a hundred large calls"] = "for i = 1, 100 do state:call('unpack', 5000 * i) end",
    ["a call of which an argument is refused"] =
        "local t = {} t[900000] = print assert(not pcall(state.call, state, table.unpack(t, 1, 900000)))",
    ["a setup with 400000 arguments and results"] = "mt.newstate('large', function(...) "
        .. "return function() end, ... end, table.unpack({}, 1, 400000))",
    ["ten thousand states"] = [[
        local states = {}
        for i = 1, 10000 do
            states[i] = mt.newstate("state " .. i % 5000, echo)
        end
        for i = 1, 10000 do
            states[i]:close()
        end
    ]],
    ["ten thousand states that the collector closed"] = [[
        local states = {}
        for i = 1, 10000 do
            states[i] = mt.newstate("state " .. i % 5000, false, echo)
        end
    ]],
    ["ten thousand names that were never found"] = [[
        for i = 1, 10000 do
            assert(not pcall(mt.state, "no such state " .. i) and not pcall(mt.state, -i))
        end
    ]],
    ["ten thousand failures"] = [[
        for i = 1, 10000 do
            assert(not pcall(mt.newstate, "failed", false, "error('x')"))
        end
    ]],
}

describe("everything is as fast as it was", function()
    for event, code in pairs(events) do
        it("after " .. event, function()
            is_as_fast(("history(function(state) %s end)"):format(code))
        end)
    end

    it("after a burst of 400 MB in small pieces in the state", function()
        is_as_fast([[
            history(function(state)
                state:call("burst", 400)
            end, "keep")
        ]])
    end)
end)

describe("8 MB in small pieces are made and dropped as fast as ever", function()
    -- `state`, in which the event happens, beside fresh ones that have as much to mark.
    local function are_made_as_fast(event)
        is_as_fast(([[
            local state, fresh, used = mt.newstate("worker", worker), 0, 0
            local function happen() %s end
            happen()
            local other = mt.newstate(worker)
            other:call("keep")
            for _ = 1, 3 do -- in all, since a single one may have luck
                fresh = fresh + other:call("fill", 8)
                used = used + state:call("fill", 8)
            end
            compare({ ["8 MB"] = fresh }, { ["8 MB"] = used }, 5)
        ]]):format(event))
    end

    for event, code in pairs({
        ["a burst of 400 MB"] = "state:call('burst', 400)",
        ["two bursts of 200 MB"] = "state:call('burst', 200) state:call('burst', 200)",
        ["a burst of 200 MB in another state"] = "local other = mt.newstate(worker) "
            .. "other:call('burst', 200) state:call('keep')",
        ["a call with 900000 arguments and results"] = "state:call(table.unpack({}, 1, 900000)) "
            .. "select('#', state:call('unpack', 900000))",
    }) do
        it("after " .. event, function()
            are_made_as_fast(code)
        end)
    end
end)

describe("an array", function()
    it("crosses as fast while a hundred thousand others have their elements in two states", function()
        is_as_fast([[
            local carray = require("carray")
            local function new() -- carray takes names of types, the tests' module numbers
                local ok, array = pcall(carray.new, 5, 1)
                return ok and array or carray.new("int", 1)
            end
            local state = mt.newstate(function() return function(array) return #array end end)
            local keeper = mt.newstate(function()
                local kept
                return function(all) kept = all return #kept end
            end)
            local function crossing()
                return { ["an array"] = least(1000, function() state:call(new()) end) }
            end
            local before, all = crossing(), {}
            for i = 1, 100000 do
                all[i] = new()
            end
            keeper:call(all)
            compare(before, crossing(), 5)
        ]])
    end)
end)
