-- Ways to keep running: code that tries not to end when it is interrupted or its time is over, for
-- ways_spec.lua.
-- support.ways() loads this file. The thread sanitizer delivers a signal only at certain calls of libc: such
-- a call stands then for each [[breathe]]; otherwise these loops are as they are written.
-- luacheck: globals note forever arrive forever_after struck rethrow looping whole other mtstates armed round
local ways = {}

-- The setup of each state in which a way runs. Its callback runs the way when it is called with "run".
local function setup_of_ways(setup, run, part)
    mtstates = require("mtstates")
    local interrupted, time_limit = mtstates.error.interrupted, mtstates.error.time_limit
    local notes = mtstates.state("notes")
    local keep = {}

    local function is_interrupted(e)
        return type(e) == "string" and (e:find(interrupted, 1, true) or e:find(time_limit, 1, true))
    end

    function note()
        notes:tcall(math.huge, os.clock())
    end

    function forever()
        while true do --[[breathe]]
        end
    end

    -- Notes that it begins.
    function arrive()
        note()
        forever()
    end

    -- For what pcall gives, and what __close gets: an interrupt that goes no further is noted.
    function struck(ok, e)
        if not ok and is_interrupted(e) then
            note()
        end
        return ok, e
    end

    -- For what pcall gives: an interrupt goes on.
    function rethrow(ok, e)
        if not ok and is_interrupted(e) then
            error(e, 0)
        end
        return ok, e
    end

    -- A loop after an interrupt, which is noted.
    function forever_after(e)
        struck(false, e)
        forever()
    end

    -- To be closed, which does not end.
    looping = setmetatable({}, { __close = function(_, e) forever_after(e) end })

    -- To be closed, by a handler that takes a while, and notes that it has come to its end.
    whole = setmetatable({}, { __close = function()
        local deadline = os.clock() + 0.03
        repeat --[[breathe]]
        until os.clock() > deadline
        note()
    end })

    -- Another state, in which `body` is a way.
    function other(name, body)
        if keep[name] then
            keep[name]:close()
        end
        keep[name] = mtstates.newstate(name, setup, setup, string.dump(body))
        return keep[name]
    end

    run = load(run, "=way", "b")
    part = part and load(part, "=part", "b")
    return function(what, value)
        if what == "run" then
            return run(part)
        elseif what == "calm" then
            debug.sethook()
        end
        local sum = 0
        for i = 1, 10 do
            sum = sum + math.abs(i)
        end
        return assert(sum == 55) and value
    end
end

-- Counts notes, and knows when the last was taken, on the clock of the processor.
function ways.notes()
    return require("mtstates").newstate("notes", function()
        local count, last = 0, 0
        return function(clock)
            if clock then
                count, last = count + 1, clock
            end
            return count, last
        end
    end)
end

-- The state "outer", in which that way runs, with that time limit, if any. There have to be notes.
function ways.state(way, time_limit)
    local setup = string.dump(setup_of_ways)
    local options = { name = "outer", time_limit = time_limit }
    return require("mtstates").newstate(options, setup, setup, string.dump(way.run),
        way.part and string.dump(way.part))
end

function ways.named(name)
    for _, way in ipairs(ways) do
        if way.name == name then
            return way
        end
    end
    error("no such way: " .. name)
end

-- Code that keeps running by `name` does so by run(part), both without upvalues. A single interrupt ends it,
-- or there is in `more`
--   singles    how many end it at most; the others are swallowed, and noted; math.huge: only true ends it
--   quiet      a single may be swallowed without a note; true ends it
--   target     the name of the state to interrupt, which is not the one that is called; it notes that it runs
--   deep       without interrupts, too, it overflows a C stack of 256 KB
--   countless  it is one of those that thousands of singles are sent to
local function way(name, run, more)
    local new = { name = name, run = run, singles = 1 }
    for key, value in pairs(more or {}) do
        new[key] = value
    end
    ways[#ways + 1] = new
end

-- ---- loops ----

way("a while loop", function()
    while true do --[[breathe]]
    end
end)

way("a repeat loop", function()
    repeat --[[breathe]]
    until false
end)

way("goto", function()
    ::again:: --[[breathe]]
    goto again
end)

way("goto to and fro", function()
    local forth = false
    ::one:: --[[breathe]]
    forth = not forth
    if forth then
        goto two
    end
    goto one
    ::two::
    goto one
end)

way("a numeric loop", function()
    for _ = 1, math.maxinteger do --[[breathe]]
    end
end)

way("a numeric loop of floats", function()
    for _ = 1.0, math.huge do --[[breathe]]
    end
end)

way("a loop over an iterator", function()
    for _ in function() --[[breathe]] return true end do
    end
end)

way("a loop over an iterator of C", function()
    for _ in math.max, 1, 1 do --[[breathe]]
    end
end)

way("arithmetic", function()
    local a, b = 1, 0.5
    while true do --[[breathe]]
        a, b = (a * 3 + 7) ~ (a >> 3), -b / 3
    end
end)

way("work with tables", function()
    local t = { x = {} }
    while t.x do --[[breathe]]
        t[#t % 100 + 1], t.x = #t, { t.x[1] }
    end
end)

way("upvalues", function()
    local n = 0
    local function count()
        while true do --[[breathe]]
            n = n + 1
        end
    end
    count()
end)

way("closures", function()
    local f = forever
    while true do --[[breathe]]
        local before = f
        f = function() return before end
        if f() == before then
            f = before
        end
    end
end)

-- ---- calls ----

way("calls of a function", function()
    local function f(a)
        return a
    end
    while true do --[[breathe]]
        f(1)
    end
end)

way("calls of a function with varargs", function()
    local function f(...)
        return select("#", ...)
    end
    while true do --[[breathe]]
        f(f(), f(1, 2))
    end
end)

way("tail calls", function()
    local function f() --[[breathe]]
        return f()
    end
    return f()
end)

way("tail calls by turns", function()
    local one
    local function two(...)
        return one(...)
    end
    function one(...) --[[breathe]]
        return two(...)
    end
    return one(1, 2, 3)
end)

way("tail calls with something to close", function()
    local function f()
        local _ <close> = setmetatable({}, { __close = function() --[[breathe]] end })
        return rethrow(true)
    end
    while true do
        f()
    end
end)

way("calls of C functions", function()
    while true do --[[breathe]]
        math.abs(1)
        select("#", 1)
        next({})
    end
end)

way("calls of os.time and os.clock", function()
    while true do
        os.time()
        os.clock()
    end
end)

way("C functions that take a while", function()
    while true do
        string.rep("x", 1e6):find("y") --[[breathe]]
    end
end)

way("table.unpack of many values", function()
    local t = {}
    while true do
        select("#", table.unpack(t, 1, 100000)) --[[breathe]]
    end
end)

way("input and output", function()
    while true do
        local file = io.open("/dev/zero")
        file:read(100)
        file:close()
    end
end)

way("warnings and prints of nothing", function()
    warn("@off")
    while true do --[[breathe]]
        warn("x")
        io.write("")
    end
end)

way("the collector", function()
    while true do --[[breathe]]
        collectgarbage()
        collectgarbage("step")
    end
end)

way("garbage", function()
    local weak = setmetatable({}, { __mode = "k" })
    while true do --[[breathe]]
        weak[{}] = { ("x"):rep(10) .. "y" }
    end
end)

way("finalizers", function()
    while true do
        setmetatable({}, { __gc = function()
            for _ = 1, 1000 do
            end
        end})
        collectgarbage("step") --[[breathe]]
    end
end)

-- ---- pcall ----

way("pcall of a loop, raised again", function()
    rethrow(pcall(forever))
end)

way("pcall of pcall of a loop, raised again", function()
    rethrow(select(-2, pcall(pcall, pcall, forever)))
end)

way("pcall of a loop without end", function()
    while true do
        struck(pcall(forever))
    end
end, { singles = math.huge, countless = true })

way("pcall of pcall of a loop without end", function()
    while true do
        struck(select(-2, pcall(pcall, forever)))
    end
end, { singles = math.huge })

way("pcall of C functions without end", function()
    while true do --[[breathe]]
        struck(pcall(error, "x"))
        struck(pcall(math.abs, 1))
        struck(pcall(next))
    end
end, { singles = math.huge })

way("pcall of short functions without end, errors forgotten", function()
    while true do --[[breathe]]
        pcall(function() end)
        pcall(function() return nil + 1 end)
    end
end, { quiet = true })

way("pcall of tail calls without end", function()
    local function f()
        return struck(pcall(forever))
    end
    while true do
        f()
    end
end, { singles = math.huge })

way("recursion through pcall", function()
    local function f() --[[breathe]]
        pcall(f)
        f()
    end
    f()
end, { quiet = true })

way("recursion through pcall, raised again", function()
    local function f() --[[breathe]]
        rethrow(pcall(f))
        f()
    end
    while true do
        rethrow(pcall(f))
    end
end, { quiet = true }) -- an overflow of the C stack may come in its way

way("recursion through xpcall", function()
    local function f() --[[breathe]]
        xpcall(f, f)
        f()
    end
    f()
end, { quiet = true })

way("recursion through coroutines", function()
    local function f() --[[breathe]]
        pcall(coroutine.wrap(f))
        coroutine.resume(coroutine.create(f))
        f()
    end
    f()
end, { quiet = true })

way("recursion through metamethods", function()
    local t = setmetatable({}, {})
    local function f() --[[breathe]]
        pcall(function() return t.x .. t end)
        return t < t
    end
    getmetatable(t).__index, getmetatable(t).__concat, getmetatable(t).__lt = f, f, f
    while true do
        pcall(f)
    end
end, { quiet = true })

way("recursion through string.gsub", function()
    local function f() --[[breathe]]
        return (("xx"):gsub("x", function()
            pcall(f)
        end))
    end
    f()
end, { quiet = true, deep = true })

way("overflows of the stack", function()
    local function f() --[[breathe]]
        return 1 + f()
    end
    while true do
        rethrow(pcall(f))
    end
end, { quiet = true, overflows = true }) -- an overflow may come in its way

way("overflows of the stack with a traceback", function()
    local function f() --[[breathe]]
        return 1 + f()
    end
    while true do
        rethrow(xpcall(f, debug.traceback))
    end
end, { quiet = true, overflows = true })

-- ---- xpcall ----

-- Each gives a message handler, which Lua calls for an interrupt, too. One that `loops` notes that first.
-- What one that `forgets` makes of it may be another error.
local handlers = {
    { "that returns", function()
        return function(e) return e end
    end },
    { "that gives a traceback", function()
        return function(e) return debug.traceback(e, 2) end
    end },
    { "debug.traceback", function() return debug.traceback end },
    { "tostring", function() return tostring end },
    { "tostring that loops", function()
        getmetatable("").__tostring = forever_after
        return tostring
    end, forgets = true },
    { "require that loops", function()
        package.searchers = { forever_after }
        return require
    end, forgets = true },
    { "pcall", function() return pcall end, forgets = true },
    { "error", function() return error end, forgets = true },
    { "coroutine.yield", function() return coroutine.yield end, forgets = true },
    { "that loops", function() return forever_after end, loops = true },
    { "that raises errors", function()
        return function(e) error(e, 0) end
    end, forgets = true },
    { "that raises tables", function()
        return function() error({}) end
    end, forgets = true },
    { "that makes errors", function()
        return function() return nil + 1 end
    end, forgets = true },
    { "that overflows the stack", function()
        local function f() --[[breathe]]
            return 1 + f()
        end
        return f
    end, forgets = true },
    { "that overflows the C stack", function()
        local function f() --[[breathe]]
            return pcall(f) and f()
        end
        return f
    end, forgets = true },
    { "that catches a loop", function()
        return function(e) rethrow(pcall(forever_after, e)) end
    end, loops = true },
    { "that catches loops without end", function()
        return function(e)
            struck(false, e)
            while true do
                struck(pcall(forever))
            end
        end
    end, loops = true, singles = math.huge },
    { "that has a handler that loops", function()
        return function(e)
            struck(false, e)
            rethrow(xpcall(error, forever_after))
        end
    end, loops = true },
    { "that has itself as its handler", function()
        local function f(e) --[[breathe]]
            xpcall(error, f, e)
        end
        return f
    end, forgets = true },
    { "that loops in a coroutine", function()
        return function(e) coroutine.wrap(forever_after)(e) end
    end, loops = true },
    { "that resumes a coroutine that loops", function()
        return function(e) rethrow(coroutine.resume(coroutine.create(forever_after), e)) end
    end, loops = true },
    { "that is a coroutine", function() return coroutine.wrap(forever_after) end, forgets = true },
    { "that has a __close that loops", function()
        return function(e)
            local _ <close> = looping
            struck(false, e)
        end
    end, loops = true },
    { "that closes a coroutine whose __close loops", function()
        return function(e)
            struck(false, e)
            local co = coroutine.create(function()
                local _ <close> = looping
                coroutine.yield()
            end)
            coroutine.resume(co)
            rethrow(coroutine.close(co))
        end
    end, loops = true },
    { "that loads code without end", function()
        return function(e)
            struck(false, e)
            rethrow(load(function() --[[breathe]] return " " end))
        end
    end, loops = true },
    { "that calls a state", function()
        return function(e)
            other("other", function() end):call()
            return e
        end
    end },
}

for _, handler in ipairs(handlers) do
    local name, part = table.unpack(handler)

    way("xpcall of a loop with a handler " .. name, function(handler_of)
        while true do
            rethrow(xpcall(forever, handler_of()))
        end
    end, { part = part, quiet = handler.forgets, singles = handler.singles or handler.loops and 2 })

    way("xpcall of errors with a handler " .. name, function(handler_of)
        while true do --[[breathe]]
            rethrow(xpcall(function() return nil + 1 end, handler_of()))
        end
    end, { part = part, quiet = handler.forgets, singles = handler.singles })

    way("xpcall of a loop without end with a handler " .. name, function(handler_of)
        while true do
            struck(xpcall(forever, handler_of()))
        end
    end, { part = part, quiet = handler.forgets, singles = math.huge })
end

for name, part in pairs({
    ["error()"] = function() error() end,
    ["an error with a table"] = function() error(setmetatable({}, { __tostring = forever })) end,
    ["assert"] = function() assert(false) end,
    ["a long string"] = function() return ("x"):rep(1 << 62) end,
    ["an overflow of the stack"] = function()
        local function f() --[[breathe]]
            return 1 + f()
        end
        f()
    end,
    ["an overflow of the C stack"] = function()
        local function f() --[[breathe]]
            return (("x"):gsub("x", f))
        end
        f()
    end,
    ["a coroutine that dies"] = function() coroutine.wrap(error)() end,
    ["a handler that fails"] = function() error(select(2, xpcall(error, error))) end,
    ["a state"] = function() other("other", function() error("x") end):call("run") end,
}) do
    way("xpcall with a handler that loops, of " .. name, function(fail)
        while true do --[[breathe]]
            rethrow(xpcall(fail, forever_after))
        end
    end, { part = part, singles = 2, deep = name:match("C stack") })
end

way("xpcall in xpcall with handlers that loop", function()
    local function f(depth)
        if depth == 0 then
            forever()
        end
        rethrow(xpcall(f, forever_after, depth - 1))
    end
    f(10)
end, { singles = 11 })

way("xpcall of what yields", function()
    local co = coroutine.wrap(function()
        return xpcall(function()
            while true do --[[breathe]]
                coroutine.yield(true)
            end
        end, forever_after)
    end)
    while true do
        rethrow(co())
    end
end, { singles = 2 })

way("xpcall of what yields and loops then", function()
    local co = coroutine.wrap(function()
        return xpcall(function(...)
            coroutine.yield(true)
            forever(...)
        end, forever_after, 1, 2, 3)
    end)
    co()
    rethrow(co())
end, { singles = 2 })

-- ---- coroutines ----

way("a coroutine", function()
    coroutine.wrap(forever)()
end)

way("a coroutine that is resumed", function()
    rethrow(coroutine.resume(coroutine.create(forever)))
end)

way("a coroutine that catches a loop without end", function()
    coroutine.wrap(function()
        while true do
            struck(pcall(forever))
        end
    end)()
end, { singles = math.huge })

way("coroutines in coroutines", function()
    local function f(depth)
        if depth == 0 then
            forever()
        end
        coroutine.wrap(f)(depth - 1)
    end
    f(30)
end)

way("coroutines in which a loop is caught without end", function()
    while true do
        struck(coroutine.resume(coroutine.create(forever)))
        struck(pcall(coroutine.wrap(forever)))
    end
end, { singles = math.huge, countless = true })

way("coroutines in coroutines that catch errors", function()
    local function f(depth)
        if depth == 0 then
            while true do
                struck(pcall(forever))
            end
        end
        struck(coroutine.resume(coroutine.create(f), depth - 1))
        forever()
    end
    f(20)
end, { singles = math.huge })

way("a coroutine that yields", function()
    local co = coroutine.wrap(function()
        while true do
            coroutine.yield()
        end
    end)
    while true do --[[breathe]]
        co()
    end
end)

way("a coroutine that yields out of pcall", function()
    local co = coroutine.wrap(function()
        while true do
            rethrow(pcall(function()
                while true do
                    coroutine.yield()
                end
            end))
        end
    end)
    while true do --[[breathe]]
        co()
    end
end)

way("a coroutine that yields out of pcall and loops then", function()
    local co = coroutine.wrap(function()
        return pcall(function()
            coroutine.yield()
            forever()
        end)
    end)
    co()
    rethrow(co())
end)

way("an iterator that is a coroutine", function()
    for _ in coroutine.wrap(function()
        while true do --[[breathe]]
            coroutine.yield(true)
        end
    end) do
    end
end)

way("coroutines that return", function()
    while true do --[[breathe]]
        coroutine.wrap(function() end)()
        coroutine.wrap(select)(1)
    end
end)

way("coroutines that stay suspended", function()
    while true do --[[breathe]]
        coroutine.wrap(coroutine.yield)()
    end
end)

way("coroutines that die", function()
    while true do --[[breathe]]
        rethrow(coroutine.resume(coroutine.create(error), "x"))
        rethrow(pcall(coroutine.wrap(error), "x"))
        rethrow(pcall(coroutine.wrap(function() return nil + 1 end)))
    end
end)

way("coroutines that are closed", function()
    while true do --[[breathe]]
        local co = coroutine.create(function()
            local _ <close> = setmetatable({}, { __close = function() end })
            coroutine.yield()
        end)
        rethrow(coroutine.resume(co))
        rethrow(coroutine.close(co))
    end
end)

way("coroutines that close each other", function()
    while true do --[[breathe]]
        local next_one
        for _ = 1, 10 do
            local before = next_one
            next_one = coroutine.create(function()
                local _ <close> = setmetatable({}, { __close = function()
                    if before then
                        rethrow(coroutine.close(before))
                    end
                end })
                coroutine.yield()
            end)
            rethrow(coroutine.resume(next_one))
        end
        rethrow(coroutine.close(next_one))
    end
end)

way("coroutines that wrap each other, errors forgotten", function()
    local one
    local function two()
        pcall(coroutine.wrap(one))
        error("x")
    end
    function one() --[[breathe]]
        coroutine.resume(coroutine.create(two))
        error("x")
    end
    while true do
        pcall(one)
    end
end, { quiet = true })

way("a coroutine that resumes itself and others that run", function()
    local co
    co = coroutine.create(function()
        while true do --[[breathe]]
            rethrow(coroutine.resume(co))
            rethrow(pcall(coroutine.close, co))
            rethrow(coroutine.resume(coroutine.running()))
        end
    end)
    rethrow(coroutine.resume(co))
end)

way("coroutine.running and its like", function()
    while true do --[[breathe]]
        coroutine.status(coroutine.running())
        coroutine.isyieldable()
    end
end)

way("a loop after a coroutine", function()
    coroutine.wrap(function() end)()
    pcall(coroutine.wrap(error))
    forever()
end)

-- ---- __close ----

way("a __close that loops", function()
    do
        local _ <close> = looping
    end
end)

way("a __close that loops after a loop", function()
    local _ <close> = looping
    forever()
end, { singles = 2 })

way("a __close that loops after an error", function()
    local _ <close> = looping
    error("x")
end)

way("a __close that loops after an error that pcall catches", function()
    rethrow(pcall(function()
        local _ <close> = looping
        error("x")
    end))
end)

way("two that __close loops for", function()
    local _ <close> = looping
    local _ <close> = looping
    forever()
end, { singles = 3 })

way("__close of __close to depth 10", function()
    local function f(depth)
        local _ <close> = setmetatable({}, { __close = function(_, e)
            struck(false, e)
            if depth > 1 then
                f(depth - 1)
            end
        end })
        forever()
    end
    f(10)
end, { singles = 10 })

way("a __close that a loop closes again and again", function()
    while true do --[[breathe]]
        local _ <close> = setmetatable({}, { __close = function() end })
    end
end)

way("a __close of an iterator that loops", function()
    for _ in next, {}, nil, looping do
    end
end)

way("a __close that raises errors, without end", function()
    while true do
        pcall(function()
            local _ <close> = setmetatable({}, { __close = function(_, e)
                struck(false, e)
                error("x")
            end })
            forever()
        end)
    end
end, { singles = math.huge })

way("a __close that catches loops without end", function()
    local _ <close> = setmetatable({}, { __close = function()
        while true do
            struck(pcall(forever))
        end
    end })
end, { singles = math.huge })

way("a __close of a coroutine that ends", function()
    coroutine.wrap(function()
        local _ <close> = looping
    end)()
end)

way("a __close of a coroutine that dies of the interrupt", function()
    coroutine.wrap(function()
        local _ <close> = looping
        forever()
    end)()
end, { singles = 2 })

way("a __close of a coroutine that dies of an error", function()
    coroutine.wrap(function()
        local _ <close> = looping
        error("x")
    end)()
end)

way("a __close of a coroutine that dies of an error in a metamethod of C", function()
    coroutine.wrap(function()
        local _ <close> = looping
        return ("x"):rep(1 << 62)
    end)()
end)

way("a __close of a coroutine that died of the interrupt and is closed", function()
    local co = coroutine.create(function()
        local _ <close> = looping
        forever()
    end)
    coroutine.resume(co)
    rethrow(coroutine.close(co))
end, { singles = 2 })

way("a __close of a coroutine that died of an error and is closed", function()
    local co = coroutine.create(function()
        local _ <close> = looping
        error("x")
    end)
    coroutine.resume(co)
    rethrow(coroutine.close(co))
end)

way("a __close of a suspended coroutine that is closed", function()
    local co = coroutine.create(function()
        local _ <close> = looping
        coroutine.yield()
    end)
    coroutine.resume(co)
    rethrow(coroutine.close(co))
end)

way("a __close of a coroutine that is closed by itself being closed", function()
    local function f(depth)
        local inner = depth > 1 and f(depth - 1)
        local co = coroutine.create(function()
            local _ <close> = setmetatable({}, { __close = function()
                if inner then
                    rethrow(coroutine.close(inner))
                else
                    forever()
                end
            end })
            coroutine.yield()
        end)
        coroutine.resume(co)
        return co
    end
    rethrow(coroutine.close(f(10)))
end)

way("a __close in coroutines in coroutines that die of the interrupt", function()
    local function f(depth)
        local _ <close> = looping
        if depth > 1 then
            coroutine.wrap(f)(depth - 1)
        end
        forever()
    end
    coroutine.wrap(f)(5)
end, { singles = 6 })

way("a __close that wraps a coroutine whose __close loops", function()
    local function f(depth)
        coroutine.wrap(function()
            local _ <close> = setmetatable({}, { __close = function()
                if depth > 1 then
                    f(depth - 1)
                end
                forever()
            end })
            error("x")
        end)()
    end
    f(5)
end, { quiet = true })

way("a __close of a coroutine that dies of a loop in pcall in a __close", function()
    coroutine.wrap(function()
        local _ <close> = setmetatable({}, { __close = function()
            while true do
                struck(pcall(forever))
            end
        end })
        error("x")
    end)()
end, { singles = math.huge })

way("a __close of coroutines without end, errors forgotten", function()
    while true do
        pcall(coroutine.wrap(function()
            local _ <close> = setmetatable({}, { __close = function(_, e)
                struck(false, e)
            end })
            forever()
        end))
    end
end, { singles = math.huge, quiet = true })

way("a __close in an xpcall whose handler loops", function()
    rethrow(xpcall(function()
        local _ <close> = looping
        forever()
    end, forever_after))
end, { singles = 3 })

way("a __close in coroutines in an xpcall whose handler loops", function()
    rethrow(xpcall(coroutine.wrap(function()
        local _ <close> = looping
        rethrow(xpcall(function() return nil + 1 end, forever_after))
    end), forever_after))
end, { singles = 3 })

-- ---- metamethods, and functions that C functions call ----

for name, part in pairs({
    __index = function(t) return t.x end,
    __newindex = function(t) t.x = 1 end,
    __lt = function(t) return t < t end,
    __le = function(t) return t <= t end,
    __eq = function(t) return t == setmetatable({}, getmetatable(t)) end,
    __concat = function(t) return "x" .. t end,
    __len = function(t) return #t end,
    __call = function(t) return t(1) end,
    __unm = function(t) return -t end,
    __add = function(t) return 1 + t end,
    __shl = function(t) return t << 1 end,
    ["__tostring in tostring"] = function(t) return tostring(t) end,
    ["__tostring in string.format"] = function(t) return ("%s"):format(t) end,
    ["__tostring of an error"] = function(t) error(t) end,
    ["__pairs"] = function(t) pairs(t) end,
    ["__len in table.unpack"] = function(t) return table.unpack(t) end,
    ["__index in table.concat"] = function(t) return table.concat(t, "", 1, 1) end,
    ["__newindex in table.insert"] = function(t) table.insert(t, 1, 1) end,
}) do
    local event = name:match("^__%l+")
    way("a loop in " .. name, load(([[
        local part = ...
        part(setmetatable({}, { %s = forever }))
    ]]):format(event), "=way"), { part = part })
end

way("metamethods without end", function()
    local t = setmetatable({}, {})
    local function f() --[[breathe]]
        return 0
    end
    for _, event in ipairs({ "index", "newindex", "lt", "concat", "len", "call", "close", "eq" }) do
        getmetatable(t)["__" .. event] = f
    end
    while true do
        local _ <close> = t
        t.x = (t.x .. t) + #t + t()
        round = t < t or t == setmetatable({}, getmetatable(t))
    end
end)

way("a loop in the function of string.gsub", function()
    ("x"):gsub("x", forever)
end)

way("string.gsub without end", function()
    while true do
        ("xxx"):gsub("x", function() --[[breathe]] return "y" end)
    end
end)

way("a loop in the order of table.sort", function()
    table.sort({ 3, 2, 1 }, forever)
end)

way("table.sort without end", function()
    while true do
        table.sort({ 3, 2, 1, 5, 4, 6 }, function(a, b) --[[breathe]] return a < b end)
    end
end)

way("a loop in the function of load", function()
    rethrow(load(forever))
end)

way("a function of load that never comes to the end", function()
    rethrow(load(function() --[[breathe]] return " " end))
end)

way("load without end", function()
    while true do --[[breathe]]
        load("return function(a) return a + 1 end")()(1)
        load("syntax error")
    end
end)

way("load and string.dump without end", function()
    while true do --[[breathe]]
        load(string.dump(function() return round end))()
    end
end)

way("require without end", function()
    package.preload.again = function() end
    while true do --[[breathe]]
        package.loaded.again = nil
        require("again")
        require("string")
    end
end)

way("require of a module that loops", function()
    package.preload.loops = function() forever() end
    require("loops")
end)

way("require of modules that there are none of", function()
    while true do --[[breathe]]
        rethrow(pcall(require, "no_such_module"))
    end
end)

way("string.gmatch and utf8.codes", function()
    while true do --[[breathe]]
        for word in ("one two three"):gmatch("%a+") do
            for _, code in utf8.codes(word) do
                round = utf8.char(code)
            end
        end
    end
end)

way("replaced functions", function()
    local raise = error
    pcall, error, xpcall = nil, nil, nil -- luacheck: ignore
    coroutine, debug = setmetatable({}, { __index = raise }), { sethook = debug.sethook } -- luacheck: ignore
    while true do --[[breathe]]
    end
end)

-- ---- debug hooks ----

local masks = {
    { "line", function() return "l" end },
    { "count 1", function() return "", 1 end },
    { "count 1000", function() return "", 1000 end },
    { "count 2e9", function() return "", 2000000000 end },
    { "call", function() return "c" end },
    { "return", function() return "r" end },
    { "everything", function() return "crl", 1 end },
}

for _, mask in ipairs(masks) do
    local name, part = table.unpack(mask)

    way("a loop with a hook by " .. name, function(mask_of)
        debug.sethook(function() end, mask_of())
        forever()
    end, { part = part })

    way("calls with a hook by " .. name, function(mask_of)
        debug.sethook(function() end, mask_of())
        while true do --[[breathe]]
            rethrow(pcall(math.abs, 1))
        end
    end, { part = part })

    way("a hook set again and again by " .. name, function(mask_of)
        while true do --[[breathe]]
            debug.sethook(function() end, mask_of())
        end
    end, { part = part })

    way("one hook set again and again without a call between, by " .. name, function(mask_of)
        local set, f, mask_now, count = debug.sethook, function() end, mask_of()
        while true do --[[breathe]]
            set(f, mask_now, count)
        end
    end, { part = part })

    way("a hook set and cleared by " .. name, function(mask_of)
        while true do --[[breathe]]
            debug.sethook(function() end, mask_of())
            debug.sethook()
        end
    end, { part = part })

    way("a hook that sets itself again by " .. name, function(mask_of)
        local function hook() --[[breathe]]
            debug.sethook(hook, mask_of())
        end
        debug.sethook(hook, mask_of())
        while true do --[[breathe]]
            math.abs(1)
        end
    end, { part = part })

    way("a hook that clears itself by " .. name, function(mask_of)
        while true do --[[breathe]]
            debug.sethook(function() debug.sethook() end, mask_of())
            math.abs(1)
        end
    end, { part = part })

    way("a hook that takes most of the time by " .. name, function(mask_of)
        debug.sethook(function()
            for _ = 1, 100000 do
            end --[[breathe]]
        end, mask_of())
        while true do --[[breathe]]
            math.abs(1)
        end
    end, { part = part })

    way("a hook that runs coroutines and catches errors by " .. name, function(mask_of)
        debug.sethook(function()
            coroutine.wrap(function() pcall(error, "x") end)() --[[breathe]]
        end, mask_of())
        while true do --[[breathe]]
            math.abs(1)
        end
    end, { part = part, quiet = true }) -- there are no hooks in a hook, but in its coroutine

    way("pcall of a loop without end with a hook by " .. name, function(mask_of)
        debug.sethook(function() end, mask_of())
        while true do
            struck(pcall(forever))
        end
    end, { part = part, singles = math.huge, countless = true })

    way("pcall of hooks set, replaced and cleared without end by " .. name, function(mask_of)
        local function set()
            while true do --[[breathe]]
                debug.sethook(function() end, mask_of())
                debug.sethook(type, mask_of())
                debug.sethook()
            end
        end
        while true do
            struck(pcall(set))
        end
    end, { part = part, singles = math.huge, countless = true })

    -- What an interrupt leaves is a hook that was set, not parts of two.
    way("pcall of hooks set by turns, and looked at, by " .. name, function(mask_of)
        debug.sethook()
        local events, count = mask_of()
        local function one() end
        local function two() end
        local function set()
            local hook, its_events, its_count = debug.gethook()
            if hook and not (hook == one and its_events == events and its_count == (count or 0))
                and not (hook == two and its_events == "cr" and its_count == 3) then
                return ("was left: %s %s %d"):format(hook == one and 1 or hook, its_events, its_count)
            end
            while true do --[[breathe]]
                debug.sethook(one, events, count)
                debug.sethook(two, "cr", 3)
                debug.sethook()
            end
        end
        local ok, problem
        repeat
            ok, problem = struck(pcall(set))
        until ok
        return problem
    end, { part = part, singles = math.huge, countless = true })

    way("a coroutine with a hook of its own by " .. name, function(mask_of)
        coroutine.wrap(function()
            debug.sethook(function() end, mask_of())
            forever()
        end)()
    end, { part = part })

    way("a coroutine that is given hooks by " .. name, function(mask_of)
        local co = coroutine.create(function()
            while true do
                for _ = 1, 100 do --[[breathe]]
                end
                coroutine.yield()
            end
        end)
        while true do
            debug.sethook(co, function() end, mask_of())
            rethrow(coroutine.resume(co))
            debug.sethook(co)
            rethrow(coroutine.resume(co))
        end
    end, { part = part })

    way("a hook that is set for the caller by " .. name, function(mask_of)
        local main = coroutine.running()
        coroutine.wrap(function()
            while true do --[[breathe]]
                debug.sethook(main, function() end, mask_of())
                debug.sethook(main)
                debug.gethook(main)
            end
        end)()
    end, { part = part })

    way("a hook that raises errors, without end, by " .. name, function(mask_of)
        debug.sethook(function()
            if armed then
                armed = false
                error("of the hook")
            end
        end, mask_of())
        local function catch()
            while true do
                struck(pcall(function()
                    armed = true
                    while armed do --[[breathe]]
                        math.abs(1)
                    end
                end))
            end
        end
        while true do -- an interrupt may have left it armed
            struck(pcall(catch))
        end
    end, { part = part, singles = math.huge, quiet = true }) -- the hook can come in its way
end

for _, mask in ipairs({ masks[1], masks[2], masks[5] }) do
    local name, part = table.unpack(mask)

    way("a hook that raises errors for a handler that loops by " .. name, function(mask_of)
        armed = false
        debug.sethook(function()
            if armed then
                debug.sethook()
                error("of the hook")
            end
        end, mask_of())
        rethrow(xpcall(function()
            armed = true
            while true do --[[breathe]]
                math.abs(1)
            end
        end, forever_after))
    end, { part = part })

    way("a hook that raises errors in a coroutine whose __close loops by " .. name, function(mask_of)
        coroutine.wrap(function()
            local _ <close> = looping
            debug.sethook(function()
                debug.sethook()
                error("of the hook")
            end, mask_of())
            while true do --[[breathe]]
                math.abs(1)
            end
        end)()
    end, { part = part })

    way("a hook that raises errors in a coroutine that is closed then, by " .. name, function(mask_of)
        local co = coroutine.create(function()
            local _ <close> = looping
            debug.sethook(function()
                debug.sethook()
                error("of the hook")
            end, mask_of())
            while true do --[[breathe]]
                math.abs(1)
            end
        end)
        rethrow(coroutine.resume(co)) -- one that came before there was anything to close
        rethrow(coroutine.close(co))
    end, { part = part })
end

way("debug.sethook() without end", function()
    while true do --[[breathe]]
        debug.sethook()
    end
end)

way("debug.sethook() without end and without a look-up", function()
    local clear = debug.sethook
    while true do --[[breathe]]
        clear()
    end
end)

way("hooks of every kind by turns", function()
    local kinds = { { "l" }, { "", 1 }, { "", 1000 }, { "", 2000000000 }, { "c" }, { "r" }, {} }
    local function set()
        while true do --[[breathe]]
            for _, kind in ipairs(kinds) do
                debug.sethook(kind[1] and function() end, table.unpack(kind))
                debug.gethook()
            end
        end
    end
    while true do
        struck(pcall(set))
    end
end, { singles = math.huge, countless = true })

way("coroutines that each have a hook of another kind", function()
    local kinds, coroutines = { { "l" }, { "", 1 }, { "", 1000 }, { "", 2000000000 }, { "c" }, { "r" } }, {}
    for i, kind in ipairs(kinds) do
        coroutines[i] = coroutine.wrap(function()
            debug.sethook(function() end, table.unpack(kind))
            while true do
                for _ = 1, 1000 do --[[breathe]]
                end
                coroutine.yield()
            end
        end)
    end
    while true do
        for _, co in ipairs(coroutines) do
            co()
        end
    end
end)

way("a hook on a coroutine that dies again and again", function()
    while true do --[[breathe]]
        local co = coroutine.create(function() return nil + 1 end)
        debug.sethook(co, function() end, "crl", 1)
        rethrow(coroutine.resume(co))
        debug.sethook(co)
    end
end)

-- ---- states ----

way("a state that it calls", function()
    other("inner", arrive):call("run")
end, { target = "inner" })

way("a state that it calls from a coroutine", function()
    coroutine.wrap(function()
        other("inner", function() coroutine.wrap(arrive)() end):call("run")
    end)()
end, { target = "inner" })

way("a state that it calls with pcall, without end", function()
    local inner = other("inner", function()
        note()
        while true do
            struck(pcall(forever))
        end
    end)
    rethrow(pcall(inner.call, inner, "run"))
end, { target = "inner", singles = math.huge })

way("a state that a state calls", function()
    other("middle", function()
        other("inner", arrive):call("run")
    end):call("run")
end, { target = "inner" })

way("a state whose xpcall has a handler that loops", function()
    local inner = other("inner", function()
        note()
        rethrow(xpcall(function() return nil + 1 end, forever))
    end)
    inner:call("run")
end, { target = "inner" })

way("a loop after a call of another state", function()
    local inner = other("inner", function() end)
    inner:call("run")
    forever()
end)

way("a loop after a call of another state from a coroutine", function()
    local inner = other("inner", function() end)
    coroutine.wrap(function()
        inner:call("run")
        forever()
    end)()
end)

way("a loop after another state that fails", function()
    local inner = other("inner", function() error("x") end)
    rethrow(pcall(inner.call, inner, "run"))
    forever()
end)

-- The interrupt finds the inner state at work, whom it does not concern; a time limit does, on a machine
-- that has other work.
way("a loop after a call of another state that takes a while", function()
    local inner = other("inner", function()
        local deadline = os.clock() + 0.02
        while os.clock() < deadline do
        end
    end)
    local ok, e = pcall(inner.call, inner, "run")
    if not ok and e:find('name="inner"', 1, true) and not e:find(mtstates.error.time_limit, 1, true) then
        return "hit the wrong state"
    end
    rethrow(ok, e)
    forever()
end)

way("calls of another state without end", function()
    local inner = other("inner", function() end)
    while true do --[[breathe]]
        inner:call("run")
    end
end)

way("calls of another state that fails, without end", function()
    local inner = other("inner", function() error("x") end)
    while true do --[[breathe]]
        rethrow(pcall(inner.call, inner, "run"))
    end
end)

way("a call of itself", function()
    local self = mtstates.state(mtstates.id())
    if not round then
        round = 1
        self:call("run")
    end
    round = nil
    forever()
end)

way("a call of itself from a coroutine", function()
    local self = mtstates.state(mtstates.id())
    if not round then
        round = 1
        coroutine.wrap(function() self:call("run") end)()
    end
    round = nil
    forever()
end)

way("a loop after a call of itself", function()
    mtstates.state(mtstates.id()):call("innocent", 1)
    forever()
end)

way("calls of itself without end", function()
    local self = mtstates.state(mtstates.id())
    while true do --[[breathe]]
        self:call("innocent", 1)
    end
end)

way("a call back from another state", function()
    if round then
        round = nil
        forever()
    end
    round = 1
    other("inner", function()
        mtstates.state("outer"):call("run")
    end):call("run")
end)

way("a call back from another state, caught there", function()
    if round then
        round = nil
        forever()
    end
    round = 1
    other("inner", function()
        local outer = mtstates.state("outer")
        struck(pcall(outer.call, outer, "run"))
    end):call("run")
    forever()
end, { singles = 2 })

way("states that it makes", function()
    while true do --[[breathe]]
        local state <close> = mtstates.newstate("return function() end")
        state:call()
    end
end)

way("states that it makes, with finalizers", function()
    while true do --[[breathe]]
        mtstates.newstate([[
            KEEP = setmetatable({}, { __gc = function() for _ = 1, 1000 do end end })
            return function() end
        ]]):close()
    end
end)

way("look-ups", function()
    while true do --[[breathe]]
        mtstates.state(mtstates.id()):id()
        rethrow(pcall(mtstates.state, "no such state"))
    end
end)

way("interrupts of another state", function()
    local inner = other("inner", function() forever() end)
    while true do --[[breathe]]
        inner:interrupt()
        pcall(inner.call, inner, "run") -- luacheck: ignore
    end
end, { quiet = true })

-- ---- what is closed on the way out ----

-- Loops with something to be closed; `whole` takes a while to close, and is there so many times. The loop
-- notes that it begins.
ways.closings = {}

local function closing(where, whole_ones, run, target)
    ways.closings[where] = { whole = whole_ones, run = run, target = target }
end

closing("in main code", 1, function()
    local _ <close> = whole
    arrive()
end)

closing("two in one block", 2, function()
    local _ <close> = whole
    local _ <close> = whole
    arrive()
end)

closing("below a pcall", 1, function()
    local _ <close> = whole
    rethrow(pcall(arrive))
end)

closing("in a pcall", 1, function()
    rethrow(pcall(function()
        local _ <close> = whole
        arrive()
    end))
end)

closing("in an xpcall", 1, function()
    rethrow(xpcall(function()
        local _ <close> = whole
        arrive()
    end, debug.traceback))
end)

closing("in a __close", 2, function()
    local _ <close> = whole
    local _ <close> = setmetatable({}, { __close = function()
        local _ <close> = whole
    end })
    arrive()
end)

closing("of an iterator", 1, function()
    for _ in next, { 1 }, nil, whole do
        arrive()
    end
end)

closing("in a coroutine", 1, function()
    coroutine.wrap(function()
        local _ <close> = whole
        arrive()
    end)()
end)

closing("in coroutines in coroutines", 4, function()
    local function f(depth)
        local _ <close> = whole
        if depth > 1 then
            coroutine.wrap(f)(depth - 1)
        end
        arrive()
    end
    f(4)
end)

closing("in a coroutine that is closed afterwards", 1, function()
    local co = coroutine.create(function()
        local _ <close> = whole
        arrive()
    end)
    local _ <close> = setmetatable({}, { __close = function() coroutine.close(co) end })
    rethrow(coroutine.resume(co))
end)

closing("in a suspended coroutine that is closed afterwards", 1, function()
    local co = coroutine.create(function()
        local _ <close> = whole
        coroutine.yield()
    end)
    coroutine.resume(co)
    local _ <close> = setmetatable({}, { __close = function() coroutine.close(co) end })
    arrive()
end)

closing("in a state that calls the one with the loop", 2, function()
    local inner = other("inner", function()
        local _ <close> = whole
        arrive()
    end)
    local _ <close> = whole
    inner:call("run")
end, "inner")

return ways
