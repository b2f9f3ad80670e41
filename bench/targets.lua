-- The table of targets: what was aimed at, what was measured, and whether it was reached.
--
--     lua5.4 bench/targets.lua filter         the benchmarks it needs, as a regular expression
--     lua5.4 bench/targets.lua results.json   the table, and one of times in ns, in Markdown; exit status 1
--                                             when a row falls short
package.path = arg[0]:gsub("[^/]*$", "?.lua;") .. package.path

local shapes = {
    "call ()", "call (i)", "call (i,i,i)", "call (f,b,nil)", "call (short)", "call (short,short,short)",
    "call (1KB)", "call (16KB)",
}

local tables = {
    "{}", "{1,2,3}", "10 integers", "10 fields", "nested record", "1000 records", "100000 integers",
}
local OTHER_TABLES = { tables[2], tables[3], tables[4], tables[5], tables[7] }

local families = {
    "call \\(", "table .*/(floor|json|mtstates)",
    "call, own states/mtstates", "refused .*/floor", "refused .*/mtstates/.*threads:1$",
    "look-up, own states/(floor|mtstates)/.*threads:1$", "look-up, same state.*/mtstates/.*threads:(1|2)$",
    "look-up by .* among/mtstates/100000/", "registry.*/(1|1000000)/", "two accesses.*/1000000/",
    "refused call/mtstates/.*threads:2$", "work in", "two readings", "wait.*/mtstates/.*threads:(1|4)$",
    "fairness", "jobs", "pool call, a member each/mtstates", "refused call of a pool",
    "pool wait/mtstates/.*threads:(4|16)$", "make and close.*/(floor|mtstates)", "allocate", "idle",
}

if arg[1] == "filter" then
    print(table.concat(families, "|"))
    return
end

local find, context = require("json").load(arg[1])
local cores = context.num_cpus

-- Those of bench/instructions.txt, by name.
local instructions = {}
for line in io.lines("bench/instructions.txt") do
    local count, name = line:match("^%s*(%d+)%s+(.+)$")
    instructions[name] = tonumber(count)
end

-- How many times as long `name` takes with mtstates as with `rival`.
local function slower(name, rival)
    return find(name .. "/" .. rival) / find(name .. "/mtstates")
end

local function geometric_mean(values)
    local sum = 0
    for _, value in ipairs(values) do
        sum = sum + math.log(value)
    end
    return math.exp(sum / #values)
end

local function of_shapes(rival)
    local ratios = {}
    for i, shape in ipairs(shapes) do
        ratios[i] = slower(shape, rival)
    end
    return ratios
end

local function of_tables(rival, names)
    local ratios = {}
    for i, name in ipairs(names) do
        ratios[i] = slower("table " .. name, rival)
    end
    return ratios
end

-- How many times as dear an entry is in the worst of a table's sizes as in the smallest; with the floor.
local function dearest_entry(kind, sizes)
    local worst = 0
    local function dearer(module, size)
        local name = ("table by entries, %s/%s/"):format(kind, module)
        return find(name .. 10) / find(name .. size)
    end
    for _, size in ipairs(sizes) do
        worst = math.max(worst, dearer("mtstates", size) / math.max(1, dearer("floor", size)))
    end
    return worst
end

-- Throughput of `many` threads by that of `few`.
local function scaling(name, many, few)
    return find(name .. "/mtstates", many) / find(name .. "/mtstates", few)
end

-- Two threads that share the cores with a third should have so much of what they have alone.
local function share_of_two_beside_one()
    return math.min(1, cores / 3) / math.min(1, cores / 2)
end

local function idle_memory(libs)
    local name = ("idle memory (%s)/mtstates"):format(libs)
    return find(name, nil, "bytes") / find(name, nil, "lua_bytes")
end

local same = "look-up, same state"
local disturbed = same .. ", while states are made"
local T = 1 << (math.log(math.min(cores, 16), 2) // 1 | 0) -- the family has powers of two

local MOST, LEAST = "at most", "at least"
local rows = {
    { "call, 8 shapes, geometric mean: x floor", MOST, 0.93, geometric_mean(of_shapes("floor")) },
    { "call, slowest shape: x floor", MOST, 1.08, math.max(table.unpack(of_shapes("floor"))) },
    { "call (short): x floor", MOST, 0.95, slower("call (short)", "floor") },
    { "call (short,short,short): x floor", MOST, 0.95, slower("call (short,short,short)", "floor") },
    { "call, geometric mean: times faster than the baseline", LEAST, 2,
        1 / geometric_mean(of_shapes("baseline")) },
    { "table, 7 shapes, geometric mean: x floor", MOST, 0.75, geometric_mean(of_tables("floor", tables)) },
    { "table {}: x floor", MOST, 1.4, slower("table {}", "floor") },
    { "table of 1000 records: x floor", MOST, 0.6, slower("table 1000 records", "floor") },
    { "table, slowest of the others: x floor", MOST, 0.9,
        math.max(table.unpack(of_tables("floor", OTHER_TABLES))) },
    { "table, geometric mean: times faster than JSON", LEAST, 3,
        1 / geometric_mean(of_tables("json", tables)) },
    { "an entry of 1 000 000 integers: x of 10, beyond the floor's", MOST, 1.5,
        dearest_entry("integers", { 100, 1000, 10000, 100000, 1000000 }) },
    { "an entry of 100 000 records: x of 10, beyond the floor's", MOST, 1.5,
        dearest_entry("records", { 100, 1000, 10000, 100000 }) },
    { "refused call in a pcall: x pcall(error, 'x')", MOST, 1.15,
        find("refused call/floor") / find("refused call/mtstates", 1) },
    { "refused tcall(0): x a C function that checks its handle", MOST, 1.5,
        find("refused tcall(0)/floor") / find("refused tcall(0)/mtstates", 1) },
    { "refused call, 2 threads: x one", LEAST, 1.9, scaling("refused call", 2, 1) },
    { "work inside, while calls are refused: x undisturbed", LEAST, 0.9,
        find("work inside, while calls are refused/mtstates", 1) / find("work inside/mtstates", 1) },
    { "look-up by id, again: instructions", MOST, 450, instructions["look-up by id"] },
    { "look-up by name, again: instructions", MOST, 700, instructions["look-up by name"] },
    { "look-up by id and call (): instructions", MOST, 1500, instructions["look-up by id, call ()"] },
    { "registry, one id among 1 000 000: x among 1", MOST, 1.5,
        find("registry, one id/1") / find("registry, one id/1000000") },
    { "registry, a random id among 1 000 000: x two accesses", MOST, 1.5,
        find("two accesses of memory/1000000") / find("registry, random ids/1000000") },
    { "look-up by name among 100 000: x by id", MOST, 1.4,
        find("look-up by id among/mtstates/100000") /
            find("look-up by name among/mtstates/100000") },
    { "look-up of the same id, 2 threads: x one", LEAST, 1.95, scaling(same, 2, 1) },
    { "... while a third makes and closes: x undisturbed, per core", LEAST, 0.9,
        find(disturbed .. "/mtstates", 2) / find(same .. "/mtstates", 2) / share_of_two_beside_one() },
    { ("call of own states, %d threads: x one"):format(T), LEAST, 0.95 * T,
        scaling("call, own states", T, 1) },
    { ("call of own states, 16 threads: x %d"):format(T), LEAST, 0.9, scaling("call, own states", 16, T) },
    { "tcall(math.huge) on one state, 4 threads: x one", LEAST, 0.5, scaling("wait, same state", 4, 1) },
    { "tcall(math.huge), 4 threads, 5 s: busiest to laziest", MOST, 3,
        find("fairness/mtstates", 4, "busiest_to_laziest") },
    { "newstate with libraries and close: times faster than Lua's", LEAST, 6,
        1 / slower("make and close (libs)", "floor") },
    { "newstate without and close: times faster than Lua's", LEAST, 3,
        1 / slower("make and close (bare)", "floor") },
    { "allocation-heavy callback: times faster than in the host", LEAST, 1.3,
        1 / slower("allocate", "floor") },
    { "call () of a state with a time limit: x of one without", MOST, 1.05,
        find("call ()/mtstates") / find("call () with a time limit/mtstates") },
    { "allocation-heavy callback far below a memory limit: x without", MOST, 1.01,
        find("allocate/mtstates") / find("allocate with a memory limit/mtstates") },
    { "call () with timing: what it adds, x two readings of the clock", MOST, 1.1,
        (1 / find("call () with timing/mtstates") - 1 / find("call ()/mtstates")) *
            find("two readings of the clock") },
    { "work of two threads in 1000 states, profiled at 100 Hz: x unwatched", LEAST, 0.97,
        find("work in 1000 states, profiled/mtstates", 2) / find("work in 1000 states/mtstates", 2) },
    { "call () of a pool: x of a state", MOST, 1.15,
        find("call ()/mtstates") / find("pool call ()/mtstates/4") },
    { ("call of a pool, %d threads and members: x own states"):format(T), LEAST, 0.95,
        find("pool call, a member each/mtstates", T) / find("call, own states/mtstates", T) },
    { "tcall(math.huge) of a pool of 4, 16 threads: x 4", LEAST, 0.6,
        find("pool wait/mtstates", 16) / find("pool wait/mtstates", 4) },
    { "... 16 threads, 5 s: busiest to laziest", MOST, 3,
        find("pool fairness/mtstates", 16, "busiest_to_laziest") },
    { "refused call of a pool of 64: x of a state", MOST, 2,
        find("refused call/mtstates", 1) / find("refused call of a pool/mtstates") },
    { "empty jobs of a pool: times faster than luv's new_work", LEAST, 20,
        find("jobs, empty/mtstates") / find("jobs, empty/luv") },
    { "memory of an idle state with libraries: x Lua's count", MOST, 1.12,
        idle_memory("libs") },
    { "memory of an idle state without: x Lua's count", MOST, 1.15,
        idle_memory("bare") },
}

-- What one costs, in ns, and what the rivals need.
local function ns(name, threads)
    return ("%.0f"):format(1e9 / find(name, threads))
end
local function among_rivals(name, ...)
    local times = { ns(name .. "/mtstates") }
    for i, rival in ipairs({ ... }) do
        times[i + 1] = ("%s %s"):format(rival, ns(name .. "/" .. rival))
    end
    return { name, times[1], table.concat(times, ", ", 2) }
end
local function of_jobs(how, at_once)
    local function by(module)
        return ns(("jobs, %s/%s/%d"):format(how, module, at_once))
    end
    return { "jobs, " .. how, by("mtstates"),
        ("luv's new_work %s, cqueues threads %s"):format(by("luv"), by("cqueues")) }
end
local times = {
    among_rivals("call ()", "floor", "baseline"),
    among_rivals("call (short)", "floor", "baseline"),
    among_rivals("call (1KB)", "floor", "baseline"),
    among_rivals("table nested record", "floor", "json"),
    { "call () of a pool", ns("pool call ()/mtstates/4"), "" },
    { "look-up by id, again", ns("look-up, own states/mtstates", 1), "" },
    { "refused call in a pcall", ns("refused call/mtstates", 1),
        "pcall(error, 'x') " .. ns("refused call/floor") },
    among_rivals("make and close (libs)", "floor"),
    among_rivals("make and close (bare)", "floor"),
    of_jobs("one by one", 1),
    of_jobs("1000 at once", 1000),
}

local short = 0
print(("%d cores, %s, commit %s, %s\n"):format(cores, context.processor, context.commit, context.mtstates))
print("| | target | measured |\n|---|---|---|")
for _, row in ipairs(rows) do
    local name, bound, target, measured = table.unpack(row)
    local pass = bound == MOST and measured <= target or bound == LEAST and measured >= target
    short = short + (pass and 0 or 1)
    local shown = (pass and "%.4g" or "**%.4g**"):format(measured)
    print(("| %s | %s %.4g | %s |"):format(name, bound, target, shown))
end
print("\n| ns | mtstates | others |\n|---|---|---|")
for _, row in ipairs(times) do
    print("| " .. table.concat(row, " | ") .. " |")
end
print(short == 0 and "\nAll targets are reached."
    or ("\n%d of %d targets, in bold, are missed: bench/notes.md says why."):format(short, #rows))
os.exit(short == 0)
