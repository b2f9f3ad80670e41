-- What several specs need: threads, waiting, measuring.
local mtstates = require("mtstates")
local uv = require("luv")

local support = {}

support.has_thread_sanitizer = os.getenv("MTSTATES_TEST_TSAN") ~= nil -- see CMakeLists.txt

-- How many times as long everything may take.
support.slowness = support.has_thread_sanitizer and 20
    or (os.getenv("LD_PRELOAD") or ""):match("libasan") and 4 or 1

-- A setup whose callback returns what it is given.
function support.echo()
    return function(...)
        return ...
    end
end

-- A state that adds up what it is called with, and returns the sum.
function support.adder(name)
    return mtstates.newstate(name, function()
        local sum = 0
        return function(n)
            sum = sum + (n or 0)
            return sum
        end
    end)
end

-- Waits until `condition` returns something true, and returns it; nil after that many seconds.
function support.within(seconds, condition)
    local deadline = uv.hrtime() + seconds * 1e9
    repeat
        local value = condition()
        if value then
            return value
        end
        uv.sleep(1)
    until uv.hrtime() > deadline
end

-- The same, but fails after ten seconds.
function support.eventually(condition)
    return support.within(10, condition) or error("waited for ten seconds", 2)
end

-- Runs `body(...)`, a function without upvalues, in a luv thread; join() gives `true, result` or
-- `false, error`, the result being a scalar; ended() tells whether join would return at once.
function support.thread(body, ...)
    return support.thread_with({}, body, ...)
end

-- The same with luv's options for threads.
function support.thread_with(options, body, ...)
    local outcome = mtstates.newstate(function()
        local ok, value
        return function(...)
            if select("#", ...) > 0 then
                ok, value = ...
            end
            return ok, value
        end
    end)
    local handle = assert(uv.new_thread(options, function(code, id, ...)
        local mt = require("mtstates")
        local report = mt.state(id)
        local ok, value = pcall(load(code, "=thread", "b"), ...)
        pcall(report.tcall, report, math.huge, ok, value) -- nobody may want to know any more
    end, string.dump(body), outcome:id(), ...))
    return {
        join = function()
            handle:join()
            return outcome:call()
        end,
        ended = function()
            return select(2, outcome:tcall(math.huge)) ~= nil
        end,
    }
end

-- A state that a luv thread keeps busy until `release` is called.
function support.busy_state(name)
    local gate = mtstates.newstate(function()
        local state = { inside = false, open = false }
        return function(key, value)
            if value ~= nil then
                state[key] = value
            end
            return state[key]
        end
    end)
    local busy = mtstates.newstate(name, function(gate_id)
        local mt, luv = require("mtstates"), require("luv")
        local handle = mt.state(gate_id)
        return function(command)
            if command == "wait" then
                handle:tcall(math.huge, "inside", true)
                while not select(2, handle:tcall(math.huge, "open")) do
                    luv.sleep(2)
                end
            end
            return "done"
        end
    end, gate:id())
    local thread = support.thread(function(id)
        return require("mtstates").state(id):call("wait")
    end, busy:id())
    support.eventually(function()
        local ok, inside = gate:tcall(1, "inside")
        return ok and inside
    end)
    return busy, function()
        gate:tcall(math.huge, "open", true)
        return thread.join()
    end
end

-- The ways to keep running of ways.lua; under the thread sanitizer with a call of libc in each loop.
function support.ways()
    local file <close> = assert(io.open("test/spec/ways.lua"))
    local code = file:read("a")
    if support.has_thread_sanitizer then
        code = code:gsub("%-%-%[%[breathe%]%]", "os.time()")
    end
    return assert(load(code, "@test/spec/ways.lua"))()
end

-- Resident memory of this process in MB.
function support.resident_mb()
    for line in io.lines("/proc/self/status") do
        local kb = line:match("^VmRSS:%s+(%d+)")
        if kb then
            return tonumber(kb) / 1024
        end
    end
end

-- The message of the error that `f(...)` raises.
function support.error_of(f, ...)
    local ok, message = pcall(f, ...)
    assert(not ok, "no error was raised")
    return message
end

return support
