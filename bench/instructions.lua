-- How many instructions one operation takes, as callgrind counts them: repeatable where clocks are not.
--
--     lua5.4 bench/instructions.lua check    compares with bench/instructions.txt; exit status 1 when
--                                            an operation takes over 3 % more than recorded there
--     lua5.4 bench/instructions.lua record   measures and writes that file
--
-- Needs valgrind, and mtstates on package.cpath. The counts include Lua's own loop round the operation;
-- they belong to the compiler and the Lua that made them, here Debian 12's.
local RECORD = "bench/instructions.txt"
local TOLERANCE = 1.03
local FEW, MANY = 2000, 6000
local TRIES = 5 -- Lua draws the seed of its string hash from the clock; it makes some percent

-- glibc picks memcpy and the like by the CPU; these are the ones that every x86-64 has.
local SAME_LIBC = "GLIBC_TUNABLES=glibc.cpu.hwcaps=-AVX,-AVX2,-AVX512F,-AVX512VL,-ERMS,-FSRM"

local function echo()
    return function(...)
        return ...
    end
end

-- Each gives a function that does the operation n times.
local operations = {
    { "call ()", function(mt)
        local s = mt.newstate(echo)
        return function(n) for _ = 1, n do s:call() end end
    end },
    { "call (i)", function(mt)
        local s = mt.newstate(echo)
        return function(n) for _ = 1, n do s:call(1) end end
    end },
    { "call (i,i,i)", function(mt)
        local s = mt.newstate(echo)
        return function(n) for _ = 1, n do s:call(1, 2, 3) end end
    end },
    { "call (f,b,nil)", function(mt)
        local s = mt.newstate(echo)
        return function(n) for _ = 1, n do s:call(1.5, true, nil) end end
    end },
    { "call (short)", function(mt)
        local s = mt.newstate(echo)
        return function(n) for _ = 1, n do s:call("hello") end end
    end },
    { "call (short,short,short)", function(mt)
        local s = mt.newstate(echo)
        return function(n) for _ = 1, n do s:call("hello", "small", "world") end end
    end },
    { "call (1KB)", function(mt)
        local s, text = mt.newstate(echo), ("k"):rep(1024)
        return function(n) for _ = 1, n do s:call(text) end end
    end },
    { "call (16KB)", function(mt)
        local s, text = mt.newstate(echo), ("k"):rep(16384)
        return function(n) for _ = 1, n do s:call(text) end end
    end },
    { "call ({})", function(mt)
        local s, t = mt.newstate(echo), {}
        return function(n) for _ = 1, n do s:call(t) end end
    end },
    { "call ({i,i,i})", function(mt)
        local s, t = mt.newstate(echo), { 1, 2, 3 }
        return function(n) for _ = 1, n do s:call(t) end end
    end },
    { "call (record)", function(mt)
        local s, t = mt.newstate(echo), { id = 1, name = "a name", score = 1.5, active = true }
        return function(n) for _ = 1, n do s:call(t) end end
    end },
    { "pool call ()", function(mt)
        local p = mt.newpool({ size = 4 }, echo)
        return function(n) for _ = 1, n do p:call() end end
    end },
    { "make and close", function(mt)
        return function(n) for _ = 1, n do mt.newstate(echo):close() end end
    end },
    { "look-up by id", function(mt)
        local s = mt.newstate(echo)
        local id, state = s:id(), mt.state
        return function(n) for _ = 1, n do state(id) end end, s
    end },
    { "look-up by id, call ()", function(mt)
        local s = mt.newstate(echo)
        local id, state = s:id(), mt.state
        return function(n) for _ = 1, n do state(id):call() end end, s
    end },
    { "look-up by name", function(mt)
        local s, state = mt.newstate("the name", echo), mt.state
        return function(n) for _ = 1, n do state("the name") end end, s
    end },
}

local function find(name)
    for _, operation in ipairs(operations) do
        if operation[1] == name then
            return operation[2]
        end
    end
    error("no operation " .. name)
end

-- In valgrind: does one operation `count` times.
local function run(name, count)
    local operation, state = find(name)(require("mtstates"))
    operation(count)
    assert(operation or state) -- what owns the state stays until here
end

local function collected(name, count)
    local command = ("%s valgrind --tool=callgrind --callgrind-out-file=/dev/null lua5.4 %s run '%s' %d 2>&1")
        :format(SAME_LIBC, arg[0], name, count)
    local pipe = assert(io.popen(command))
    local output = pipe:read("a")
    assert(pipe:close(), output)
    return assert(tonumber(output:match("Collected : (%d+)")), output)
end

-- What is the same in both runs, the start of Lua for one, cancels out.
local function measure(name)
    return (collected(name, MANY) - collected(name, FEW)) // (MANY - FEW)
end

-- The least of several tries, of which the first that is at most `enough` is the last.
local function measure_least(name, enough)
    local least = math.huge
    for _ = 1, TRIES do
        least = math.min(least, measure(name))
        if least <= enough then
            break
        end
    end
    return least
end

-- Of several tries the middle: the least may be due to a seed of Lua's string hash that is met seldom, and
-- would then be asked of everyone.
local function measure_median(name)
    local counts = {}
    for i = 1, TRIES do
        counts[i] = measure(name)
    end
    table.sort(counts)
    return counts[(TRIES + 1) // 2]
end

local function record()
    local file = assert(io.open(RECORD, "w"))
    for _, operation in ipairs(operations) do
        local count = measure_median(operation[1])
        file:write(("%6d  %s\n"):format(count, operation[1]))
        print(("%6d  %s"):format(count, operation[1]))
    end
    file:close()
end

local function check()
    local worse = 0
    for line in io.lines(RECORD) do
        local recorded, name = line:match("^%s*(%d+)%s+(.+)$")
        local most = tonumber(recorded) * TOLERANCE
        local count = measure_least(name, most)
        local ok = count <= most
        worse = worse + (ok and 0 or 1)
        print(("%-26s %6d instructions, %6d recorded%s"):format(name, count, recorded,
            ok and "" or "  MORE THAN 3 % WORSE"))
    end
    return worse == 0
end

local command = arg[1]
if command == "run" then
    run(arg[2], tonumber(arg[3]))
elseif command == "record" then
    record()
elseif command == "check" then
    os.exit(check())
else
    io.stderr:write("usage: lua5.4 bench/instructions.lua check|record\n")
    os.exit(2)
end
