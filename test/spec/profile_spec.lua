local json = require("dkjson")
local mtstates = require("mtstates")
local support = require("support")

local profile = mtstates.profile

-- States that spend their time in known places; the callback runs for about so many seconds. The clock
-- is read at the beginning only: some virtual machines deliver signals at system calls first of all.
local function worker()
    local clock = os.clock
    -- The thread sanitizer delivers signals at calls of libc.
    local breathe = os.getenv("MTSTATES_TEST_TSAN") and os.time or function() end
    local function spin() -- line 13
        local x = 0
        for i = 1, 2000 do x = x + i % 7 end
        breathe()
        return x
    end
    local function rounds(round, seconds)
        local first, least = 20, math.huge
        for _ = 1, 5 do -- something else may have had the processor
            local start = clock()
            for _ = 1, first do round() end
            least = math.min(least, clock() - start)
        end
        return seconds * first / least // 1
    end
    function spinning(seconds) -- luacheck: ignore
        for _ = 1, rounds(spin, seconds) do
            spin()
        end
    end
    local function shuffled()
        local list = {}
        for i = 1, 3000 do list[i] = i * 7919 % 3000 end
        table.sort(list)
    end
    local function collatz()
        local n = 97
        while n ~= 1 do n = n % 2 == 0 and n // 2 or 3 * n + 1 end
    end
    local function sorting(seconds)
        for _ = 1, rounds(shuffled, seconds) do
            shuffled()
        end
    end
    local jobs = {
        spin = function(seconds) spinning(seconds) end, -- luacheck: ignore
        sort = function(seconds) sorting(seconds) end,
        collatz = function(seconds)
            for _ = 1, rounds(collatz, seconds) do
                collatz()
            end
        end,
        coroutines = function(seconds)
            local outer = coroutine.wrap(function()
                local inner = coroutine.create(function() spinning(seconds) end) -- luacheck: ignore
                assert(coroutine.resume(inner))
            end)
            outer()
        end,
        nothing = function() end,
        sleep = function(milliseconds) require("luv").sleep(milliseconds) end,
        wait = function(id) require("mtstates").state(id):tcall(math.huge, "nothing") end,
        once = function() collatz() end,
        alternate = function(turns, id)
            local other = id and require("mtstates").state(id)
            local co = coroutine.create(function() while true do collatz() coroutine.yield() end end)
            for _ = 1, turns do
                collatz()
                if other then other:call("once") else coroutine.resume(co) end
            end
        end,
        call = function(_, id, ...) require("mtstates").state(id):call(...) end,
        recurse = function(seconds, depth)
            local function down(n)
                if n == 0 then spinning(seconds) return 0 end -- luacheck: ignore
                return 1 + down(n - 1)
            end
            return down(depth)
        end,
    }
    return function(job, ...)
        return (jobs[job] or error("no such job"))(...)
    end
end

-- Seconds by stack, a string.
local function read_folded(text)
    local seconds, all = {}, 0
    for line in text:gmatch("[^\n]+") do
        local stack, microseconds = line:match("^(.*) (%d+)$")
        assert(stack and not seconds[stack], line)
        seconds[stack] = microseconds / 1e6
        all = all + microseconds / 1e6
    end
    return seconds, all
end

-- The part of the time in stacks that have the pattern.
local function share(text, pattern)
    local seconds, all = read_folded(text)
    local part = 0
    for stack, s in pairs(seconds) do
        part = part + (stack:find(pattern) and s or 0)
    end
    return all > 0 and part / all or 0
end

-- The profile of what `body(...)` does.
local function profile_of(options, body, ...)
    profile.start(options)
    local ok, err = pcall(body, ...)
    local taken = profile.stop()
    assert(ok, err)
    return taken
end

-- The sanitizers' runtimes let signals in late, or do system calls, where they come first.
local is_exact = support.slowness == 1

describe("a profile", function()
    it("tells how the time is split between states and functions", function()
        local a <close> = mtstates.newstate({ name = "a", timing = true }, worker)
        local b <close> = mtstates.newstate({ name = "b", timing = true }, worker)
        local c <close> = mtstates.newstate({ name = "c", timing = true }, worker)
        local before = { a:stats().inside_seconds, b:stats().inside_seconds, c:stats().inside_seconds }
        local taken = profile_of({ interval = 0.002 }, function()
            for _ = 1, 15 do
                a:call("spin", 0.05)
                b:call("sort", 0.03)
                c:call("collatz", 0.02)
            end
        end)
        local inside, all = {}, 0
        for i, state in ipairs({ a, b, c }) do
            inside[i] = state:stats().inside_seconds - before[i]
            all = all + inside[i]
        end
        local folded = taken:folded()
        for i, pattern in ipairs({ "^state a;.*;spinning %(", "^state b;.*;sorting %(", "^state c;" }) do
            local part = share(folded, pattern)
            assert.is_true(not is_exact or math.abs(part - inside[i] / all) < 0.1 * inside[i] / all + 0.01,
                ("%s: %.3f of %.3f\n%s"):format(pattern, part, inside[i] / all, folded))
        end
        local stats = taken:stats()
        assert.is_true(stats.samples > 0 and stats.lost == 0 and stats.threads == 1)
        assert.same({ 0.002, 64 }, { stats.interval, stats.depth })
        assert.is_true(stats.seconds >= 1)
    end)

    it("shows functions of C, coroutines and those that resumed them, and states around", function()
        local a <close> = mtstates.newstate("a", worker)
        local b <close> = mtstates.newstate("b", worker)
        local folded = profile_of({ interval = 0.001 }, function()
            b:call("sort", 0.3)
            a:call("call", nil, b:id(), "coroutines", 0.3)
        end):folded()
        if not is_exact then return end
        assert.matches("\nstate b;[^\n]*;sorting %([^\n]*;sort %[C%] %d", "\n" .. folded)
        local stack = table.concat({ "state a", "function <[^;\n]*", "call %[C%]", "state b",
            "function <[^;\n]*", "outer %[C%]", "function <[^;\n]*", "resume %[C%]", "function <[^;\n]*",
            "spinning %([^;\n]*", "%a+ %(" }, ";")
        assert.is_truthy(folded:find(stack), folded)
    end)

    it("tells time in short stays and short coroutines as in long ones, and where they only wait", function()
        local short <close> = mtstates.newstate({ name = "short", timing = true }, worker)
        local long <close> = mtstates.newstate({ name = "long", timing = true }, worker)
        local before = { short:stats().inside_seconds, long:stats().inside_seconds }
        local folded = profile_of({ interval = 0.001 }, function()
            for _ = 1, 100000 do short:call("nothing") end
            long:call("spin", 0.3)
        end):folded()
        local inside = { short:stats().inside_seconds - before[1], long:stats().inside_seconds - before[2] }
        local part, truth = share(folded, "^state short"), inside[1] / (inside[1] + inside[2])
        assert.is_true(not is_exact or math.abs(part - truth) < 0.15, ("%.3f of %.3f"):format(part, truth))

        -- A coroutine, and another state, that work for as short a time as their caller.
        local turns = is_exact and 60000 or 300
        local of_coroutine = profile_of({ interval = 0.001 }, long.call, long, "alternate", turns):folded()
        local of_states = profile_of({ interval = 0.001 }, long.call, long, "alternate", turns, short:id())
            :folded()
        if is_exact then
            local in_coroutine = share(of_coroutine, ";resume %[C%];")
            local in_state = share(of_states, ";state short")
            assert.is_true(in_coroutine > 0.3 and in_coroutine < 0.7, of_coroutine)
            assert.is_true(in_state > 0.3 and in_state < 0.7, of_states)
        end

        -- The time of waiting is the waiting function's.
        local thread = support.thread(function(id)
            require("mtstates").state(id):call("sleep", 300)
        end, short:id())
        support.eventually(function() return short:stats().busy end)
        local waiting = profile_of({ interval = 0.001 }, long.call, long, "wait", short:id()):folded()
        assert(thread.join())
        assert.is_true(not is_exact or share(waiting, "^state long;.*;tcall %[C%]$") > 0.4, waiting)
    end)

    it("shows states that are called back with those that they called", function()
        local a <close> = mtstates.newstate("a", worker)
        local b <close> = mtstates.newstate("b", worker)
        local folded = profile_of({ interval = 0.001, states = { b } }, a.call, a, "call", nil, b:id(),
            "call", nil, a:id(), "spin", 0.2):folded()
        assert.is_true(not is_exact or share(folded, "^state a;state b;") > 0.9, folded)
    end)

    it("is of the states and pools that were asked for, and what they call", function()
        local a <close> = mtstates.newstate("a", worker)
        local b <close> = mtstates.newstate("b", worker)
        local pool <close> = mtstates.newpool({ name = "p", size = 1 }, worker)
        local function work()
            a:call("call", nil, b:id(), "spin", 0.1)
            b:call("sort", 0.1)
            pool:call("spin", 0.1)
        end
        local of_a = profile_of({ interval = 0.001, states = { a } }, work):folded()
        local of_pool = profile_of({ interval = 0.001, states = { pool } }, work):folded()
        assert.is_nil(of_a:match("sorting") or of_a:match("pool"))
        assert.is_nil(of_pool:match("state"))
        if is_exact then
            assert.is_true(share(of_a, "^state a;.*;state b;") > 0.5, of_a)
            assert.is_true(share(of_pool, "^pool p;.*;spinning %(") > 0.5, of_pool)
        end
    end)

    it("leaves out what is deeper than was asked for", function()
        local a <close> = mtstates.newstate("a", worker)
        local folded = profile_of({ interval = 0.001, depth = 5 }, a.call, a, "recurse", 0.2, 50):folded()
        for stack in pairs(read_folded(folded)) do
            local _, frames = stack:gsub(";", "")
            assert.is_true(frames <= 6, stack)
        end
        if is_exact then
            assert.matches("state a;%.%.%.;down %(", folded)
        end
    end)

    it("is of all threads, one of which may have begun it and another end it", function()
        local thread = support.thread(function()
            require("mtstates").profile.start({ interval = 0.001 })
        end)
        assert(thread.join())
        local a <close> = mtstates.newstate("a", worker)
        local b <close> = mtstates.newstate("b", worker)
        local other = support.thread(function(id)
            require("mtstates").state(id):call("spin", 0.6)
        end, a:id())
        b:call("spin", 0.6)
        assert(other.join())
        local taken = profile.stop()
        if is_exact then
            local folded = taken:folded()
            assert.is_true(share(folded, "^state a;") > 0.05 and share(folded, "^state b;") > 0.05, folded)
            assert.equal(2, taken:stats().threads)
        end
    end)

    it("keeps what it saw of threads that have ended, and of states that are closed", function()
        local taken = profile_of({ interval = 0.001 }, function()
            for i = 1, 10 do
                local state <close> = mtstates.newstate("s" .. i % 2, worker)
                local thread = support.thread(function(id)
                    require("mtstates").state(id):call("spin", 0.05)
                end, state:id())
                assert(thread.join())
            end
            collectgarbage()
        end)
        if is_exact then
            assert.is_true(taken:stats().threads >= 10) -- this one makes the states
            assert.is_true(share(taken:folded(), "^state s[01];") > 0.9)
        end
    end)

    it("counts nothing outside of states", function()
        local stop = os.clock() + 0.1
        local taken = profile_of({ interval = 0.001 }, function()
            repeat until os.clock() > stop
        end)
        assert.equal(0, taken:stats().samples)
        assert.equal("", taken:folded())
        assert.matches("^0 samples", taken:top())
        assert.equal(0, #json.decode(taken:speedscope()).profiles)
    end)
end)

describe("what a profile is written as", function()
    local taken, state, inside
    setup(function()
        state = mtstates.newstate({ name = 'a;\n"\\\xff', timing = true }, worker)
        local before = state:stats().inside_seconds
        taken = profile_of({ interval = 0.001 }, state.call, state, "spin", 0.2)
        inside = state:stats().inside_seconds - before
    end)
    teardown(function()
        state:close()
    end)

    it("is folded stacks", function()
        local _, all = read_folded(taken:folded())
        assert.is_true(not is_exact or all > inside / 2 and all < 2 * inside)
        assert.is_true(not is_exact or taken:folded():find([[state a,\x0a"\\xff;]], 1, true) ~= nil)
    end)

    it("is JSON for speedscope, whose threads share frames", function()
        local read = assert(json.decode(taken:speedscope()))
        assert.equal("https://www.speedscope.app/file-format-schema.json", read["$schema"])
        for _, thread in ipairs(read.profiles) do
            assert.same({ "sampled", "nanoseconds", 0 }, { thread.type, thread.unit, thread.startValue })
            assert.equal(#thread.samples, #thread.weights)
            local sum = 0
            for i, stack in ipairs(thread.samples) do
                sum = sum + thread.weights[i]
                for _, frame in ipairs(stack) do
                    assert.is_string(read.shared.frames[frame + 1].name)
                end
            end
            assert.equal(sum, thread.endValue)
        end
        if is_exact then
            local names = {}
            for _, frame in ipairs(read.shared.frames) do
                names[frame.name] = frame
            end
            assert.matches("profile_spec%.lua$", names.spinning.file)
            assert.is_truthy(names['state a;\n"\\\\xff'])
        end
    end)

    it("is what google's pprof reads", function()
        local path = os.tmpname() .. ".pb"
        taken:write(path)
        local pprof <close> = assert(io.popen(("unset LD_PRELOAD; export HOME=/tmp; " ..
            "/usr/lib/go-1.19/bin/go tool pprof -top -unit=ms %s 2>&1"):format(path)))
        local text = pprof:read("a")
        os.remove(path)
        if is_exact then
            assert.matches("Type: time", text)
            assert.matches("ms%s+[%d.]+%%%s+spin\n", text)
        end
    end)

    it("is a table for people", function()
        local text = taken:top()
        assert.matches("^%d+ samples, [%d.]+ s in states, by %d threads in [%d.]+ s\n   self   total  fun",
            text)
        if is_exact then
            assert.matches("%d%%%s+%d[%d.]+%%  spin %(.*profile_spec%.lua:13%), most at line 15", text)
            local _, rows = taken:top(1):gsub("\n", "")
            assert.equal(3, rows)
        end
    end)

    it("goes into a file by its name", function()
        local path = os.tmpname()
        local expected = { [".folded"] = taken:folded(), [".txt"] = taken:folded(), [".pb"] = taken:pprof(),
            [".json"] = taken:speedscope() }
        for extension, text in pairs(expected) do
            taken:write(path .. extension)
            local file <close> = assert(io.open(path .. extension, "rb"))
            assert.equal(text, file:read("a"))
            os.remove(path .. extension)
        end
        os.remove(path)
        assert.matches("cannot write /nowhere/x%.json: No such file",
            support.error_of(taken.write, taken, "/nowhere/x.json"))
        assert.matches("bad argument #2 to 'write' %(/tmp/x: the name has to end with",
            support.error_of(taken.write, taken, "/tmp/x"))
    end)
end)

describe("while a profile is taken", function()
    before_each(function()
        profile.start({ interval = 0.001 })
    end)
    after_each(function()
        pcall(profile.stop)
    end)

    it("no other one is, and none is after its end", function()
        assert.matches("taken already: end it by mtstates%.profile%.stop", support.error_of(profile.start))
        profile.stop()
        assert.matches("no profile is being taken: begin one by", support.error_of(profile.stop))
    end)

    it("interrupts and time limits strike as before", function()
        local a <close> = mtstates.newstate("a", worker)
        local thread = support.thread(function(id)
            return (pcall(require("mtstates").state(id).call, require("mtstates").state(id), "spin", 60))
        end, a:id())
        support.eventually(function() return a:stats().busy end)
        require("luv").sleep(20)
        a:interrupt()
        assert.same({ true, false }, { thread.join() })
        assert.equal(1, a:stats().interrupted)
        local limited <close> = mtstates.newstate({ name = "limited", time_limit = 0.05 }, worker)
        assert.matches("time_limit", support.error_of(limited.call, limited, "spin", 60))
        limited:call("spin", 0.001)
    end)

    it("hooks of the code's own come as often as without, and it sees none but these", function()
        local a <close> = mtstates.newstate("a", function()
            return function(n)
                local counted, lines, calls = 0, 0, 0
                local function on_count() counted = counted + 1 end
                local function on_event(event)
                    if event == "line" then lines = lines + 1 else calls = calls + 1 end
                end
                local function f(x)
                    return x
                end
                local function work()
                    for i = 1, n do
                        f(i)
                        if i % 1000 == 0 then
                            os.time()
                        end
                    end
                end
                debug.sethook(on_count, "", 1000)
                work()
                debug.sethook()
                debug.sethook(on_event, "lcr")
                work()
                debug.sethook()
                debug.sethook(on_count, "l", 100000007)
                for _ = 1, n do
                    local hook, mask, count = debug.gethook()
                    if hook ~= on_count or mask ~= "l" or count ~= 100000007 then
                        error("gethook sees " .. tostring(hook) .. " " .. mask .. " " .. count)
                    end
                    local co = coroutine.create(f)
                    if debug.gethook(co) ~= nil and debug.gethook(co) ~= on_count then
                        error("a coroutine has " .. tostring(debug.gethook(co)))
                    end
                end
                debug.sethook()
                return counted, lines, calls
            end
        end)
        local n = is_exact and 100000 or 2000
        local with = { a:call(n) }
        local taken = profile.stop()
        local without = { a:call(n) }
        assert.same(without, with)
        assert.is_true(not is_exact or taken:stats().samples > 20)
    end)

    it("code in a hook, in finalizers, in setup and at the end may do anything", function()
        local state <close> = mtstates.newstate(function()
            local mt = require("mtstates")
            local ok, message
            setmetatable({}, { __gc = function() ok, message = pcall(mt.profile.stop) end })
            collectgarbage()
            assert(not ok and message:find("a profile cannot be ended in a finalizer"), message)
            debug.sethook(function() for i = 1, 10 do local _ = i end end, "l")
            return function() return (pcall(mt.profile.stop)) end
        end)
        assert.is_true(state:call())
        assert.matches("no profile", support.error_of(profile.stop))
    end)

    it("states come and go, and functions too", function()
        local stop = os.clock() + 0.3
        repeat
            local state <close> = mtstates.newstate(function()
                return function(n)
                    for i = 1, n do
                        local f = load("local x = 0 for i = 1, 100 do x = x + i end return x", "=chunk" .. i)
                        f()
                    end
                end
            end)
            state:call(50)
        until os.clock() > stop
        local folded = profile.stop():folded()
        assert.is_true(not is_exact or folded:find("main chunk (chunk", 1, true) ~= nil)
    end)
end)

describe("mtstates.profile.start", function()
    local function refused(pattern, options)
        assert.matches(pattern, support.error_of(profile.start, options))
        assert.matches("no profile", support.error_of(profile.stop))
    end

    it("refuses what is no option", function()
        refused("bad argument #1 to 'start' %(table or nil expected, got number%)", 1)
        refused("unknown option 'x'", { x = 1 })
        for _, interval in ipairs({ 0, -1, 2, 0.0001, 0 / 0, math.huge }) do
            refused("option 'interval': a number from 0.001 to 1 expected", { interval = interval })
        end
        refused("option 'interval': number expected, got string", { interval = "0.1" })
        for _, depth in ipairs({ 0, 201, 1.5, math.huge }) do
            refused("option 'depth': an integer from 1 to 200 expected", { depth = depth })
        end
        refused("option 'states': table expected, got string", { states = "a" })
        refused("option 'states': the list is empty", { states = {} })
        refused("option 'states': %[2%] is no handle of a state or a pool",
            { states = { mtstates.newstate(support.echo), io.stdout } })
    end)

    it("gives objects that refuse what is none, and ends", function()
        profile.start()
        local taken = profile.stop()
        for _, method in ipairs({ "folded", "speedscope", "pprof", "top", "write", "stats" }) do
            assert.matches("mtstates%.profile expected, got string", support.error_of(taken[method], "x"))
        end
        assert.matches("a number of functions expected", support.error_of(taken.top, taken, 0))
        assert.equal("mtstates.profile", mtstates.type(taken))
        assert.is_false(getmetatable(taken))
    end)
end)

describe("mtstates-profile", function()
    local function read_and_remove(path)
        local file <close> = assert(io.open(path, "rb"))
        os.remove(path)
        return file:read("a")
    end

    -- Runs a program that is busy in a state and then does `last`; what it printed, and how it ended.
    local function run(options, last, ...)
        local path = os.tmpname()
        local file <close> = assert(io.open(path, "w"))
        file:write([[
            local mtstates = require("mtstates")
            local busy = mtstates.newstate("busy", function()
                return function(n)
                    local x = 0
                    for i = 1, n do
                        x = x + i % 7
                        if i % 10000 == 0 then os.time() end -- see above
                    end
                end
            end)
            for _ = 1, 20 do busy:call(1000000) end
            print(#arg, ...)
            ]], last)
        file:close()
        local _, how, status = os.execute(("lua5.4 src/mtstates-profile.lua %s %s %s >%s.out 2>&1")
            :format(options, path, table.concat({ ... }, " "), path))
        os.remove(path)
        return read_and_remove(path .. ".out"), ("%s %d"):format(how, status)
    end

    it("prints a table when a program ends, however that is", function()
        local text, how = run("", "", "a", "b")
        assert.matches("^2\ta\tb\n%d+ samples, .*100%.0%%  state busy", text)
        assert.equal("exit 0", how)
        text, how = run("-i 0.002", "os.exit(7)")
        assert.matches("samples, .*state busy", text)
        assert.equal("exit 7", how)
        text, how = run("", "error('oh')")
        assert.matches("samples, .*state busy.*mtstates%-profile: .*: oh\nstack traceback", text)
        assert.equal("exit 1", how)
    end)

    it("writes a file, unless the program has ended the profile", function()
        local path = os.tmpname()
        assert.equal("0\n", (run("-o " .. path .. ".folded", "")))
        assert.matches("\nstate busy;", "\n" .. read_and_remove(path .. ".folded"))
        assert.equal("0\n", (run("-o " .. path .. ".folded", "mtstates.profile.stop()")))
        assert.equal("", read_and_remove(path .. ".folded"))
        os.remove(path)
    end)

    it("refuses what it does not understand", function()
        local function refused(pattern, options)
            local text, how = run(options, "")
            assert.matches("^mtstates%-profile: .*" .. pattern .. ".*\nusage: mtstates%-profile ", text)
            assert.equal("exit 2", how)
        end
        refused("unknown option %-x", "-x 1")
        refused("no number of seconds: x", "-i x")
        refused("option 'interval': a number from 0.001 to 1 expected", "-i 5")
        refused("cannot open /nowhere", "/nowhere")
        refused("cannot write /nowhere/x%.json", "-o /nowhere/x.json")
        refused("has to end with", "-o /tmp/x")
    end)
end)
