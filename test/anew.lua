-- A name is free as soon as anybody can see that its state is closed. One thread closes states, and
-- another makes them anew the moment it sees that; to be run where locks are slow (c/slow_locks.c),
-- since the two have to meet within a few instructions.
--
--     lua5.4 test/anew.lua [ROUNDS]
-- MTSTATES_TEST_SECONDS makes it go on for so long.
local uv = require("luv")

local MIN_ROUNDS = tonumber(arg[1]) or 150
local SECONDS = tonumber(os.getenv("MTSTATES_TEST_SECONDS") or 0)

-- What a thread runs; has no upvalues. Both sides go through the same rounds, each of which ends when
-- this one's "over" state is there.
local function make_anew(min_rounds, seconds)
    local mt, luv = require("mtstates"), require("luv")
    local ECHO = "return function(...) return ... end"

    local function eventually(f, ...)
        local ok, value
        repeat
            ok, value = pcall(f, ...)
        until ok
        return value
    end

    -- Each returns once it sees that the state is closed.
    local function until_closed(f, ...)
        local ok, message
        repeat
            ok, message = pcall(f, ...)
        until not ok and (message:match(mt.error.object_closed) or message:match(mt.error.unknown_object))
    end
    local signs = {
        function(handle) until_closed(handle.name, handle) end,
        function(handle) until_closed(handle.call, handle) end,
        function(handle) until_closed(handle.tcall, handle, 0) end,
        function(handle) until_closed(handle.isowner, handle) end,
        function(_, id) until_closed(mt.state, id) end,
        function(_, _, name) until_closed(mt.state, name) end,
    }

    -- Each makes the name's state anew, and checks that it is found.
    local function found(name, state)
        local seen = mt.state(name)
        assert(seen == state and seen:call(name) == name)
        return state
    end
    local makers = {
        function(name) return found(name, mt.newstate(name, false, ECHO)) end,
        function(name) return found(name, mt.singleton(name, false, ECHO)) end,
        function(name)
            local state = mt.newstate(name, false, ECHO)
            assert(mt.singleton(name, false, "return nil") == state)
            return found(name, state)
        end,
    }

    local failures, first_failure = 0, nil
    local round, deadline = 0, luv.hrtime() + seconds * 1e9
    repeat
        round = round + 1
        local name, go = "name " .. round, "go " .. round
        local handle = eventually(mt.state, name)
        local id = handle:id()
        local ready <close> = mt.newstate(go, false, ECHO)
        signs[round % #signs + 1](handle, id, name)
        local ok, anew = pcall(makers[round % #makers + 1], name)
        if not ok then
            failures = failures + 1
            first_failure = first_failure or anew
        end
        local last = round >= min_rounds and luv.hrtime() > deadline
        local over <close> = mt.newstate("over " .. round, false, last and "return function() return true end"
            or "return function() return false end")
        eventually(mt.state, "seen " .. round)
        assert(ready and over)
    until last
    io.write(failures, " of ", round, " rounds failed", first_failure and ": " .. first_failure or "", "\n")
    return failures
end

-- Two states bear one name; as soon as one is seen to be closed, the other is found.
local function find_the_other(rounds)
    local mt = require("mtstates")
    local failures, first_failure = 0, nil
    for round = 1, rounds do
        local name = "pair " .. round
        local ids
        repeat
            ids = select(2, pcall(function() return mt.state("ids " .. round):call() end))
        until ids:match("^%d+ %d+$")
        local first, second = ids:match("(%d+) (%d+)")
        first, second = mt.state(math.tointeger(first)), mt.state(math.tointeger(second))
        local ready <close> = mt.newstate("go " .. name, false, "return function() end")
        while pcall(first.name, first) do
        end
        local ok, message = pcall(function() assert(mt.state(name) == second) end)
        if not ok then
            failures = failures + 1
            first_failure = first_failure or message
        end
        local over <close> = mt.newstate("over " .. name, false, "return function() end")
        while not pcall(mt.state, "seen " .. name) do
        end
        assert(ready and over)
    end
    io.write(failures, " of ", rounds, " pairs failed", first_failure and ": " .. first_failure or "", "\n")
    return failures
end

local mt = require("mtstates")
local ECHO = "return function(...) return ... end"

local function eventually(f, ...)
    local ok, value
    repeat
        ok, value = pcall(f, ...)
    until ok
    return value
end

-- Runs a function without upvalues in a thread; join() gives its result, a number.
local function start(body, ...)
    local result = mt.newstate(nil, false, "local n return function(m) n = m or n return n end")
    local thread = uv.new_thread(function(code, id, ...)
        local failures = load(code, "=thread", "b")(...)
        require("mtstates").state(id):call(failures)
    end, string.dump(body), result:id(), ...)
    return function()
        thread:join()
        return assert(result:call(), "the thread failed")
    end
end

local join = start(make_anew, MIN_ROUNDS, SECONDS / 2)
local round = 0
repeat
    round = round + 1
    local state = mt.newstate("name " .. round, false, ECHO)
    eventually(mt.state, "go " .. round)
    if round % 4 == 0 then
        state = nil -- luacheck: ignore
        collectgarbage()
        collectgarbage()
    else
        eventually(state.close, state)
    end
    local over = eventually(mt.state, "over " .. round)
    local last = eventually(over.call, over)
    local seen = mt.newstate("seen " .. round, false, ECHO)
    while pcall(over.id, over) do
    end
    seen:close()
until last
local failures = join()

local pairs_of_states = math.max(MIN_ROUNDS, round) // 2
join = start(find_the_other, pairs_of_states)
for i = 1, pairs_of_states do
    local name = "pair " .. i
    local first, second = mt.newstate(name, false, ECHO), mt.newstate(name, false, ECHO)
    local ids <close> = mt.newstate("ids " .. i, false, "local ids = ... return function() return ids end",
        first:id() .. " " .. second:id())
    eventually(mt.state, "go " .. name)
    first:close()
    eventually(mt.state, "over " .. name)
    local seen <close> = mt.newstate("seen " .. name, false, ECHO)
    while pcall(mt.state, "over " .. name) do
    end
    assert(second:call(1) == 1 and ids and seen)
end
failures = failures + join()
assert(failures == 0, "a name was taken though its state was closed")
