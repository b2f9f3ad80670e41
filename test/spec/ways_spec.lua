-- Code that tries not to end, and interrupts and time limits that end it all the same. What is tried here may
-- hang or crash, so it is tried in child processes; ways.lua has the code.
local child = require("child")
local support = require("support")

local seconds = tonumber(os.getenv("MTSTATES_TEST_SECONDS") or 1.5)

-- For children: tries each way of those names with each of the stops, from the `first` of all these pairs on,
-- and prints how that went.
local function try(first, ...)
    local mtstates, support, uv = require("mtstates"), require("support"), require("luv") -- luacheck: ignore
    local PATIENCE = 3 * support.slowness -- seconds
    local ALLOWED = 0.05 * support.slowness -- seconds of processor time
    local INNOCENT_CALLS = 300
    local LIMIT = 0.03 * support.slowness -- seconds
    local ways = support.ways()

    local way, takes_one, notes, state, target, running
    local slowest -- processor time from a request to its strike, at most

    local function has(message)
        return message:find(mtstates.error.interrupted, 1, true)
    end

    -- Starts the way in a thread, and gives it time to get going.
    local function start(options)
        local _, count = notes:tcall(math.huge)
        running = support.thread_with({ stack_size = not way.deep and options.stack_size or nil },
            function(name_of_target, forgives, calls)
                local mt = require("mtstates")
                local outer = mt.state("outer")
                local _, message = pcall(outer.tcall, outer, math.huge, "run")
                local clock = os.clock()
                local hit = mt.state(name_of_target)
                if forgives then
                    hit:interrupt(false)
                end
                repeat -- a hook of its own may raise errors
                    local is_calm, why = pcall(hit.call, hit, "calm")
                    assert(is_calm or calls == 0 or not why:find(mt.error.interrupted, 1, true), why)
                until is_calm or calls == 0
                for i = 1, calls do
                    assert(hit:call("innocent", i) == i)
                end
                return ("%.9f %s"):format(clock, message)
            end, way.target or "outer", options.forgives or false, options.innocent_calls or 0)
        support.eventually(function()
            if way.target then
                return select(2, notes:tcall(math.huge)) > count
            end
            return not state:tcall(0)
        end)
        target = mtstates.state(way.target or "outer")
        uv.sleep(math.random(1, 3))
    end

    -- Sends a request. What came of it: "ended", "noted", "struck" where it may be without a note, or nil.
    local function send(flag)
        local _, count = notes:tcall(math.huge)
        local strikes = target:stats().interrupted
        local clock = os.clock()
        target:interrupt(flag)
        local effect = support.within(PATIENCE, function()
            return running.ended() and "ended"
                or not flag and select(2, notes:tcall(math.huge)) > count and "noted"
                or not flag and way.quiet and target:stats().interrupted > strikes and "struck"
        end)
        if effect == "struck" and support.within(0.01 * support.slowness, running.ended) then
            effect = "ended"
        end
        local struck
        if effect == "ended" then
            local ok, outcome = running.join()
            assert(ok, "later: " .. tostring(outcome))
            local message
            struck, message = outcome:match("^(%S+) (.*)")
            assert(has(message), "ended otherwise: " .. message)
        elseif effect == "noted" then
            struck = select(3, notes:tcall(math.huge))
        end
        slowest = struck and math.max(slowest, tonumber(struck) - clock) or slowest
        return effect
    end

    local function be_innocent()
        for _, handle in ipairs({ state, target }) do
            repeat
                local is_calm, why = pcall(handle.call, handle, "calm")
                assert(is_calm or not has(why), why)
            until is_calm
            for i = 1, INNOCENT_CALLS do
                assert(handle:call("innocent", i) == i)
            end
        end
    end

    -- One, and when it has struck another, and so on.
    local function send_singles()
        local is_endless = way.singles == math.huge
        local effect
        for i = 1, is_endless and 3 or way.quiet and 1 or math.max(way.singles, 2) do
            if i == 1 or effect == "ended" and (takes_one or is_endless) then
                start({ innocent_calls = takes_one and INNOCENT_CALLS })
            elseif effect == "ended" then
                break
            end
            effect = send()
            assert(effect, "number " .. i .. " was lost")
        end
        if effect == "noted" and not is_endless and not way.quiet
            and support.within(PATIENCE, running.ended) then
            effect = "ended" -- the last one may be noted on the way out
            assert(running.join())
        end
        assert(effect == "ended" or is_endless or way.quiet, "did not end it")
        if effect ~= "ended" then
            assert(send(true), "nor did true end it")
            target:interrupt(false)
        end
        be_innocent()
    end

    local function send_true()
        start({ stack_size = 256 * 1024 * (support.slowness > 1 and 8 or 1) }) -- sanitizers' frames are large
        assert(send(true), "did not end it")
        for i = 1, 3 do
            local ok, message = pcall(target.call, target, "innocent", i)
            assert(not ok and has(message), "did not last")
        end
        target:interrupt(false)
        be_innocent()
    end

    local function send_true_and_then_false()
        start({ forgives = true, innocent_calls = INNOCENT_CALLS })
        assert(send(true), "did not end it")
        be_innocent()
    end

    -- Nobody sends anything: the state's own limit ends it. How late is counted from when the limit strikes
    -- at every operation; who ends at the first strike is early.
    local function run_out_of_time()
        local begun = os.clock()
        local ok, message = pcall(state.call, state, "run")
        assert(not ok and message:find(mtstates.error.time_limit, 1, true), "ended otherwise: " .. message)
        slowest = os.clock() - begun - 2 * LIMIT
        target = state
        be_innocent()
    end

    -- Processor time of one overflow with a traceback. Nearly all of it goes to the growing of the stack and
    -- to the traceback, which are C functions and are not struck before they return: 0.05 s on one machine,
    -- and 0.2 to 3 s on another, whose system gave memory slowly.
    local function seconds_of_overflow()
        local begun = os.clock()
        local function f()
            return 1 + f()
        end
        xpcall(f, debug.traceback)
        return os.clock() - begun
    end

    -- Gives nil, or what went wrong; and how long it took.
    local function problem_with(stop)
        local took = {}
        local ALLOWED = ALLOWED + (way.overflows and seconds_of_overflow() or 0) -- luacheck: ignore
        repeat -- a single measurement says little on a machine that has other work, too
            notes, slowest = ways.notes(), 0
            state = ways.state(way, stop == run_out_of_time and LIMIT or nil)
            local ok, problem = pcall(stop)
            if not ok then
                return problem
            end
            state:close()
            notes:close()
            took[#took + 1] = slowest
            table.sort(took)
        until took[1] < ALLOWED and #took ~= 2 or #took == 3
        local median = took[(#took + 1) // 2]
        return median >= ALLOWED and "took too much processor time" or nil, median
    end

    local function say(...)
        print(...)
        io.stdout:flush()
    end

    local stops = { { "singles", send_singles }, { "true", send_true },
        { "true and then false", send_true_and_then_false }, { "time limit", run_out_of_time } }
    local number = 0
    math.randomseed(os.time())
    for _, name in ipairs({ ... }) do
        way = ways.named(name)
        takes_one = way.singles == 1 and not way.quiet
        for _, stop in ipairs(stops) do
            number = number + 1
            if number >= first then
                say("trying " .. stop[1] .. " of " .. name)
                local problem, took = problem_with(stop[2])
                if problem then
                    say(problem)
                    uv.kill(uv.os_getpid(), "sigkill") -- with whatever still runs
                end
                say(("done within %.3f ms"):format(took * 1e3))
            end
        end
    end
end

-- How it went with the ways of those names: a list of texts for each way, one for each stop that failed.
local function problems_with(names)
    local problems, number = {}, 1
    for _, name in ipairs(names) do
        problems[name] = {}
    end
    repeat
        local text = child.call(try, number, table.unpack(names))
        local _, begun = text:gsub("trying ", "")
        local _, done = text:gsub("done within ", "")
        if done < begun then
            local stop, name, problem = text:match(".*trying (.-) of ([^\n]*)\n(.*)")
            table.insert(problems[name], stop .. ": " .. problem)
        end
        number = number + begun
        local is_over = text:match("%[exit 0%]$")
        assert(is_over or done < begun, text)
    until is_over
    return problems
end

describe("code that keeps running by", function()
    local PER_CHILD = support.slowness > 1 and 5 or 20
    local ways, problems = support.ways(), {}

    -- Tries the ways from number `i` on together, since a process takes a while to start.
    local function try_from(i)
        local names = {}
        for k = i, math.min(i + PER_CHILD - 1, #ways) do
            names[#names + 1] = ways[k].name
        end
        for name, found in pairs(problems_with(names)) do
            problems[name] = found
        end
    end

    for i, way in ipairs(ways) do
        it(way.name .. " is ended by interrupts and by a time limit, and nothing is left of them", function()
            if not problems[way.name] then
                try_from(i)
            end
            assert.same({}, problems[way.name])
        end)
    end
end)

-- For children: sends so many singles to the way of that name, each when the one before has been noted.
local function count_singles(name, count)
    local mtstates, support, uv = require("mtstates"), require("support"), require("luv") -- luacheck: ignore
    local PATIENCE = 2 * support.slowness
    local ways = support.ways()
    local notes, state = ways.notes(), ways.state(ways.named(name))
    local thread = support.thread(function()
        local mt = require("mtstates")
        local outer, book = mt.state("outer"), mt.state("notes")
        repeat -- one may strike where the way's own code does not catch it
            local _, message, result = pcall(outer.tcall, outer, math.huge, "run")
            if not tostring(message):find(mt.error.interrupted, 1, true) then
                return ('ended otherwise: %s %s'):format(message, result)
            end
            book:tcall(math.huge, os.clock())
        until pcall(mt.state, "enough")
    end)
    support.eventually(function()
        return not state:tcall(0)
    end)
    local noted, late = 0, 0
    for i = 1, count do
        local deadline = uv.hrtime() + PATIENCE * 1e9
        local clock = os.clock()
        local struck
        state:interrupt()
        while noted < i do
            uv.sleep(0)
            noted, struck = select(2, notes:tcall(math.huge))
            if uv.hrtime() > deadline then
                print("number " .. i .. " was lost")
                if thread.ended() then
                    print(thread.join())
                end
                io.stdout:flush()
                uv.kill(uv.os_getpid(), "sigkill")
            end
        end
        assert(noted == i, "one struck twice")
        late = late + (struck - clock > 0.05 * support.slowness and 1 or 0)
    end
    assert(late <= 1 + count // 200, "too many struck late") -- for machines that have other work, too
    local enough = mtstates.newstate("enough", "return function() end")
    state:interrupt(true)
    print(thread.join())
    enough:close()
end

describe("of the singles sent to", function()
    for _, way in ipairs(support.ways()) do
        if way.countless then
            it(way.name .. " none is lost, and each strikes once", function()
                assert.equal("true\tnil\n[exit 0]",
                    child.call(count_singles, way.name, seconds < 30 and 500 or 10000))
            end)
        end
    end
end)

-- For children: interrupts a loop with something to be closed. Prints how many of the handlers came to their
-- end by a single, while true lasted, and by a single after that.
local function close(where)
    local mtstates, support = require("mtstates"), require("support") -- luacheck: ignore
    local ways = support.ways()
    local closing = ways.closings[where]
    local notes, state = ways.notes(), ways.state(closing)
    local counts = {}
    for i, flag in ipairs({ "single", "true", "single" }) do
        local before = notes:call()
        local thread = support.thread(function()
            local outer = require("mtstates").state("outer")
            outer:tcall(math.huge, "run")
        end)
        support.eventually(function()
            local _, count = notes:tcall(math.huge)
            return count > before
        end)
        local target = mtstates.state(closing.target or "outer")
        if flag == "true" then
            target:interrupt(true)
        else
            target:interrupt()
        end
        local ok, message = thread.join()
        assert(not ok and message:find(mtstates.error.interrupted, 1, true), message)
        target:interrupt(false)
        counts[i] = notes:call() - before - 1
    end
    print(table.unpack(counts))
    state:close()
end

describe("what is to be closed", function()
    for where, closing in pairs(support.ways().closings) do
        it(where .. " is closed whole after a single, and cut short by true", function()
            local uncut = closing.target and 1 or 0 -- in the state that is not interrupted
            assert.equal(("%d\t%d\t%d\n[exit 0]"):format(closing.whole, uncut, closing.whole),
                child.call(close, where))
        end)
    end
end)

-- For children: interrupts a state that has hooks of that kind in its main code and in two of three
-- coroutines. Prints what they are after many singles and after true, if it is not what it was.
local function keep_hooks(mask, count)
    local mtstates, support = require("mtstates"), require("support") -- luacheck: ignore
    local MAIN = 4
    local begun = support.adder("begun")
    local state = mtstates.newstate("hooked", function(mask, count, main) -- luacheck: ignore
        local events, hooks, coroutines = {}, {}, {}
        local begun = require("mtstates").state("begun") -- luacheck: ignore

        local function forever()
            begun:tcall(math.huge, 1)
            while true do
                os.time() -- for the thread sanitizer
            end
        end

        local function count_events(i)
            local before = events[i]
            for _ = 1, 5000 do
                math.abs(1)
            end
            return events[i] - before
        end

        -- First with the hook as it was left, then as it is set anew: a hook's own instructions count, so how
        -- often it comes depends on where its count begins.
        local function tell(i)
            local hook, its_mask, its_count = debug.gethook()
            local comes = count_events(i) > 0
            if hook then
                debug.sethook(hook, its_mask, its_count)
            end
            return hook == hooks[i], its_mask, its_count, comes, count_events(i)
        end

        local function do_as_told(i)
            if hooks[i] then
                debug.sethook(hooks[i], mask, count)
            end
            local answer = {}
            while true do
                local what = coroutine.yield(table.unpack(answer))
                answer = { (what == "loop" and pcall or tell)(what == "loop" and forever or i) }
            end
        end

        for i = 1, main do
            events[i] = 0
            if mask ~= "none" and i ~= 2 then
                hooks[i] = function() events[i] = events[i] + 1 end
            end
            coroutines[i] = coroutine.create(do_as_told)
            if i ~= main then
                coroutine.resume(coroutines[i], i)
            elseif hooks[i] then
                debug.sethook(hooks[i], mask, count)
            end
        end
        return function(what, i)
            if i == main then
                return (what == "loop" and pcall or tell)(what == "loop" and forever or i)
            end
            return select(2, assert(coroutine.resume(coroutines[i], what)))
        end
    end, mask, count, MAIN)

    local function interrupt(i, flag)
        local before = begun:call()
        local thread = support.thread(function(n)
            local hooked = require("mtstates").state("hooked")
            local _, ok, message = hooked:tcall(math.huge, "loop", n)
            return not ok and message
        end, i)
        support.eventually(function()
            return select(2, begun:tcall(math.huge)) > before
        end)
        state:interrupt(flag)
        local _, message = thread.join()
        assert(tostring(message):find(mtstates.error.interrupted, 1, true), message)
    end

    local before = {}
    local function compare()
        for i = 1, MAIN do
            local now = { state:call("tell", i) }
            local was = before[i] or now
            before[i] = was
            if now[1] ~= true or now[2] ~= was[2] or now[3] ~= was[3] or now[4] ~= was[4]
                or math.abs(now[5] - was[5]) > 2 then
                print(i, "was", table.unpack(was))
                print(i, "is", table.unpack(now))
            end
        end
    end

    compare()
    for _ = 1, 5 do
        for i = 1, MAIN do
            interrupt(i)
        end
    end
    compare()
    interrupt(MAIN, true)
    state:interrupt(false)
    compare()
    state:close()
end

-- For children: prints after how many of so many interrupts by true, which may arrive in the hook or just
-- as it is due, a hook that counts single operations no longer comes.
local function keep_count(rounds)
    local mtstates, support = require("mtstates"), require("support") -- luacheck: ignore
    local begun = support.adder("begun")
    local state = mtstates.newstate("counted", function()
        local events, begun = 0, require("mtstates").state("begun") -- luacheck: ignore
        local function hook()
            events = events + 1
        end
        local function forever()
            begun:tcall(math.huge, 1)
            while true do
                os.time()
            end
        end
        debug.sethook(hook, "", 1)
        return function(what)
            if what == "loop" then
                return pcall(forever)
            end
            local before = events
            for _ = 1, 100 do
                math.abs(1)
            end
            local comes = events > before
            debug.sethook(hook, "", 1)
            return comes
        end
    end)
    local lost = 0
    for _ = 1, rounds do
        local before = begun:call()
        local thread = support.thread(function()
            local counted = require("mtstates").state("counted")
            pcall(counted.tcall, counted, math.huge, "loop")
        end)
        support.eventually(function()
            return select(2, begun:tcall(math.huge)) > before
        end)
        state:interrupt(true)
        assert(thread.join())
        state:interrupt(false)
        lost = lost + (state:call("tell") and 0 or 1)
    end
    print(lost)
end

-- For children: interrupts code that makes coroutines, and prints how many of them have a hook afterwards.
local function make_coroutines()
    local mtstates, support = require("mtstates"), require("support") -- luacheck: ignore
    local state = mtstates.newstate("making", function()
        local coroutines = {}
        return function(what)
            while what == "make" do
                coroutines[#coroutines % 10000 + 1] = coroutine.create(os.time)
                coroutine.wrap(os.time)()
            end
            local hooked = 0
            for _, co in ipairs(coroutines) do
                hooked = hooked + (debug.gethook(co) and 1 or 0)
            end
            return hooked
        end
    end)
    for _ = 1, 100 do
        local thread = support.thread(function()
            local making = require("mtstates").state("making")
            making:tcall(math.huge, "make")
        end)
        support.eventually(function()
            return not state:tcall(0)
        end)
        state:interrupt()
        local ok, message = thread.join()
        assert(not ok and message:find(mtstates.error.interrupted, 1, true), message)
    end
    print(state:call())
end

describe("hooks of a state's own", function()
    for name, kind in pairs({ ["none at all"] = { "none", 0 }, ["by line"] = { "l", 0 },
        ["by count 1"] = { "", 1 }, ["by count 1000"] = { "", 1000 }, ["by count 2e9"] = { "", 2000000000 },
        ["by call"] = { "c", 0 }, ["by return"] = { "r", 0 }, ["by everything"] = { "crl", 7 } }) do
        it(name .. " are what they were after interrupts, and their events arrive", function()
            assert.equal("[exit 0]", child.call(keep_hooks, table.unpack(kind)))
        end)
    end

    it("come for their count after interrupts that arrive just as they are due", function()
        assert.equal("0\n[exit 0]", child.call(keep_count, 3000 // support.slowness))
    end)

    it("are not in coroutines that were made while interrupts struck", function()
        assert.equal("0\n[exit 0]", child.call(make_coroutines))
    end)
end)

-- For children: prints how many of twenty stays that come at once after one that was interrupted end well,
-- though they take longer than it takes to send a request again.
local function stay_long()
    local mtstates, support, uv = require("mtstates"), require("support"), require("luv") -- luacheck: ignore
    local state = mtstates.newstate("often interrupted", function()
        return function(loops)
            local deadline = os.clock() + 0.025
            repeat
                os.time()
            until not loops and os.clock() > deadline
            return 1
        end
    end)
    local ended_well = 0
    for _ = 1, 20 do
        local thread = support.thread(function()
            local often = require("mtstates").state("often interrupted")
            assert(not pcall(often.tcall, often, math.huge, true))
            return often:call(false)
        end)
        support.eventually(function()
            return not state:tcall(0, false)
        end)
        uv.sleep(1)
        state:interrupt()
        local _, ends = thread.join()
        ended_well = ended_well + ends
    end
    print(ended_well)
end

-- For children: sends a single to a thread that waits for 0.3 seconds in a state. Prints whether it did that,
-- whether it was interrupted then, and what there is to be read afterwards.
local function wait_inside(how)
    local mtstates, support, uv = require("mtstates"), require("support"), require("luv") -- luacheck: ignore
    local busy, release = support.busy_state("busy")
    local start = uv.hrtime()
    local state = mtstates.newstate("waiting", function(how) -- luacheck: ignore
        local luv, busy = require("luv"), require("mtstates").state("busy") -- luacheck: ignore
        local pipe = how == "read" and io.popen("sleep 0.3; echo one; echo two")
        local waits = {
            ["luv.sleep"] = function() luv.sleep(300) end,
            ["os.execute"] = function() os.execute("sleep 0.3") end,
            ["tcall"] = function() busy:tcall(0.3) end,
            ["read"] = function() return pipe:read("l") end,
        }
        return function(is_told)
            return is_told and waits[how]() or "well"
        end
    end, how)
    local thread = support.thread(function()
        local waiting = require("mtstates").state("waiting")
        waiting:tcall(math.huge, true)
    end)
    support.eventually(function()
        return not state:tcall(0)
    end)
    uv.sleep(50)
    state:interrupt()
    local ok, message = thread.join()
    print(uv.hrtime() - start >= 0.3e9, not ok and message:match("error.interrupted"),
        state:call(how == "read"))
    release()
    busy:close()
end

-- For children: sends singles to a state that a thread of cqueues calls again and again.
local function call_by_cqueues()
    local mtstates, support = require("mtstates"), require("support") -- luacheck: ignore
    local state = mtstates.newstate("called", function()
        return function(what)
            while not what do
                os.time()
            end
        end
    end)
    local running = require("cqueues.thread").start(function()
        local mt = require("mtstates")
        local called = mt.state("called")
        for _ = 1, 20 do
            local ok, message = pcall(called.tcall, called, math.huge)
            assert(not ok and message:match(mt.error.interrupted), message)
        end
    end)
    repeat
        if not state:tcall(0, "idle") then
            state:interrupt()
        end
    until running:join(0.001)
    print(running:join())
end

describe("an interrupt", function()
    it("does not strike the next stay, however long that takes", function()
        assert.equal("20\n[exit 0]", child.call(stay_long))
    end)

    for how, rest in pairs({ ["luv.sleep"] = "well", ["os.execute"] = "well", ["tcall"] = "well",
        ["read"] = "two" }) do
        it("strikes a thread in " .. how .. " when it is back, and does not disturb it there", function()
            assert.equal("true\terror.interrupted\t" .. rest .. "\n[exit 0]", child.call(wait_inside, how))
        end)
    end

    it("strikes a thread of cqueues, where all signals are blocked", function()
        assert.equal("true\tnil\n[exit 0]", child.call(call_by_cqueues))
    end)
end)
