-- Writes random programs that will not end, for adversary.lua, and makes states that run them. For
-- dofile.
--
-- A program is composed from the templates of CONSTRUCTS, one in the other to a random depth. In a
-- template
--     $body     is a program, one level down
--     $text     is one as the text of a string
--     $finite   is one that ends by itself
--     $tick     stands in each loop: nothing, or for the thread sanitizer, which delivers signals at
--               calls of libc that it knows, such a call
--     $name     is a fresh name, the same in all of the template
--     $deep, $levels, $few, $state, … are drawn from DRAWN
-- What runs as a finalizer or inside a debug hook, where Lua calls no hook, is $finite, and so is what
-- it calls of other states. Memory stays bounded: no loop without end keeps what it makes.
--
-- Other values than the templates' own come from the tools that a state has, see `setup`.
local programs = {}

local choose = dofile("test/children.lua").choose
local TSAN = os.getenv("MTSTATES_TEST_TSAN") ~= nil

-- Name, what ends when its bodies do, and what may run on even so. A leaf ends a branch.
local CONSTRUCTS = {
    -- ---- leaves ----
    { "loop", leaf = true, {}, {
        "while true do $tick end",
        "repeat $tick until false",
        "for _ = 1, math.huge do $tick end",
        "local i = 0 while true do i = i + 1 $tick end",
        "while true do for _ = 1, 3 do $tick end end",
        "while true do $tick local _ = { {}, {} } end",
        "while true do $tick local _ = ('x'):rep(100) .. 1 end",
        "while true do $tick local x x = function() return x end end",
    } },
    { "goto_loop", leaf = true, {}, {
        "::$name:: $tick goto $name",
        "::$name:: do local _ = 1 $tick goto $name end",
        "::$name:: if 1 < 2 then $tick goto $name end",
    } },
    { "call_loop", leaf = true, {}, {
        "local function f() $tick return f() end f()",
        "local function f() $tick return f() + 1 end while true do pcall(f) end",
        "local function f() pcall(f) $tick pcall(f) end f()",
        "local f = coroutine.wrap(function() while true do coroutine.yield() end end) while true do $tick "
            .. "f() end",
        "for _ in function() $tick return 1 end do end",
        "for _ in coroutine.wrap(function() while true do $tick coroutine.yield(1) end end) do end",
        "while true do $tick pcall(error) end",
        "while true do $tick xpcall(error, error) end",
        "while true do $tick tostring({}) end",
        "while true do $tick local _ = ('a'):rep(100):find(('a?'):rep(9) .. 'b') end",
        "local f = load('local f = ... while true do f() end') f(function() $tick end)",
    } },
    { "nothing", leaf = true, {
        "local _ = 1",
        "local _ = {}",
        "do return end",
        "do return 'payload', 2, 3 end",
    }, {} },
    { "raise", leaf = true, {
        "error('payload')",
        "error('mtstates.error.interrupted')",
        "error()",
        "error({})",
        "local _ = nil + 1",
        "local _ <close> = 1",
        "string.rep()",
        "coroutine.yield()",
        "do return {} end",
        "error(object({ __tostring = function() error('payload') end }))",
    }, {} },

    -- ---- errors and who catches them ----
    { "pcall", {
        "pcall(function() $body end)",
        "pcall(pcall, pcall, function() $body end)",
        "local ok = pcall(function() $body end) if not ok then $body end",
        "xpcall(function() $body end, debug.traceback)",
        "xpcall(function() $body end, function(...) return ... end)",
        "pcall(xpcall, function() $body end, error)",
    }, {
        "while true do $tick pcall(function() $body end) end",
        "while not (pcall(function() $body end) and false) do $tick end",
        "::$name:: pcall(function() $body end) $tick goto $name",
        "local function f() $tick pcall(function() $body end) return f() end f()",
        "while true do $tick xpcall(function() $body end, debug.traceback) end",
    } },
    { "handler", {
        "xpcall(function() $body end, function() $body end)",
        "xpcall(error, function() $body end)",
        "xpcall(function() return nil + 1 end, function() $body end)",
        "xpcall(function() $body end, function() error('payload') end)",
        "xpcall(function() $body end, function() xpcall(error, function() $body end) error('payload') end)",
        "xpcall(function() $body end, function() coroutine.wrap(function() $body end)() end)",
    }, {
        "while true do $tick xpcall(function() $body end, function() $body end) end",
        "xpcall(function() $body end, function() while true do $tick end end)",
        "xpcall(function() $body end, function() while true do $tick pcall(error) end end)",
        "while true do $tick xpcall(function() $body end, function() error('payload') end) end",
        "local function f() $tick xpcall(error, f) end f()",
    } },
    { "error_object", {
        "error(object({ __tostring = function() $body return 'payload' end }))",
        "error(object({ __tostring = function() $body end, __name = 'payload' }))",
        "error(object({ __index = function() $body end }))",
    }, {
        "error(object({ __tostring = function() while true do $tick end end }))",
    } },

    -- ---- coroutines ----
    { "coroutine", {
        "coroutine.wrap(function() $body end)()",
        "pcall(coroutine.wrap(function() $body end))",
        "coroutine.wrap(coroutine.wrap(function() $body end))()",
        "coroutine.resume(coroutine.create(function() $body end))",
        "coroutine.resume(coroutine.create(coroutine.wrap(function() $body end)))",
        "local f = coroutine.wrap(function() $body coroutine.yield(1) $body end) f() f()",
        "for _ in coroutine.wrap(function() $body coroutine.yield(1) end) do $body break end",
        "local co co = coroutine.create(function() pcall(coroutine.close, co) pcall(coroutine.resume, co) "
            .. "$body end) coroutine.resume(co)",
        "coroutine.wrap(function() pcall(function() coroutine.yield() $body end) end)()",
    }, {
        "local co = coroutine.create(function() $body end) while true do $tick coroutine.resume(co) end",
        "while true do $tick pcall(coroutine.wrap(function() $body end)) end",
        "while true do $tick coroutine.wrap(function() coroutine.yield() $body end)() end",
        "local f = coroutine.wrap(function() while true do coroutine.yield() $body end end) while true do "
            .. "$tick pcall(f) end",
        "local function f() $tick return coroutine.wrap(f)() end while true do $tick pcall(f) end",
        "while true do $tick local co = coroutine.create(function() $body end) coroutine.resume(co) "
            .. "coroutine.close(co) end",
    } },

    -- ---- to be closed ----
    { "close", {
        "local _ <close> = closing(function() $body end) $body",
        "pcall(function() local _ <close> = closing(function() $body end) error('payload') end)",
        "for _ in next, {}, nil, closing(function() $body end) do end",
        "for _ in do_only, function() $body end, nil, closing(function() $body end) do end",
        "do local _ <close> = closing(function() $body end) goto $name end ::$name::",
        "local function f() local _ <close> = closing(function() $body end) return 1, 2, 3 end f()",
        "local a <close> = closing(function() $body end) local b <close> = closing(function() "
            .. "error('payload') end)",
        "local _ <close> = closing(function() local _ <close> = closing(function() $body end) $body end) "
            .. "$body",
    }, {
        "while true do $tick local _ <close> = closing(function() $body end) end",
        "local _ <close> = closing(function() while true do $tick end end) $body",
        "while true do for _ in next, {1}, nil, closing(function() $body end) do $tick break end end",
        "local function f() local _ <close> = closing(f) $tick pcall(function() $body end) end f()",
    } },
    { "close_in_coroutine", { -- that dies, or is closed
        "coroutine.wrap(function() local _ <close> = closing(function() $body end) $body end)()",
        "coroutine.resume(coroutine.create(function() local _ <close> = closing(function() $body end) $body "
            .. "end))",
        "close_suspended(function() $body end)",
        "pcall(coroutine.wrap(function() local _ <close> = closing(function() $body end) error('payload') "
            .. "end))",
        "local co = coroutine.create(function() local _ <close> = closing(function() $body end) $body end) "
            .. "coroutine.resume(co) coroutine.close(co)",
        "coroutine.wrap(function() local _ <close> = closing(function() coroutine.yield() $body end) end)()",
        "close_suspended(function() close_suspended(function() $body end) $body end)",
        "local co co = coroutine.create(function() local _ <close> = closing(function() "
            .. "pcall(coroutine.close, co) $body end) coroutine.yield() end) coroutine.resume(co) "
            .. "coroutine.close(co)",
        "close_suspended(function() coroutine.wrap(function() $body end)() end)",
    }, {
        "while true do $tick close_suspended(function() $body end) end",
        "close_suspended(function() while true do $tick end end)",
        "coroutine.wrap(function() local _ <close> = closing(function() while true do $tick end end) $body "
            .. "end)()",
        "while true do $tick pcall(close_suspended, function() $body end) end",
    } },

    -- ---- metamethods ----
    { "metamethod", {
        "local _ = object({ __index = function() $body end }).x",
        "object({ __newindex = function() $body end }).x = 1",
        "local _ = object({ __lt = function() $body end }) < 1",
        "local _ = 1 <= object({ __le = function() $body end })",
        "local _ = object({ __eq = function() $body end }) == {}",
        "object({ __call = function() $body end })()",
        "object({ __call = object({ __call = function() $body end }) })()",
        "local _ = #object({ __len = function() $body return 0 end })",
        "tostring(object({ __tostring = function() $body return 'payload' end }))",
        "local _ = -object({ __unm = function() $body end })",
        "local _ = object({ __add = function() $body end }) + 1",
        "local _ = 1 // object({ __idiv = function() $body end })",
        "local _ = ~object({ __bnot = function() $body end })",
        "for _ in pairs(object({ __pairs = function() $body return next, {} end })) do end",
        "local _ = object({ __index = object({ __index = function() $body end }) }).x",
        "string.format('%s', object({ __tostring = function() $body return 'payload' end }))",
        "table.concat(object({ __len = function() return 1 end, __index = function() $body end }))",
        "table.unpack(object({ __index = function() $body end }), 1, 3)",
        "table.insert(object({ __newindex = function() $body end }), 1)",
        "table.move({ 1, 2 }, 1, 2, 1, object({ __newindex = function() $body end }))",
        "for _ in ipairs(object({ __index = function(_, i) $body return i < 3 end })) do break end",
        "table.sort({ object({ __lt = function() $body return false end }), 1 })",
    }, {
        "local o = object({ __lt = function() $body return true end }) while o < o do $tick end",
        "local o = object({ __index = function() $tick return true end }) while o.x do end",
        "local o = object({ __eq = function() $tick return true end }) while o == object({}) do end",
        "local o o = object({ __call = function() $tick return o() end }) o()",
        "local o o = object({ __index = function(_, k) $tick return o[k] end }) while true do pcall(next, "
            .. "o.x) end",
        "for _ in ipairs(object({ __index = function() $tick return 1 end })) do end",
        "table.unpack(object({ __index = function() while true do $tick end end }), 1, 3)",
        "table.move({}, 1, math.maxinteger - 1, 2, object({ __newindex = function() $tick end }))",
    } },

    { "concat", { -- see LEFT_OUT
        "local _ = 'x' .. object({ __concat = function() $body end })",
        "local _ = 'x' .. object({ __concat = function() $body return 'payload' end }) .. 'x'",
    }, {
        "local o o = object({ __concat = function() $tick return o end }) while true do local _ = o .. 1 end",
    } },

    -- ---- C functions that call back ----
    { "callback", {
        "local _ = ('x'):gsub('x', function() $body end)",
        "local _ = ('xx'):gsub('x', object({ __index = function() $body end }))",
        "table.sort({ 1, 2, 3 }, function() $body return false end)",
        "load(function() do_only(function() $body end) end)",
        "assert(load($text, '=text'))()",
        "package.preload.payload = function() $body end pcall(require, 'payload') package.loaded.payload = "
            .. "nil",
        "select('#', pcall(load(string.dump(function() end))))",
        "string.format('%q', tostring(load(function() do_only(function() $body end) end)))",
    }, {
        "while true do $tick local _ = ('x'):gsub('x', function() $body end) end",
        "local _ = ('x'):rep(1000000):gsub('x', function() $tick pcall(function() $body end) end)",
        "table.sort(numbers(1000), function(a, b) $tick pcall(function() $body end) return a < b end)",
        "while true do $tick table.sort(numbers(100), function(a, b) $tick return a > b end) end",
        "load(function() $tick return ' ' end)",
        "while true do $tick load('return ' .. ('('):rep(100) .. '1' .. (')'):rep(100)) end",
        "while true do load($text)() $tick end",
        "package.preload.payload = function() while true do $tick end end require('payload')",
    } },

    -- ---- depth ----
    { "nest", {
        "nest($levels, $kind, function() $body end)",
        "nest($levels, $kind .. $kind .. $kind, function() $body end)",
        "pcall(nest, $levels, $kind, function() $body end)",
        "recurse($deep, function() $body end)",
    }, {
        "while true do $tick pcall(nest, $levels, $kind, function() $body end) end",
        "while true do $tick pcall(recurse, $deep, function() $body end) end",
        "nest($levels, $kind, function() while true do $tick end end)",
    } },
    { "text", { -- the parser's depth
        "nested($levels, $block, $text)",
        "pcall(nested, $deep, $block, $text)",
        "load(('('):rep($deep) .. '1' .. (')'):rep($deep))",
        "load('return ' .. ('{'):rep($levels) .. ('}'):rep($levels))",
        "load('return ' .. ('a .. '):rep($deep) .. '1')",
        "load(('local _ '):rep($levels))",
        "load('return ' .. ('-'):rep($deep) .. '1')",
    }, {
        "while true do $tick pcall(nested, $deep, $block, $text) end",
    } },
    { "close_chain", { -- coroutines that close each other
        "close_chain($levels, function() $body end)",
        "close_chain($long, function() $body end)",
        "pcall(close_chain, $long, function() $body end)",
    }, {
        "while true do $tick pcall(close_chain, $long, function() $body end) end",
        "close_chain($levels, function() while true do $tick end end)",
    } },
    { "die_chain", { -- coroutines each of which dies while the one before is closed
        "die_chain($levels, function() $body end)",
        "pcall(die_chain, $deep, function() $body end)",
    }, {
        "while true do $tick pcall(die_chain, $deep, function() $body end) end",
        "local function f() coroutine.wrap(function() local _ <close> = closing(f) $tick error('payload') "
            .. "end)() end f()",
    } },
    { "deep_close", { -- __close at every level
        "deep_close($levels, function() $body end, function() $finite end)",
        "pcall(deep_close, $deep, function() $body end, function() $finite end)",
        "deep_close($few, function() $body end, function() $body end)",
        "deep_close($levels, function() error('payload') end, function() $body end)",
    }, {
        "while true do $tick pcall(deep_close, $deep, function() $body end, function() $finite end) end",
        "deep_close($levels, function() error('payload') end, function() while true do $tick end end)",
    } },
    { "many", {
        "(function(...) $body end)(table.unpack({}, 1, $many))",
        "select('#', table.unpack({}, 1, $many))",
        "coroutine.wrap(function(...) $body return ... end)(table.unpack({}, 1, $many))",
        "coroutine.wrap(function() coroutine.yield(table.unpack({}, 1, $many)) end)()",
        "pcall(table.concat, table.pack(table.unpack({}, 1, $many)))",
        "do return table.unpack({}, 1, $many) end",
        "ping($state, table.unpack({}, 1, $many))",
    }, {
        "while true do $tick (function() end)(table.unpack({}, 1, $many)) end",
    } },

    -- ---- the collector ----
    { "collector", {
        "collectgarbage()",
        "collectgarbage('step')",
        "collectgarbage('step', $few)",
        "collectgarbage('generational')",
        "collectgarbage('incremental', $few * 10, 100)",
        "collectgarbage('setpause', $few * 10)",
        "collectgarbage('count')",
        "local weak = setmetatable({}, { __mode = 'kv' }) for i = 1, $levels do weak[{}] = { i } end "
            .. "collectgarbage()",
    }, {
        "while true do $tick collectgarbage('step') end",
        "while true do $tick collectgarbage('generational') collectgarbage('incremental') end",
        "while true do $tick collectgarbage() pcall(function() $body end) end",
        "while true do $tick for _ = 1, 100 do local _ = {} end collectgarbage('generational') end",
    } },
    { "finalizer", {
        "garbage(function() $finite end)",
        "garbage(function() $finite end) collectgarbage() $body",
        "garbage(function() garbage(function() $finite end) collectgarbage() end) collectgarbage()",
        "garbage(function(o) kept = o garbage(function() kept = nil end) end) collectgarbage() $body",
        "coroutine.wrap(function() garbage(function() $finite end) collectgarbage() $body end)()",
        "garbage(function() close_suspended(function() $finite end) end) collectgarbage()",
        "garbage(function() collectgarbage('generational') $finite end) collectgarbage('step') $body",
        "garbage(function() collectgarbage('stop') collectgarbage('restart') end) $body",
        "for _ = 1, $few do garbage(function() error('payload') end) end collectgarbage() $body",
    }, {
        "while true do $tick garbage(function() $finite end) end",
        "while true do $tick garbage(function() $finite end) collectgarbage('step') end",
        "while true do $tick garbage(function() end) collectgarbage('generational') "
            .. "collectgarbage('incremental') end",
    } },

    -- ---- debug hooks ----
    { "hook", {
        "debug.sethook(hook(function() $finite end), $mask, $count) $body",
        "debug.sethook() $body",
        "debug.sethook(hook(function() debug.sethook() end), $mask, $count) $body",
        "debug.sethook(hook(function() debug.sethook(hook(function() $finite end), $mask, 1) end), $mask, "
            .. "2) $body",
        "local co = coroutine.create(function() $body end) debug.sethook(co, hook(function() $finite end), "
            .. "$mask, $count) coroutine.resume(co)",
        "coroutine.wrap(function() debug.sethook(hook(function() $finite end), $mask, $count) $body end)()",
        "coroutine.wrap(function() debug.sethook() $body end)()",
        "debug.sethook(hook(function() coroutine.wrap(function() $finite end)() end), $mask, $count) $body",
        "local f, mask, count = debug.gethook() debug.sethook(f, mask, count) $body",
        "debug.sethook(os.clock, $mask, $count) $body",
        "local main = coroutine.running() coroutine.wrap(function() debug.sethook(main, hook(function() "
            .. "$finite end), $mask, $count) $body debug.sethook(main) $body end)()",
        "debug.sethook(hook(function() collectgarbage() end), $mask, 1000) $body",
    }, {
        "while true do $tick debug.sethook() end",
        "while true do $tick debug.sethook(hook(function() end), $mask, $count) end",
        "while true do $tick debug.sethook(hook(function() $finite end), $mask, $count) debug.sethook() end",
        "debug.sethook(hook(function() end), $mask, $count) while true do $tick end",
        "debug.sethook(hook(function() end), $mask, $count) ::$name:: $tick goto $name",
        "while true do $tick coroutine.wrap(function() debug.sethook(os.clock, $mask, $count) $body end)() "
            .. "end",
        "while true do $tick local _ = debug.gethook(), debug.traceback() end",
    } },
    { "hook_error", { -- hooks that raise; the message handler then runs inside the hook
        "debug.sethook(raising(function() $finite end), $mask, $count) $body",
        "coroutine.wrap(function() debug.sethook(raising(function() $finite end), $mask, $count) $body "
            .. "end)()",
        "xpcall(function() debug.sethook(raising(function() end), $mask, $count) $body end, debug.traceback)",
        "xpcall(function() debug.sethook(raising(function() end), $mask, $count) $body end, function() "
            .. "$body end)",
        "coroutine.wrap(function() local _ <close> = closing(function() $body end) "
            .. "debug.sethook(raising(function() end), $mask, $count) $body end)()",
    }, {
        "debug.sethook(raising(function() end), $mask, $count) while true do $tick pcall(function() $body "
            .. "end) end",
    } },

    -- ---- states ----
    { "ping", { "ping($state)", "ping($state, ('x'):rep(10000))", "pcall(ping, $state)" }, {
        "while true do $tick pcall(ping, $state) end",
    } },
    { "states", {}, {
        "run($state)",
        "pcall(run, $state)",
        "run_named($named)",
        "run_myself()",
        "pcall(run_myself)",
        "coroutine.wrap(run_myself)()",
        "local _ <close> = closing(function() run($state) end) $body",
        "while true do $tick pcall(run, $state) end",
        "while true do $tick pcall(run_named, $named) end",
        "while true do $tick pcall(run_in_time, $state) end",
        "new_state($named, $text)",
        "pcall(new_state, $named, $text)",
        "nest($levels, $kind, function() pcall(run_myself) $body end)",
    } },
    { "interrupt", {}, {
        "interrupt($state) $body",
        "pcall(interrupt, $state) $body",
        "interrupt($state, true) $body",
        "pcall(interrupt_named, $named) $body",
        "while true do $tick pcall(interrupt, $state) end",
    } },
    { "close_state", {}, {
        "pcall(close_state, $state) $body",
        "while true do $tick pcall(close_state, $state) end",
    } },
}

local DRAWN = { -- from these lists
    deep = { 100, 180, 190, 200, 210, 250, 500, 1000, 3000, 20000 },
    long = { 200, 1000, 3000, 10000, 30000 },
    levels = { 1, 2, 3, 5, 10, 20, 50, 100, 150, 180, 190, 195, 198, 200, 220 },
    few = { 1, 2, 3, 5, 10 },
    many = { 0, 1, 17, 18, 19, 20, 21, 250, 10000, 100000, 900000, 999900, 1000000 },
    block = { "do", "function", "if", "while", "for", "repeat", "pcall", "wrap" },
    mask = { "", "c", "r", "l", "cr", "crl", "rl" },
    count = { 0, 1, 1, 2, 3, 7, 100, 1000, 2000000000 },
    state = { 1, 2, 3, 4 },
    named = { "a", "b", "c" },
}
local DRAWN_FINITE = { -- where it must not take long
    deep = { 1, 10, 100, 200 },
    long = { 1, 100, 200 },
    levels = { 1, 3, 10, 100, 200 },
    many = { 0, 1, 20, 21, 250, 10000 },
}

-- Kinds of levels of `nest`, by the construct that they are.
local KINDS = {
    pcall = { "pcall ", "xpcall " },
    handler = { "handler " },
    coroutine = { "wrap ", "resume " },
    close = { "close " },
    close_in_coroutine = { "suspended " },
    metamethod = { "index ", "lt ", "call ", "tostring " },
    concat = { "concat " },
    callback = { "gsub ", "sort ", "load " },
    nest = { "function " },
}

-- What templates of other constructs have of these.
local TRACES = { coroutine = "coroutine%.[cw]", close = "closing%(", hook = "debug%.sethook" }

local BY_NAME = {}
for _, construct in ipairs(CONSTRUCTS) do
    BY_NAME[construct[1]] = construct
end

-- ---- which constructs ----

local ONLY, LEFT_OUT = os.getenv("ADVERSARY_ONLY"), os.getenv("ADVERSARY_WITHOUT") or ""
if require("mtstates")._INFO:find("Lua 5%.4%.[0-4]%f[%D]") then
    -- A __concat that moves the stack leaves Lua's own luaV_concat with a pointer into what was freed.
    LEFT_OUT = LEFT_OUT .. ",concat"
end

-- Whether the list of constructs has that one.
local function is_listed(list, name)
    for word in list:gmatch("[%w_]+") do
        assert(BY_NAME[word], word)
    end
    return list:find("%f[%w_]" .. name .. "%f[^%w_]") ~= nil
end

local function is_enabled(construct)
    return (construct.leaf or not ONLY or is_listed(ONLY, construct[1]))
        and not is_listed(LEFT_OUT, construct[1])
end

-- Those of the templates that have no trace of what is left out.
local function without_traces(templates)
    local list = {}
    for _, template in ipairs(templates) do
        local clean = true
        for name, trace in pairs(TRACES) do
            clean = clean and not (is_listed(LEFT_OUT, name) and template:find(trace))
        end
        list[#list + 1] = clean and template or nil
    end
    return list
end

local enabled, kinds = {}, {} -- constructs; kinds of levels of `nest`
for _, construct in ipairs(CONSTRUCTS) do
    if is_enabled(construct) then
        construct[2], construct[3] = without_traces(construct[2]), without_traces(construct[3])
        enabled[#enabled + 1] = construct
        local more = KINDS[construct[1]] or {}
        table.move(more, 1, #more, #kinds + 1, kinds)
    end
end
DRAWN.kind = kinds

-- Those that fit in a program.
local function fitting_constructs(closing, leaves)
    local list = {}
    for _, construct in ipairs(enabled) do
        if (closing or construct[1] ~= "close_state") and (not leaves or construct.leaf) then
            list[#list + 1] = construct
        end
    end
    return list
end

-- ---- writing ----

local write

-- What a writer puts for $body and the like, at `depth`.
local FILL = {}

function FILL.body(writer, depth, finite)
    return ("\n%s\n"):format(write(writer, depth + 1, finite)):gsub("\n%f[^\n]", "\n  ")
end

function FILL.finite(writer, depth)
    return FILL.body(writer, math.max(depth, writer.depth - 2), true)
end

function FILL.text(writer, depth, finite)
    return ("%q"):format(write(writer, depth + 1, finite))
end

function FILL.tick()
    return TSAN and "os.time();" or ""
end

local function instance(template, writer, depth, finite)
    writer.instances = writer.instances + 1
    local name = "name" .. writer.instances
    return (template:gsub("%$(%a+)", function(word)
        if word == "name" then
            return name
        elseif FILL[word] then
            return FILL[word](writer, depth, finite)
        end
        local value = choose(finite and DRAWN_FINITE[word] or DRAWN[word])
        return type(value) == "string" and ("%q"):format(value) or tostring(value)
    end))
end

-- Templates of a construct that fit, or an empty list.
local function templates(construct, finite)
    local ending, running = construct[2], construct[3]
    if finite or #running == 0 or #ending > 0 and math.random(3) > 1 then
        return ending
    end
    return running
end

-- A block of one or two statements, each in a block of its own.
function write(writer, depth, finite)
    local blocks = {}
    for i = 1, depth < writer.depth and math.random(5) == 1 and 2 or 1 do
        local ends = depth >= writer.depth or writer.instances > writer.size
        local list = ends and writer.leaves or writer.constructs
        local construct, fitting
        repeat
            construct = choose(list)
            fitting = templates(construct, finite)
        until #fitting > 0
        writer.used[construct[1]] = true
        blocks[i] = "do " .. instance(choose(fitting), writer, depth, finite) .. " end"
    end
    return table.concat(blocks, "\n")
end

-- A program as text, and a list of the constructs in it. `closing`: may close states.
function programs.write(closing)
    local writer = {
        constructs = fitting_constructs(closing, false),
        leaves = fitting_constructs(closing, true),
        depth = choose({ 1, 2, 3, 4, 6, 9 }),
        size = choose({ 10, 30, 60 }),
        instances = 0,
        used = {},
    }
    local text = write(writer, 0, false)
    assert(load(text, "=program"))
    local used = {}
    for name in pairs(writer.used) do
        used[#used + 1] = name
    end
    table.sort(used)
    return text, used
end

-- ---- running ----

-- The setup of a state with `program`. Its callback takes "meet", ids: of the states that $state means;
-- "run": runs the program; and gives the arguments back for everything else. `board` is the id of a
-- state that wants to hear of those that the program makes; `own_code` is this function's. A state that a
-- program has made (`is_made`) runs nothing before "known": its maker may have been interrupted before the
-- board knew, and others find it by its name.
local function setup(own_code, program, board, is_made)
    local mtstates = require("mtstates")
    local others, made, raised = {}, 0, 0
    local tools = {}

    function tools.object(metatable)
        return setmetatable({}, metatable)
    end

    function tools.closing(f)
        return setmetatable({}, { __close = function() f() end })
    end

    function tools.do_only(f) -- for callers who would go on with a result
        f()
    end

    function tools.garbage(f)
        setmetatable({}, { __gc = f })
    end

    function tools.numbers(n)
        local list = {}
        for i = 1, n do
            list[i] = i * 7919 % 1009
        end
        return list
    end

    function tools.hook(f)
        return function() pcall(f) end
    end

    function tools.raising(f)
        return function()
            pcall(f)
            if raised < 20 then
                raised = raised + 1
                error("payload of a hook")
            end
        end
    end

    function tools.close_suspended(f)
        local co = coroutine.create(function()
            local _ <close> = tools.closing(f)
            coroutine.yield()
        end)
        coroutine.resume(co)
        assert(coroutine.close(co))
    end

    -- One level each, around f().
    local levels_of = {
        gsub = function(f) return (("x"):gsub("x", function() f() end)) end,
        pcall = function(f) assert(pcall(f)) end,
        xpcall = function(f) assert(xpcall(f, debug.traceback)) end,
        handler = function(f) return xpcall(error, function() f() end) end,
        sort = function(f) table.sort({ 1, 2 }, function() f() return false end) end,
        load = function(f) load(function() f() end) end,
        wrap = function(f) coroutine.wrap(function() f() end)() end,
        resume = function(f) assert(coroutine.resume(coroutine.create(function() f() end))) end,
        close = function(f) local _ <close> = tools.closing(f) end,
        suspended = tools.close_suspended,
        index = function(f) return tools.object({ __index = function() f() end }).x end,
        lt = function(f) return tools.object({ __lt = function() f() end }) < 1 end,
        concat = function(f) return tools.object({ __concat = function() f() end }) .. 1 end,
        call = function(f) tools.object({ __call = function() f() end })() end,
        ["function"] = function(f) f() end,
        tostring = function(f) tostring(tools.object({ __tostring = function() f() return "" end })) end,
    }
    -- `names`: of kinds, which take turns.
    function tools.nest(levels, names, f)
        if levels == 0 then
            return f()
        end
        local name = names:match("^%a+")
        levels_of[name](function()
            tools.nest(levels - 1, names:sub(#name + 2) .. name .. " ", f)
        end)
    end

    function tools.recurse(levels, f)
        if levels > 0 then
            tools.recurse(levels - 1, f)
        else
            f()
        end
        return nil
    end

    local blocks = {
        ["do"] = { "do ", " end" },
        ["function"] = { "(function() ", " end)()" },
        ["if"] = { "if true then ", " end" },
        ["while"] = { "while true do ", " break end" },
        ["for"] = { "for _ = 1, 1 do ", " end" },
        ["repeat"] = { "repeat ", " until true" },
        ["pcall"] = { "pcall(function() ", " end)" },
        ["wrap"] = { "coroutine.wrap(function() ", " end)()" },
    }
    local environment

    function tools.nested(levels, kind, text)
        local block = blocks[kind]
        text = block[1]:rep(levels) .. text .. block[2]:rep(levels)
        assert(load(text, "=nested", "t", environment))()
    end

    function tools.close_chain(length, f)
        local following
        for _ = 1, length do
            local closes = following
            following = coroutine.create(function()
                local _ <close> = tools.closing(function()
                    if closes then
                        coroutine.close(closes)
                    else
                        f()
                    end
                end)
                coroutine.yield()
            end)
            coroutine.resume(following)
        end
        coroutine.close(following)
    end

    function tools.die_chain(length, f)
        if length == 0 then
            return f()
        end
        coroutine.wrap(function()
            local _ <close> = tools.closing(function() tools.die_chain(length - 1, f) end)
            error("payload")
        end)()
    end

    function tools.deep_close(levels, f, at_close)
        local _ <close> = tools.closing(at_close)
        if levels == 0 then
            f()
        else
            tools.deep_close(levels - 1, f, at_close)
        end
    end

    local function other(i)
        return mtstates.state(others[(i - 1) % #others + 1])
    end

    function tools.ping(i, ...)
        other(i):tcall(0, "ping", ...)
    end

    function tools.run(i)
        other(i):call("run")
    end

    function tools.run_in_time(i)
        other(i):tcall(0.002, "run")
    end

    function tools.run_named(name)
        mtstates.state(name):call("run")
    end

    function tools.run_myself()
        mtstates.state(mtstates.id()):call("run")
    end

    function tools.interrupt(i, always)
        other(i):interrupt(always)
    end

    function tools.interrupt_named(name)
        mtstates.state(name):interrupt()
    end

    function tools.close_state(i)
        other(i):close()
    end

    function tools.new_state(name, text)
        assert(made < 3, "payload")
        made = made + 1
        local state = mtstates.newstate(name, true, own_code, own_code, text, board, true)
        state:call("meet", table.unpack(others))
        if mtstates.state(board):tcall(10, "made", state:id()) then
            state:call("known")
            state:call("run")
        end
    end

    environment = setmetatable(tools, { __index = _G })
    local run = assert(load(program, "=program", "t", environment))
    local is_known = not is_made
    return function(what, ...)
        if what == "run" and is_known then
            return run(...)
        elseif what == "known" then
            is_known = true
        elseif what == "meet" then
            others = { ... }
        end
        return ...
    end
end

local own_code = string.dump(setup)

-- A state with that program, as a handle that owns it.
function programs.new_state(mtstates, name, program, board)
    return mtstates.newstate(name, true, setup, own_code, program, board)
end

return programs
