-- Hostile code by machine: threads run random programs in states, others interrupt them.
--
--     lua5.4 test/adversary.lua        runs children, see children.lua
--     lua5.4 test/adversary.lua SEED   is such a child; writes each program to stderr before it runs
--
-- A child has rounds. In a round some states get a program each, written by programs.lua to run on
-- whatever happens. One or more threads call the states, and call, close and drop them in other ways.
-- One more thread, the controller, interrupts, until it has sent each state an interrupt(true). From
-- then on all have to end before the process has used LATEST seconds of processor time. Then it sends
-- interrupt(false), and each state has to answer, if nobody closed it. Everything else fails the test:
-- a program that runs on, an error that is not known, a crash, a child that does not end.
--
-- ADVERSARY_ONLY=pcall,hook,…      only these constructs of programs.lua, and its leaves
-- ADVERSARY_WITHOUT=hook_error,…   without these
-- ADVERSARY_ROUND=3                only this round of a child
-- ADVERSARY_AGAIN=1                sends interrupt(true) again and again, for a module that loses some
-- ADVERSARY_LATEST=2               instead of LATEST
-- ADVERSARY_STACK=256              instead of STACKS
-- MTSTATES_TEST_TSAN=1             for the thread sanitizer, see programs.lua
--
-- The seed decides on the programs and on what each thread does; their pace is their own.
local mtstates = require("mtstates")
local uv = require("luv")
local cqueues_thread = require("cqueues.thread")
local children = dofile("test/children.lua")
local programs = dofile("test/programs.lua")

local ROUNDS = 20 -- of one child
local CHILD_SECONDS = 250 -- after which it is taken for hung; it needs about two
local LATEST = tonumber(os.getenv("ADVERSARY_LATEST") or 10)
local LATEST_BY_THE_CLOCK = 10 * LATEST -- if nothing runs at all
local MOST_MEMORY = 2 << 30 -- bytes of the process
local STACKS = { 8192, 1024 } -- KiB, of threads that luv makes; Lua alone wants up to 448
local SCRIPT = "test/adversary.lua"
local NAMES = { "a", "b", "c" }
local KNOWN = { "coroutine", "yield", "assertion failed", "syntax error", "too many", "C levels",
    "invalid order function", "object length is not", "error object is a", "control structure too long",
    "resulting string too large", "invalid value", "invalid replacement value", "mtstates%.error%.%l" }

local choose = children.choose

local function say(...)
    io.stderr:write(table.concat({ ... }) .. "\n") -- one piece, since threads write, too
end

local function fail(...)
    say(...)
    os.exit(1)
end

-- An error within a state has to be known by what it wraps.
local function is_known(message)
    local inner, count = message:gsub("mtstates%.error%.invoking_state", "")
    return children.is_known(count > 0 and inner or message, KNOWN)
end

local function attempt(what, f, ...)
    local results = table.pack(pcall(f, ...))
    if not results[1] and not (type(results[2]) == "string" and is_known(results[2])) then
        fail("unexpected error of ", what, ": ", tostring(results[2]))
    end
    return table.unpack(results, 1, results.n)
end

-- ---- a round, as each of its threads knows it ----

-- What the threads of a round tell each other goes through a state, the board.
local function new_board()
    return mtstates.newstate(function()
        local ready, done, made = 0, 0, {}
        return function(what, id)
            if what == "ready" then
                ready = ready + id
                return ready
            elseif what == "done" then
                done = done + 1
            elseif what == "made" then
                made[#made + 1] = id
            else
                local taken = made
                made = {}
                return done, table.unpack(taken)
            end
        end
    end)
end

-- As one string, since luv takes nine values at most, and cqueues pushes even fewer without room for
-- them. `role` is of the thread that will read it, `place` is its place among the round's threads.
local function write_round(round, role, place)
    local words = { role, place, round.seed, round.number, round.threads, round.closing and 1 or 0,
        round.board:id() }
    for _, state in ipairs(round.states) do
        words[#words + 1] = state:id()
    end
    return table.concat(words, " ")
end

local function read_round(text)
    local words = {}
    for word in text:gmatch("%d+") do
        words[#words + 1] = math.tointeger(tonumber(word))
    end
    local round = {
        role = text:match("%a+"),
        place = words[1],
        seed = words[2],
        number = words[3],
        threads = words[4], -- that call states
        closing = words[5] == 1, -- whether states may be closed
        board = mtstates.state(words[6]),
        states = {}, -- handles that do not own
        owned = {}, -- by this thread
    }
    for i = 7, #words do
        round.states[i - 6] = mtstates.state(words[i])
    end
    return round
end

local function drop(round)
    if round.closing then
        round.owned[math.random(4)] = nil
        collectgarbage()
    end
end

local function close(round, state)
    if round.closing then
        attempt("close", state.close, state)
    end
end

local function call_named(...)
    mtstates.state(choose(NAMES)):call(...)
end

-- ---- threads that call ----

local function call(state)
    state:call("run", 1, "two", 3.0)
end

local function call_with_many(state)
    return state:call("run", table.unpack({}, 1, choose({ 20, 250, 10000, 900000 })))
end

local function call_in_time(state)
    state:tcall(choose({ 0, 0.001, 0.05 }), "run")
end

local CALLS = {
    function(_, state) attempt("call", call, state) end,
    function(_, state) attempt("call", call, state) end,
    function(_, state) attempt("call", call, state) end,
    function(_, state) attempt("call", coroutine.wrap(call), state) end,
    function(_, state) attempt("tcall", call_in_time, state) end,
    function(_, state) attempt("tcall", call_in_time, state) end,
    function(_, state) attempt("call", math.random(4) == 1 and call_with_many or call, state) end,
    function() attempt("call by name", call_named, "run") end,
    function() attempt("call by name", call_named, "ping") end,
    close,
    drop,
}

-- ---- the thread that interrupts ----

local function interrupt(state, flag)
    attempt("interrupt", state.interrupt, state, flag)
end

local CONTROLS = {
    function(_, state) interrupt(state) end,
    function(_, state) interrupt(state) end,
    function(_, state)
        interrupt(state)
        interrupt(state)
    end,
    function(_, state) interrupt(state, true) end,
    function(_, state)
        interrupt(state, true)
        interrupt(state, false)
    end,
    function(_, state)
        interrupt(state, true)
        uv.sleep(math.random(0, 5))
        interrupt(state, false)
    end,
    function(_, state) interrupt(state, false) end,
    function(_, state) attempt("ping", state.tcall, state, 0, "ping") end,
    close,
    drop,
}

local function interrupt_all(round, flag)
    for _, state in ipairs(round.states) do
        interrupt(state, flag)
    end
end

-- Waits until the threads that call have returned; the seconds of processor time that it took.
local function wait_for_end(round)
    local start, clock_start = os.clock(), uv.hrtime()
    local made = {}
    local function read(done, ...)
        for _, id in ipairs({ ... }) do
            local found, state = attempt("state", mtstates.state, id)
            if found then
                made[#made + 1] = state
                interrupt(state, true)
            end
        end
        return done == round.threads
    end
    while not read(select(2, round.board:tcall(10, "read"))) do
        uv.sleep(1)
        if os.getenv("ADVERSARY_AGAIN") then
            interrupt_all(round, true)
            for _, state in ipairs(made) do
                interrupt(state, true)
            end
        end
        if os.clock() - start > LATEST or uv.hrtime() - clock_start > LATEST_BY_THE_CLOCK * 1e9 then
            local busy = {}
            for i, state in ipairs(round.states) do
                local ok, message = pcall(state.tcall, state, 0)
                busy[i] = ok and not message and "busy" or tostring(message):match("[^\n]*")
            end
            fail("runs on: round ", round.number, ", states ", table.concat(busy, ", "))
        end
    end
    return os.clock() - start
end

-- A hook that the program left may still raise, as often as programs.lua lets it.
local function check_answer(round, i)
    local state = round.states[i]
    for _ = 1, 50 do
        local ok, answer = pcall(state.call, state, "ping", "pong")
        if ok and answer == "pong" then
            return
        elseif round.closing and tostring(answer):find("^mtstates%.error%.object_closed") then
            return
        elseif ok or not answer:find("payload of a hook", 1, true) then
            fail("state ", i, " answers ", tostring(answer))
        end
    end
    fail("state ", i, " does not answer")
end

local ROLES = {}

function ROLES.control(round)
    for _ = 1, math.random(0, 5) do
        uv.sleep(choose({ 0, 0, 1, 2, 5, 12 }))
        choose(CONTROLS)(round, choose(round.states))
    end
    uv.sleep(choose({ 0, 2, 10, 10, 50, 150 }))
    interrupt_all(round, true)
    local time = wait_for_end(round)
    interrupt_all(round, false)
    for i = 1, #round.states do
        check_answer(round, i)
    end
    say(("ended after %.3f s"):format(time))
end

function ROLES.call(round)
    for _ = 1, math.random(5) do
        choose(CALLS)(round, choose(round.states))
    end
    assert(round.board:tcall(10, "done"))
end

-- ---- a round ----

-- Waits until all threads of the round have looked up the states, before any may close some.
local function meet(round)
    local in_time, ready = round.board:tcall(10, "ready", 1)
    while ready <= round.threads do
        uv.sleep(0)
        in_time, ready = round.board:tcall(10, "ready", 0)
    end
    assert(in_time)
end

local function play(round)
    math.randomseed(round.seed, round.number * 8 + round.place)
    meet(round)
    ROLES[round.role](round)
end

-- What a thread runs: errors end the process.
local function play_in_thread(text)
    local ok, message = xpcall(function() play(read_round(text)) end, debug.traceback)
    if not ok then
        fail("thread: ", message)
    end
end

local function start_thread(text)
    if math.random(2) == 1 then
        return cqueues_thread.start(function(_, script, round)
            assert(loadfile(script))("thread")(round)
        end, SCRIPT, text)
    end
    local stack = os.getenv("ADVERSARY_STACK") or choose(STACKS)
    local more = os.getenv("MTSTATES_TEST_TSAN") and 8 or 1 -- times; a frame takes more there
    return uv.new_thread({ stack_size = more * stack * 1024 }, function(script, round)
        assert(loadfile(script))("thread")(round)
    end, SCRIPT, text)
end

local function memory()
    local file = io.open("/proc/self/statm")
    if not file then
        return 0
    end
    local _, resident = file:read("n", "n")
    file:close()
    return resident * 4096
end

local kept = {} -- states that live on

local function play_round(seed, number)
    math.randomseed(seed, number)
    local board = new_board()
    local round = { seed = seed, number = number, threads = choose({ 1, 1, 1, 2, 3 }),
        closing = math.random(3) == 1, board = board, states = {}, owned = {} }
    say(("==== seed %d round %d, %d threads, %s"):format(seed, number, round.threads,
        round.closing and "closing" or "not closing"))
    for i = 1, math.random(4) do
        local name = choose(NAMES)
        local text, used = programs.write(round.closing)
        say(("---- state %d %q with %s\n%s"):format(i, name, table.concat(used, " "), text))
        round.owned[i] = programs.new_state(mtstates, name, text, board:id())
        round.states[i] = mtstates.state(round.owned[i]:id())
    end
    for _, state in ipairs(round.states) do
        local ids = {}
        for i, other in ipairs(round.states) do
            ids[i] = other:id()
        end
        state:call("meet", table.unpack(ids))
    end

    -- One of the roles is this thread's.
    local roles = { "control" }
    for i = 1, round.threads do
        roles[#roles + 1] = "call"
        if i == 1 and math.random(3) == 1 then
            roles[1], roles[2] = roles[2], roles[1]
        end
    end
    local texts, threads = {}, {}
    for i, role in ipairs(roles) do
        texts[i] = write_round(round, role, i)
    end
    for i = 2, #roles do
        threads[i - 1] = start_thread(texts[i])
    end
    round.role, round.place = roles[1], 1
    play(round)
    for _, thread in ipairs(threads) do
        thread:join() -- cqueues' may say EOWNERDEAD where a thread is just ending
    end

    interrupt_all(round, true) -- for calls by name in later rounds
    for i, state in pairs(round.owned) do
        if math.random(3) == 1 then
            state:close()
        elseif math.random(10) == 1 then
            kept[#kept + 1] = state
        end
        round.owned[i] = nil
    end
    if math.random(2) == 1 then
        collectgarbage()
    end
    if memory() > MOST_MEMORY then
        fail("memory: ", memory() // 1048576, " MiB")
    end
end

-- ---- children and their parent ----

local function child(seed)
    local only = tonumber(os.getenv("ADVERSARY_ROUND"))
    collectgarbage(seed % 20 == 0 and "generational" or "incremental")
    if seed % 3 == 0 then
        mtstates.profile.start({ interval = 0.001 })
    end
    for number = only or 1, only or ROUNDS do
        play_round(seed, number)
    end
    say("closing")
end

local how = ...
if how == "thread" then
    return play_in_thread
elseif how then
    child(math.tointeger(tonumber(how)))
else
    children.run(SCRIPT, { seconds = CHILD_SECONDS, lines = 1000, start = "====" })
end
