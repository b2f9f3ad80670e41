-- Bad input by machine: every function, method and metamethod of the module is called with nasty
-- arguments, from nasty places.
--
--     lua5.4 test/fuzz.lua        runs children, see children.lua
--     lua5.4 test/fuzz.lua SEED   is such a child; says on stderr what it is about to do
--
-- A child's seed decides what is called, with what, and from where; the threads' pace is their own.
--
-- An operation may return, or raise a string that Lua, the module or the bad value itself is known
-- to raise. Everything else fails the test: another error, a crash of the child, a child that does
-- not end. What waits for ever because it was told to does not occur here:
--   - tcall(math.huge) of a state whose thread waits for one of ours: only the main program, which
--     is in no state, has long timeouts, all others wait for at most MAX_WAIT seconds
--   - callbacks without end: each ends by itself, or in a stack overflow
-- Out of the game is what breaks any Lua program: corrupted binary chunks, and the debug library's
-- setmetatable, setupvalue and getregistry on the module's own objects.
-- luacheck: globals KEPT FINAL FRESH AT_END string coroutine
local mtstates = require("mtstates")
local children, graphs = dofile("test/children.lua"), dofile("test/graphs.lua")
local carray = require("carray") -- the tests'; another one's `new` may raise an error, which is a value, too

local OPERATIONS = 300 -- of one child
local CHILD_SECONDS = 100 -- after which it is taken for hung; it needs about one
local MAX_WAIT = 0.002
local SLOTS = 8
local NAMES = { "a", "b", "", "\0", "a\0b", ("n"):rep(65535) }
local SCRIPT = "test/fuzz.lua"

local choose = children.choose

-- ---- values ----

local function fails()
    error("payload")
end

local FAILING = { __index = fails, __newindex = fails, __len = fails, __call = fails,
    __tostring = fails, __pairs = fails, __eq = fails, __lt = fails,
    __concat = fails, __close = fails, __gc = fails,
    __name = "payload", __metatable = false }

local upvalue = 1
local function with_upvalue()
    return upvalue
end

local function echo()
    return function(...) return ... end
end

-- Setups, with code of a kind in each. They see globals only.
local SETUPS = {
    echo,
    function(...) return function(...) return ... end, ... end,
    function() return function(value) error(value) end end,
    function() return function() error(setmetatable({}, { __tostring = error })) end end,
    function() return function() error(setmetatable({}, { __tostring = next })) end end,
    function() return function() error(setmetatable({}, { __name = {} })) end end,
    function() return function(...) return coroutine.yield(...) end end,
    function() return function() return {} end, {} end,
    function() return print end,
    function() return nil, 1 end,
    function(...) error((...)) end,
    function()
        return function(...) return debug.sethook(function() error("payload") end, "crl", 1), ... end
    end,
    function() return function() return setmetatable({}, { __index = error }).x end end,
    function() return function() return table.unpack({}, 1, 999000) end end,
    function() return function(n) return ("x"):rep(math.type(n) == "integer" and n % 1000000 or 9) end end,
    function() -- a state that calls itself until the stack is full, from a coroutine at each level
        local mt = require("mtstates")
        return function(...)
            local self = mt.state(mt.id())
            return coroutine.wrap(self.call)(self, ...)
        end
    end,
    function() -- calls from the bottom of a full Lua stack
        local mt = require("mtstates")
        local deep
        function deep(n)
            local ok, message = pcall(deep, n + 1)
            if not ok and n % 50 == 0 then
                pcall(mt.newstate, "return function() end")
                pcall(error, message)
            end
        end
        return function() deep(0) end
    end,
    function() -- closes, drops and makes states as it closes
        local mt = require("mtstates")
        KEPT = mt.newstate(nil, false, function() return function() end end)
        FINAL = setmetatable({}, { __gc = function()
            pcall(KEPT.close, KEPT)
            FRESH = mt.newstate(nil, false, function() return function() end end)
            pcall(mt.singleton, "a", "return function() end")
            error("payload")
        end })
        return function() collectgarbage() end
    end,
    function() -- a close of itself, in all ways that there are
        local mt = require("mtstates")
        return function()
            local self <close> = mt.state(mt.id())
            coroutine.close(coroutine.create(function() self:close() end))
            pcall(coroutine.wrap(function() self:close() end))
            self:interrupt()
            self:close()
        end
    end,
    function(...)
        return require("mtstates").singleton("a", "return function() end", ...) and function() end
    end,
    function() -- an interpreter in pieces
        package.path, package.cpath, package.preload = 42, {}, nil
        package.loaded.string, string, coroutine, debug.getmetatable("").__index = nil, nil, nil, nil
        return function(...) return require("mtstates").newstate(echo or "return function() end"), ... end
    end,
    function() -- finalizers of a collector without a pause
        collectgarbage("generational")
        local mt = require("mtstates")
        return function()
            setmetatable({}, { __gc = function() mt.newstate("return function() end"):call({}) end })
            collectgarbage("step")
        end
    end,
}

local CODE = {
    "return function(...) return ... end", "return ...", "return (", "", "\0", "\27Lua", "=x", "@x",
    "return function() return 1, {} end", "error(nil)", "local x <close> = 1", "goto nowhere",
    string.dump(echo), string.dump(echo, true), string.dump(with_upvalue),
    ("return "):rep(300), ("("):rep(10000), "return " .. ("{"):rep(190) .. ("}"):rep(190),
    "return function() " .. ("local _ "):rep(250) .. " end",
}

local SMALL = { true, false, 0, -0.0, 1, -1, 2, 1.5, math.huge, -math.huge, 0 / 0, 1e-300, math.mininteger,
    math.maxinteger, 1 << 53, 2.0 ^ 53, 2.0 ^ 63, -2.0 ^ 63, 0x100000, "", "\0", "x", "1", "0x10", "a\0b" }

local FUNCTIONS = { print, with_upvalue, error, pcall, echo, coroutine.wrap(fails), string.gmatch("", ""),
    mtstates.newstate, mtstates.state, mtstates.id }

local methods = debug.getmetatable(mtstates.newstate(echo))
local pool_methods = debug.getmetatable(mtstates.newpool({ size = 1 }, echo))
local slots = {} -- profiles, and handles of states and pools, whatever has become of them

local function any_handle()
    local handle = slots[math.random(SLOTS)]
    local name = choose(NAMES)
    if handle == nil then
        local found, named = pcall(mtstates.state, name)
        handle = found and named or nil
    end
    return handle
end

local function option_table()
    local options = {}
    for _ = 1, math.random(0, 3) do
        options[choose({ "name", "libs", "inherit", "memory_limit", "time_limit", "size", "min", "recycle",
            "interval", "depth", "states", "x", "\0", 1, 0.5, false, FAILING, print })] =
            choose({ true, false, "a", "", 1, -1, 0.01, 1e6, math.huge, FAILING, ("n"):rep(65536), print,
                {}, { calls = 1 }, { seconds = 0.001, bytes = 1 }, { calls = 0 }, { x = 1 } })
    end
    return math.random(3) == 1 and setmetatable(options, FAILING) or options
end

-- Mostly one that crosses.
local function any_graph()
    local objects = { slots[math.random(SLOTS)] }
    if math.random(3) == 1 then
        objects[#objects + 1] = choose({ choose(FUNCTIONS), setmetatable({}, FAILING), io.stdout,
            select(2, pcall(carray.new, 5, math.random(0, 3))) })
    end
    return math.random(100) == 1 and graphs.chain(math.random(1000)) or graphs.random(10, objects)
end

local KINDS = {
    any_graph,
    any_graph,
    function() return nil end,
    function() return choose(SMALL) end,
    function() return choose(NAMES) end,
    function() return choose(CODE) end,
    function() return choose(SETUPS) end,
    function() return choose(FUNCTIONS) end,
    function() return ("x"):rep(choose({ 39, 40, 41, 255, 256, 1024, 1025, 65536, 4 << 20 })) end,
    function() return choose({ io.stdout, coroutine.running(), coroutine.create(fails), mtstates,
        mtstates.error, debug.upvalueid(with_upvalue, 1), _G, package.loaded }) end,
    function() return setmetatable({}, FAILING) end,
    option_table,
    any_handle,
    function() return (select(2, pcall(methods.__index.id, slots[math.random(SLOTS)]))) end, -- or a message
}

local function any_value()
    return choose(KINDS)()
end

-- Mostly a few; now and then as many as there can be, of one small value.
local function any_arguments()
    local size = math.random(60)
    if size == 1 then
        local value = choose(SMALL)
        local many = table.pack(choose(KINDS)())
        for i = 2, choose({ 17, 18, 19, 20, 21, 40, 250, 10000, 199000, 999950, 1000000 }) do
            many[i] = value
        end
        many.n = #many
        return many
    end
    local few = { n = size % 6 }
    for i = 1, few.n do
        few[i] = any_value()
    end
    return few
end

-- ---- operations ----

local function method(name)
    return name, function(handle, ...) return methods.__index[name](handle, ...) end, "method"
end

local function pool_method(name)
    return name, function(handle, ...) return pool_methods.__index[name](handle, ...) end, "method"
end

local function profile_method(name)
    return name, function(p, ...) return p[name](p, ...) end, "method"
end

local function function_of(name)
    return name, mtstates[name], "function"
end

local function metamethod(name, f)
    return name, f or methods[name], "method"
end

local TARGETS = {
    { function_of("newstate") }, { function_of("newstate") }, { function_of("newstate") },
    { function_of("state") }, { function_of("state") }, { function_of("singleton") },
    { function_of("singleton") }, { function_of("id") }, { function_of("type") },
    { function_of("class") }, { "class", function() mtstates.class(choose(NAMES), FAILING) end, "handle" },
    { method("call") }, { method("call") }, { method("call") }, { method("tcall") }, { method("tcall") },
    { method("close") }, { method("id") }, { method("name") }, { method("isowner") }, { method("interrupt") },
    { function_of("newpool") }, { function_of("newpool") }, { function_of("pool") },
    { function_of("states") }, { function_of("pools") }, { function_of("stats") }, { function_of("metrics") },
    { method("stats") }, { method("memory") },
    { pool_method("call") }, { pool_method("call") }, { pool_method("tcall") }, { pool_method("broadcast") },
    { pool_method("reload") }, { pool_method("state") }, { pool_method("close") }, { pool_method("stats") },
    { pool_method("interrupt") },
    { "start", mtstates.profile.start, "method" }, { "stop", mtstates.profile.stop, "method" },
    { "start", function() mtstates.profile.start({ interval = 0.001 }) end, "method" },
    { profile_method("folded") }, { profile_method("speedscope") }, { profile_method("pprof") },
    { profile_method("top") }, { profile_method("stats") },
    { profile_method("write") }, -- no name that it may be given has an extension
    { metamethod("__gc") }, { metamethod("__close") }, { metamethod("__call") }, { metamethod("__eq") },
    { metamethod("__tostring") },
    { metamethod("tostring", tostring) },
    { metamethod("==", function(a, b) return a == b end) },
    { "()", function(a, ...) return a(...) end, "handle" },
    { metamethod("index", function(a, b) return a[b] end) },
    { "newindex", function(a, b, c) a[b] = c end, "handle" }, -- no table: it may be one of ours
    { metamethod("length", function(a) return #a end) },
    { metamethod("concatenation", function(a, b) return a .. b end) },
    { metamethod("comparison", function(a, b) return a < b end) },
    { metamethod("<close>", function(a) local _ <close> = a end) },
    { "for", function(a, ...) for x in a, ... do error("payload " .. type(x)) end end, "handle" },
    { metamethod("collectgarbage", function() return collectgarbage() end) },
}

-- Mostly none.
local function any_limits(options)
    options.memory_limit = math.random(3) == 1 and choose({ 50000, 300000, 5e6 }) or nil
    options.time_limit = math.random(3) == 1 and choose({ 0.001, 0.01, 0.1, 10 }) or nil
    return options
end

local function pool_options()
    local size = math.random(3)
    return any_limits({ name = choose(NAMES), size = size, min = math.random(size),
        recycle = choose({ { calls = 2 }, { seconds = 0.001 }, { bytes = 1 }, {} }) })
end

-- A newstate, newpool or singleton that has a chance: [name|options|nil,] [libs,] setup [, ...]
local function maker_arguments(name)
    local arguments = table.pack(choose(NAMES))
    if name == "newpool" then
        arguments[1] = pool_options()
    elseif name == "newstate" and math.random(2) == 1 then
        arguments[1] = math.random(2) == 1 and any_limits({ name = choose(NAMES), inherit = true }) or nil
    elseif name == "singleton" and math.random(2) == 1 then
        arguments[1] = any_limits({ name = choose(NAMES) })
    end
    if name ~= "newpool" and math.random(3) == 1 then
        arguments.n = arguments.n + 1
        arguments[arguments.n] = math.random(3) > 1
    end
    arguments[arguments.n + 1] = math.random(4) == 1 and choose(CODE) or choose(SETUPS)
    for i = 2, math.random(4) do
        arguments[arguments.n + i] = math.random(3) == 1 and any_graph() or choose(SMALL)
    end
    arguments.n = math.max(arguments.n + 1, #arguments)
    return arguments
end

local function brief(value)
    if type(value) == "string" then
        return ("%q"):format(value:sub(1, 30)):gsub("\n", "n") .. (#value > 30 and "…" .. #value or "")
    end
    return type(value) == "number" and tostring(value) or type(value)
end

-- Draws what to do: a function without arguments, and its description.
local function draw(inside)
    local name, f, kind = table.unpack(choose(TARGETS))
    local arguments = any_arguments()
    local looks_up = kind == "function" and (name == "state" or name == "pool")
    if kind == "function" and math.random(4) > 1 and not looks_up then
        arguments = maker_arguments(name)
    elseif looks_up and math.random(3) > 1 then
        arguments = table.pack(choose(NAMES))
    elseif kind == "handle" or kind == "method" and math.random(6) > 1 then
        table.move(arguments, 1, arguments.n, 2)
        arguments[1], arguments.n = any_handle(), arguments.n + 1
    end
    local waits = name == "tcall" or name == "broadcast" or name == "close"
    if waits and math.random(3) > 1 then
        arguments[2] = choose({ 0, -1, 0.001, 1e-9, math.huge, math.maxinteger, 1e300, 1 << 53 })
        arguments.n = math.max(2, arguments.n)
    end
    if waits and inside and type(arguments[2]) == "number" and arguments[2] > MAX_WAIT then
        arguments[2] = MAX_WAIT
    end
    local slot = math.random(SLOTS)
    local words = { name }
    for i = 1, math.min(arguments.n, 6) do
        words[#words + 1] = brief(arguments[i])
    end
    return function()
        local results = table.pack(f(table.unpack(arguments, 1, arguments.n)))
        for i = 1, math.min(results.n, 2) do
            if mtstates.type(results[i]):find("^mtstates%.") then
                slots[slot] = results[i]
            end
        end
    end, ("%s, %d arguments"):format(table.concat(words, " "), arguments.n)
end

-- ---- errors ----

local function attempt(f, description)
    local ok, message = pcall(f)
    if not ok and not children.is_known(message, {}) then
        io.stderr:write(("unexpected error of %s: %s\n"):format(description, message))
        os.exit(1)
    end
end

-- ---- places to do it from ----

local function descend(depth, f)
    if depth == 0 then
        return f()
    end
    return (("x"):gsub("x", function() descend(depth - 1, f) end))
end

local PLACES = {
    plain = function(f) f() end,
    coroutine = function(f) coroutine.wrap(f)() end,
    closed_coroutine = function(f)
        local co = coroutine.create(function()
            local _ <close> = setmetatable({}, { __close = f })
            coroutine.yield()
        end)
        coroutine.resume(co)
        coroutine.close(co)
    end,
    finalizer = function(f)
        setmetatable({}, { __gc = f })
        collectgarbage()
    end,
    close = function(f)
        pcall(function()
            local _ <close> = setmetatable({}, { __close = f })
            error("payload")
        end)
    end,
    tostring = function(f)
        tostring(setmetatable({}, { __tostring = function() f() return "" end }))
    end,
    hook = function(f)
        debug.sethook(function()
            debug.sethook()
            f()
        end, "", 1)
        local _ = {}
        debug.sethook()
    end,
    handler = function(f) xpcall(error, function() f() end, "payload") end,
    handler_of_overflow = function(f)
        local first = true
        xpcall(descend, function()
            if first then
                first = false
                f()
            end
        end, 1000)
    end,
    sort = function(f) table.sort({ 1, 2 }, function() f() return false end) end,
    deep = function(f) descend(150, f) end,
    stopped_collector = function(f)
        collectgarbage("stop")
        f()
        collectgarbage("restart")
    end,
}
local PLACE_NAMES = {}
for name in pairs(PLACES) do
    PLACE_NAMES[#PLACE_NAMES + 1] = name
end
table.sort(PLACE_NAMES)

-- ---- one operation, in any interpreter ----

local run

-- A state that fuzzes when it is called with ("fuzz", seed, n, depth), and as it closes.
local function nest(seed, n, depth)
    local options = { name = choose({ "a", "b", "fuzz" }), memory_limit = 1e8, time_limit = 1000 }
    local state = mtstates.newstate(options, function(script, ...)
        local step = assert(loadfile(script))("inside")
        local its_seed, its_n, its_depth = ...
        FINAL = setmetatable({}, { __gc = function() step(its_seed, -its_n, its_depth) end })
        return step
    end, SCRIPT, seed, n, depth)
    slots[math.random(SLOTS)] = state
    return function()
        state:call(seed, n, depth)
        state:tcall(MAX_WAIT, seed, n + 1, depth)
    end
end

function run(seed, n, depth, where)
    math.randomseed(seed, n * 4 + depth)
    local place = math.random(2) == 1 and "plain" or choose(PLACE_NAMES)
    local f, description
    if depth < 2 and math.random(6) == 1 then
        f, description = nest(seed, n, depth + 1), "a state"
    else
        f, description = draw(depth > 0 or place ~= "plain" or where ~= "main")
    end
    description = ("%s %d depth %d in %s: %s"):format(where, n, depth, place, description)
    io.stderr:write(description .. "\n") -- one piece, since threads write, too
    attempt(function()
        PLACES[place](function() attempt(f, description) end)
    end, description)
end

local function inside(seed, n, depth, ...)
    if math.type(seed) == "integer" and math.type(n) == "integer" and math.type(depth) == "integer"
        and depth > 0 then
        run(seed, n, depth, "state")
    end
    return ...
end

-- ---- threads ----

local function start_threads(seed)
    local found, thread = pcall(require, "cqueues.thread")
    local threads = {}
    for i = 1, found and 2 or 0 do
        threads[i] = thread.start(function(_, script, thread_seed)
            local run_all = assert(loadfile(script))("thread")
            run_all(tonumber(thread_seed))
        end, SCRIPT, tostring(seed + i))
    end
    return threads
end

local function run_all(seed, where)
    for n = 1, OPERATIONS do
        run(seed, n, 0, where)
    end
end

-- ---- a child ----

local function child(seed)
    local threads = start_threads(seed)
    run_all(seed, "main")
    for _, thread in ipairs(threads) do
        assert(thread:join())
    end
    assert(mtstates.newstate(echo):call("works") == "works")
    io.stderr:write("closing\n")
    AT_END = setmetatable({}, { __gc = function() -- as this host closes
        for n = 1, 20 do
            run(seed, -n, 1, "end")
        end
    end })
end

local how = ...
if how == "inside" then
    return inside
elseif how == "thread" then
    return function(seed) run_all(seed, "thread") end
elseif how then
    child(math.tointeger(tonumber(how)))
else
    children.run(SCRIPT, { seconds = CHILD_SECONDS, lines = 60 })
end
