-- What threads and states do in the soak test. A thread runs this file as its program, and every
-- state runs it as its setup, so that states do at random what threads do. See soak.c.
--
-- `rank` keeps states from owning each other in a ring, which would leak. A state passes its rank on
-- to the states that it makes, and keeps only singletons of a higher one: the number in their name.
-- All members of a pool are given the same, so no seed and no flavour; by a reload, too.
local code, seed, rank, flavour = ...
local mt, soak, graphs, carray = require("mtstates"), require("soak"), require("graphs"), require("carray")
local math, string, coroutine, io = require("math"), require("string"), require("coroutine"), require("io")
local random = math.random

local HANDLES, POOLS, FILES = 20, 4, 4
local DEEPEST = 3 -- states inside states that still do as they like
local ANSWER, RECURSE = 50, 100 -- as a depth: only answer; call on and on until there is an error

local handles, pools, files = {}, {}, {}

local function check(condition, what)
    if not condition then
        soak.fail(what)
    end
end

-- ---- handles ----

local function keep(handle)
    handles[random(HANDLES)] = handle
end

local function random_name()
    return "name " .. random(soak.NAMES)
end

local function find()
    if random(2) == 1 then
        local id = soak.posted(random(soak.POSTS))
        local handle = mt.state(random(2) == 1 and id or id + 0.0)
        check(handle:id() == id, "a look-up by id found another state")
        return handle
    end
    local name = random(4) == 1 and "singleton " .. random(soak.SINGLETONS) or random_name()
    local handle = mt.state(name)
    check(handle:name() == name, "a look-up by name found another state")
    return handle
end

-- Mostly one that lives, of this program's own or of others.
local function pick()
    local i = random(HANDLES)
    if handles[i] and not pcall(handles[i].id, handles[i]) and random(8) > 1 then
        handles[i] = nil
    end
    return random(3) > 1 and handles[i] or find()
end

-- The pool that this state is a member of, one of this program's own, or one of others.
local function pick_pool()
    local kind = random(4)
    return kind == 1 and mt.pool() or kind < 4 and pools[random(POOLS)] or mt.pool("pool " .. random(POOLS))
end

-- ---- steps ----

local step = {}

local function random_options(name)
    return {
        name = name,
        libs = random(4) == 1,
        -- Large: where memory runs out Lua drops finalizers, and with handles what they own (README.md).
        memory_limit = random(4) == 1 and 1e8 or nil,
        time_limit = random(4) == 1 and random(40) / 1000 or nil,
    }
end

local function random_setup()
    return random(2) == 1 and code or assert(load(code))
end

local function make(name)
    return mt.newstate(random_options(name), random_setup(), code, random(0), rank, random(16))
end

function step.make()
    if soak.crowded() then
        return
    end
    local handle, id = make(random(2) == 1 and random_name() or nil)
    check(handle:isowner() and handle:id() == id, "a new state's id is not the one it has inside")
    keep(handle)
    if random(2) == 1 then
        soak.post(random(soak.POSTS), id)
    end
end

function step.singleton()
    if rank < soak.SINGLETONS then
        local number = random(rank + 1, soak.SINGLETONS)
        keep(mt.singleton("singleton " .. number, code, code, random(0), number, random(16)))
    end
end

function step.find()
    keep(find())
end

-- A thread that is inside no state may wait for ever: whoever is inside leaves in the end.
local function random_timeout(depth)
    local kind = random(6)
    if kind == 1 then
        return 0
    elseif kind == 2 then
        return random() * 0.002
    elseif kind == 3 and depth == 0 then
        return math.huge
    end
end

-- Tables, with handles in them that own nothing, for the rank's sake; or with an array, but for finalizers:
-- in a Lua state that is being closed Lua gives no finalizer to what is made new.
local function random_graph()
    if random(3) == 1 and collectgarbage("isrunning") then
        return graphs.random(8, { carray.new(5, random(0, 3)) })
    end
    local found, handle = pcall(mt.state, random_name())
    return graphs.random(8, found and { handle } or nil)
end

local function random_value()
    local kind = random(10)
    if kind > 8 then
        return random_graph()
    end
    return kind == 1 and string.rep("long", random(1000)) or kind < 4 and random(100) + 0.0 or random(0)
end

local function call(handle, timeout, depth)
    -- Close to Lua's limit of C calls nothing is made that has a finalizer: Lua drops those (README.md).
    local payload = depth >= RECURSE and random(0) or random_value()
    local ok, entered, result = soak.call(handle, timeout, depth, random(0), payload)
    if not ok then
        soak.expect(entered)
    elseif entered then
        local same, difference = graphs.same(payload, result)
        check(same, "a value was altered on the way: " .. tostring(difference))
    end
end

function step.call(depth)
    call(pick(), random_timeout(depth), depth + 1)
end

function step.recurse()
    if random(50) == 1 then
        call(pick(), nil, RECURSE)
    end
end

function step.make_pool()
    if soak.crowded() then
        return
    end
    local options = random_options(random(2) == 1 and "pool " .. random(POOLS) or nil)
    options.size = random(3)
    options.min = random(options.size)
    options.recycle = { calls = random(3) == 1 and random(20) or nil, bytes = random(9) == 1 and 60000 or nil,
        seconds = random(9) == 1 and 0.01 or nil }
    pools[random(POOLS)] = mt.newpool(options, random_setup(), code, false, rank)
end

function step.call_pool(depth)
    call(pick_pool(), random_timeout(depth), depth + 1)
end

function step.broadcast(depth)
    local timeout = random_timeout(depth) or 0
    local ok, message = soak.broadcast(pick_pool(), timeout, depth + 1, random(0), random_value())
    if not ok then
        soak.expect(message)
    end
end

-- With arguments only where the members have this rank already.
function step.reload()
    local own = random(2) == 1 and mt.pool() or pools[random(POOLS)]
    if own and random(2) == 1 then
        own:reload(random_setup(), code, false, rank)
    else
        pick_pool():reload()
    end
end

function step.interrupt_pool()
    local kind = random(6)
    local flag
    if kind > 2 then
        flag = kind == 3
    end
    pick_pool():interrupt(flag)
end

function step.close_pool(depth)
    if random(4) == 1 then
        pick_pool():close(random_timeout(depth) or 0)
    end
end

function step.take_member()
    local pool = pick_pool()
    keep(pool:state(random(#pool)))
end

function step.inspect_pool()
    local pool = pick_pool()
    local stats = pool:stats()
    check(stats.members <= stats.size and stats.idle + stats.busy == stats.members, "counts of a pool")
    check(pool:stats().calls >= stats.calls, "calls of a pool have become fewer")
    check(mt.pool(pool:id()) == pool, "a handle of the same pool is not equal")
end

local calls = 0

function step.watch()
    local now, kind = mt.stats().calls, random(3)
    check(now >= calls, "calls of the process have become fewer")
    calls = now
    if kind == 1 then
        check(string.find(mt.metrics({ names = random(2) == 1 }), "\n# EOF\n$"), "metrics")
    elseif kind == 2 then
        for _, list in ipairs({ mt.states(), mt.pools() }) do
            for i = 1, #list, 10 do
                pcall(list[i].stats, list[i])
            end
        end
    end
end

-- One is on or off for all; whoever it was that began it.
function step.profile()
    if random(2) == 1 then
        mt.profile.start({ interval = random(10) / 1000, depth = random(100) })
    else
        local profile = mt.profile.stop()
        check(profile:stats().lost == 0, "a profile without memory")
        check(profile:folded() and profile:speedscope() and profile:pprof() and profile:top(), "a profile")
    end
end

function step.drop_pool()
    pools[random(POOLS)] = nil
end

function step.interrupt()
    local handle, kind = pick(), random(6)
    if kind <= 2 then
        handle:interrupt()
    elseif kind == 3 then
        handle:interrupt(true)
    else
        handle:interrupt(false)
    end
end

function step.close()
    if random(3) == 1 then
        pick():close()
    end
end

function step.drop()
    handles[random(HANDLES)] = nil
end

function step.give_up()
    local i = random(HANDLES)
    local _ <close> = handles[i]
    handles[i] = nil
end

function step.inspect()
    local handle = pick()
    check(mt.type(handle) == "mtstates.state", "type of a handle")
    check(string.find(tostring(handle), "mtstates.state: ", 1, true) == 1, "tostring of a handle")
    local other = mt.state(handle:id())
    check(other == handle and not other:isowner(), "a handle of the same state is not equal")
end

function step.collect()
    local kind = random(8)
    if kind == 1 then
        collectgarbage()
    elseif kind == 2 then
        collectgarbage(random(2) == 1 and "generational" or "incremental")
    else
        collectgarbage("step")
    end
end

local function fill(n, slots)
    local t = {}
    for i = 1, n do
        t[i % slots + 1] = { i }
    end
    return t
end

-- Work for the collector and for interrupts, in coroutines as well; sometimes with much memory.
function step.compute()
    local kind = random(20)
    if kind == 1 then
        fill(10000, 10000)
    elseif kind < 10 then
        fill(random(3000), 100)
    else
        local resume = coroutine.wrap(function()
            while true do
                fill(random(100), 100)
                coroutine.yield()
            end
        end)
        for _ = 1, random(20) do
            resume()
        end
    end
end

-- Long enough for a time limit, sometimes; what is caught of it may go on.
function step.linger()
    local turns = random(20) * random(20) * 200 -- a few milliseconds
    local function linger()
        for _ = 1, turns do
            soak.running()
        end
    end
    local ok, message = pcall(linger)
    if not ok then
        soak.expect(message)
        linger()
    end
end

-- Files that are left to the collector, or to the end of the state.
function step.open()
    local i = random(FILES)
    if files[i] and random(4) == 1 then
        files[i]:close()
    end
    files[i] = assert(io.open("/dev/null"))
end

-- A finalizer that meets other states, in the middle of something else or as this state closes.
function step.finalize()
    setmetatable({}, {
        __gc = function()
            local ok, message = pcall(function()
                local handle = random(4) == 1 and pick_pool() or pick()
                if random(8) == 1 then
                    handle:close()
                else
                    call(handle, nil, ANSWER)
                end
            end)
            if not ok then
                soak.expect(message)
            end
        end,
    })
end

-- A state that nobody else finds behaves to the letter. Only for threads: they are not interrupted.
function step.own(depth)
    if depth > 0 or soak.crowded() then
        return
    end
    local handle = make()
    local function expect(text)
        local ok, entered, result = soak.call(handle, nil, ANSWER, 0, "payload")
        local outcome = ok and result or entered
        check(string.find(outcome, text, 1, true), "wanted " .. text .. ", got " .. outcome)
    end
    expect("payload")
    handle:interrupt()
    expect(mt.error.interrupted)
    expect("payload")
    handle:interrupt(true)
    expect(mt.error.interrupted)
    expect(mt.error.interrupted)
    handle:interrupt(false)
    expect("payload")
    handle:close()
    expect(mt.error.object_closed)
end

local steps = { -- some more often than others
    "call", "call", "call", "call", "call", "call", "call", "call", "make", "make", "make", "own",
    "singleton", "find", "recurse", "interrupt", "interrupt", "close", "drop", "give_up",
    "make_pool", "call_pool", "call_pool", "call_pool", "call_pool", "broadcast", "reload", "interrupt_pool",
    "close_pool", "take_member", "inspect_pool", "drop_pool", "watch", "profile",
    "inspect", "collect", "compute", "compute", "linger", "open", "finalize",
}

local function take_step(depth)
    local name = steps[random(#steps)]
    soak.begin(name)
    local ok, message = pcall(step[name], depth)
    if not ok then
        soak.expect(message)
    end
end

-- ---- what a call does in a state ----

local function fail_somehow()
    local kind = random(24)
    if kind == 1 then
        error("an error as wanted")
    elseif kind == 2 then
        error(setmetatable({}, {
            __tostring = function()
                return "an error as wanted"
            end,
        }))
    end
    return kind == 3
end

local function act(depth, call_seed, payload)
    math.randomseed(call_seed)
    if depth >= RECURSE then
        call(random(64) == 1 and pick() or mt.state(mt.id()), nil, depth + 1)
    elseif depth < ANSWER then
        for _ = 1, depth <= DEEPEST and random(0, 2) or 0 do
            take_step(depth)
        end
        if fail_somehow() then
            return soak.begin -- does not cross
        end
    end
    return payload
end

if seed then
    math.randomseed(seed)
end

if not mt.id() then
    for _ = 1, random(soak.LIFE) do
        if not soak.running() then
            break
        end
        take_step(0)
    end
    return
end

local life = soak.born(mt.id())
flavour = flavour or random(16)
if flavour == 1 then
    error("an error as wanted")
elseif flavour == 2 then
    return "no callback"
elseif flavour == 3 then -- setups that need each other, in a circle now and then
    local ok, message = pcall(function()
        local number = random(soak.SINGLETONS)
        local _ <close> = mt.singleton("singleton " .. number, code, code, random(0), number, random(6))
    end)
    if not ok then
        soak.expect(message)
    end
end

return function(...)
    return soak.inside(life, act, ...)
end, mt.id()
