-- What crosses between Lua states, in and out of everything that runs code of another one.
local mtstates = require("mtstates")
local support = require("support")
local graphs = dofile("test/graphs.lua")

local echo = mtstates.newstate("values", support.echo)

-- Carries values through everything that takes them, and gives those that came back.
local ways = {
    ["call and back"] = function(...)
        return echo:call(...)
    end,
    ["tcall and back"] = function(...)
        return select(2, echo:tcall(1, ...))
    end,
    ["the handle itself and back"] = function(...)
        return echo(...)
    end,
    ["setup and back"] = function(...)
        return select(2, mtstates.newstate(function(...)
            return function() end, ...
        end, ...))
    end,
    ["singleton's setup, and a call back"] = function(...)
        local state <close> = mtstates.singleton("values: a singleton", function(...)
            local kept = table.pack(...)
            return function()
                return table.unpack(kept, 1, kept.n)
            end
        end, ...)
        return state:call()
    end,
    ["a call of a state to itself"] = function(...)
        return mtstates.newstate(function()
            local mt = require("mtstates")
            return function(how, ...)
                if how == "outer" then
                    return mt.state(mt.id()):call("inner", ...)
                end
                return ...
            end
        end):call("outer", ...)
    end,
    ["a call in a call round a circle"] = function(...)
        local a <close> = mtstates.newstate("values: a", function()
            local mt = require("mtstates")
            return function(how, ...)
                if how == "there" then
                    return mt.state("values: b"):call(...)
                end
                return ...
            end
        end)
        local b <close> = mtstates.newstate("values: b", function()
            local mt = require("mtstates")
            return function(...)
                return mt.state("values: a"):call("back", ...)
            end
        end)
        assert(b:isowner())
        return a:call("there", ...)
    end,
    ["a coroutine of a state"] = function(...)
        return mtstates.newstate(function()
            return function(...)
                return coroutine.wrap(function(...) return coroutine.yield(...) or ... end)(...)
            end
        end):call(...)
    end,
}

for way, carry in pairs(ways) do
    describe("by " .. way, function()
        local function arrives(value)
            local same, difference = graphs.same(value, (carry(value)))
            assert.is_true(same, difference)
        end

        it("plain values cross exactly", function()
            local values = { true, false, 1, 1.0, -0.0, 0 / 0, math.mininteger, 2.0 ^ 63, "", "a\0b",
                ("x"):rep(100000) }
            local got = table.pack(carry(nil, table.unpack(values)))
            assert.equal(#values + 1, got.n)
            assert.is_nil(got[1])
            for i, value in ipairs(values) do
                assert.is_true(graphs.same(value, got[i + 1]))
            end
        end)

        it("tables cross by copy", function()
            local t = { 1, 2.0, "three", { four = { 5 } } }
            local copy = carry(t)
            assert.not_equal(t, copy)
            assert.same(t, copy)
            assert.equal("float", math.type(copy[2]))
            copy[4].four[1] = "changed"
            assert.equal(5, t[4].four[1])
        end)

        it("tables are shared, and contain themselves, as they do here, over all values", function()
            local inner = {}
            local t = { inner, { inner } }
            t.self = t
            local copy, same, other = carry(t, inner, {})
            assert.equal(copy, copy.self)
            assert.equal(copy[1], copy[2][1])
            assert.equal(copy[1], same)
            assert.not_equal(same, other)
        end)

        it("all that can be a key is one", function()
            local key = { label = 1 }
            local f = load("return 1")
            arrives({ [true] = 1, [false] = 2, [1] = 3, [1.5] = 4, [-1] = 5, [2 ^ 53] = 6, [math.huge] = 7,
                [math.mininteger] = 8, [""] = 9, ["\0"] = 10, [("k"):rep(1000)] = 11, [key] = key, [f] = f })
        end)

        it("a table that is its own key crosses", function()
            local t = {}
            t[t] = t
            local copy = carry(t)
            assert.equal(copy, copy[copy])
            assert.equal(copy, (next(copy)))
        end)

        it("functions cross, and one that occurs twice is one", function()
            local f = load("return x, ...", "=some source")
            local one, two = carry(f, { f })
            assert.equal(one, two[1])
            assert.not_equal(f, one)
            assert.equal("some source", debug.getinfo(one, "S").short_src)
            _G.x = "the receiver's" -- luacheck: ignore
            assert.same({ "the receiver's", 7 }, { one(7) })
            _G.x = nil -- luacheck: ignore
        end)

        it("handles cross, owning ones and others", function()
            local state = mtstates.newstate("values: handed over", support.echo)
            local own, other, again, key =
                carry(state, mtstates.state(state:id()), { state }, { [state] = 1 })
            assert.is_true(own == state and other == state)
            assert.is_true(own:isowner())
            assert.is_false(other:isowner())
            assert.is_true(rawequal(own, again[1]) and key[own] == 1)
            assert.equal("well", own:call("well"))
            state:close()
            assert.matches(mtstates.error.object_closed, support.error_of(own.call, own))
        end)

        it("random graphs arrive as they were sent", function()
            local seed = os.time()
            local count = tonumber(os.getenv("MTSTATES_TEST_SECONDS")) and 2000 or 50
            math.randomseed(seed)
            for i = 1, count do
                local graph = graphs.random(20, { echo })
                local same, difference = graphs.same(graph, (carry(graph)))
                assert.is_true(same, ("seed %d, graph %d: %s"):format(seed, i, difference))
            end
        end)
    end)
end

describe("random graphs", function()
    it("are the same for the one who sends and the one who receives, both ways", function()
        local other = mtstates.newstate(function(path)
            local mt, g = require("mtstates"), dofile(path)
            return function(seed, graph)
                math.randomseed(seed)
                local own = g.random(30, { mt.state("values") })
                local same, difference = g.same(own, graph)
                return own, same, difference
            end
        end, "test/graphs.lua")
        local first = os.time() * 1000
        local deadline = os.time() + (tonumber(os.getenv("MTSTATES_TEST_SECONDS")) or 1)
        local seed = first
        repeat
            seed = seed + 1
            math.randomseed(seed)
            local graph = graphs.random(30, { mtstates.state("values") })
            local back, same, difference = other:call(seed, graph)
            assert.is_true(same, ("seed %d, there: %s"):format(seed, difference))
            same, difference = graphs.same(graph, back)
            assert.is_true(same, ("seed %d, back: %s"):format(seed, difference))
        until os.time() >= deadline and seed >= first + 10
    end)
end)

describe("a table", function()
    it("is copied raw: no metamethod runs", function()
        local function fails() error("a metamethod was called") end
        local metatable = { __index = fails, __newindex = fails, __pairs = fails, __len = fails,
            __eq = fails }
        mtstates.class("values: raw", metatable)
        local state = mtstates.newstate(function()
            local metatable = { __index = error, __newindex = error, __len = error } -- luacheck: ignore
            require("mtstates").class("values: raw", metatable)
            return function(t) return rawget(t, 1), rawlen(t), t end
        end)
        local one, length, back = state:call(setmetatable({ 1, 2 }, metatable))
        assert.same({ 1, 2 }, { one, length })
        assert.equal(metatable, getmetatable(back))
        assert.equal(2, rawget(back, 2))
    end)

    it("with a few holes has the same fields, and the same length", function()
        local lengths = mtstates.newstate(function()
            return function(t) return #t, t end
        end)
        for _, t in ipairs({ table.pack(1, nil, 3), table.pack(nil, 2, 3, nil), table.pack(), { n = 0 },
            table.pack(1, nil, nil, nil, nil, 6), table.pack(1, 2, 3, nil, nil, 6), { [3] = 3 },
            table.pack(nil, nil, nil), { nil, nil, 3 }, table.pack(1, nil, nil, nil, 5, 6),
            { [1000000] = 1 } }) do
            local length, back = lengths:call(t)
            assert.equal(#t, length)
            for i = 1, 8 do
                assert.equal(t[i], back[i])
            end
            assert.equal(t.n, back.n)
            assert.is_true(graphs.same(t, back))
            assert.is_true(length == 0 or t[length] ~= nil and t[length + 1] == nil)
        end
        local sparse = {} -- Lua finds a border far away in it
        for i = 0, 40 do
            sparse[1 << i] = i
        end
        assert.is_true(graphs.same(sparse, select(2, lengths:call(sparse))))
    end)

    it("has keys that come once or often, few or many, short or long", function()
        for _, count in ipairs({ 1, 2, 254, 255, 256, 257, 1000 }) do
            for _, length in ipairs({ 1, 40, 41, 255, 256 }) do
                local list = { {}, {}, {} }
                for i = 1, count do
                    local key = ("k"):rep(length) .. i
                    list[1][key], list[2][key], list[i % 3 + 1][i .. key] = i, -i, true
                end
                assert.is_true(graphs.same(list, (echo:call(list))))
            end
        end
    end)
end)

describe("a class", function()
    local Point = { __index = { where = function(p) return p.x .. ":" .. p.y end } }
    mtstates.class("values: Point", Point)
    local function point(x, y) return setmetatable({ x = x, y = y }, Point) end

    local function knowing(body)
        return mtstates.newstate(function(code)
            local mt = require("mtstates")
            mt.class("values: Point", { __index = { where = function(p) return p.y .. "|" .. p.x end } })
            return load(code)
        end, string.dump(body))
    end

    it("gives a table the metatable that has its name on the other side, and back", function()
        local state = knowing(function(p)
            return p:where(), { p, p }
        end)
        local where, list = state:call(point(1, 2))
        assert.equal("2|1", where)
        assert.equal(Point, getmetatable(list[1]))
        assert.equal(list[1], list[2])
        assert.equal("1:2", list[1]:where())
    end)

    it("crosses in a graph with itself", function()
        local p = point(1, 2)
        p.self, p[p] = p, p
        local back = knowing(function(q) return q end):call({ p, p })
        assert.equal(back[1], back[2])
        assert.equal(back[1], back[1].self)
        assert.equal(back[1], back[1][back[1]])
        assert.equal(Point, getmetatable(back[1]))
    end)

    it("that the receiver does not know is an error with its name and its place", function()
        local p = point(1, 2)
        for place, value in pairs({
            [""] = p,
            ["in field '[1]': "] = { p },
            ["in field 'a.b[3].c': "] = { a = { b = { 1, 2, { c = p } } } },
            ["in field '[2][1][2]': "] = { 1, { { 0, p } } },
            ["in a key: "] = { [p] = 1 },
            ["in field 'x' of a key of field '[1].a': "] = { { a = { [{ x = p }] = 1 } } },
            ["in field 'a[1][2][3]...x.y.z[2]': "] =
                { a = { { 0, { 0, 0, { { { x = { y = { z = { 1, p } } } } } } } } } },
        }) do
            local message = support.error_of(function() echo:call({ p = 1 }, value) end)
            assert.equal("(" .. place .. 'the receiver has no class "values: Point": give a metatable that '
                .. "name there, by mtstates.class)", message:match("bad argument #2 to 'call' (.*)$"))
        end
        local state = mtstates.newstate(function()
            local mt = require("mtstates")
            local Secret = {}
            mt.class("values: Secret\n", Secret)
            return function() return 1, setmetatable({}, Secret) end
        end)
        assert.matches(mtstates.error.state_result
            .. '.*#2 %(the receiver has no class "values: Secret\\010"', support.error_of(state.call, state))
        local message = support.error_of(mtstates.newstate, support.echo, { p = p })
        assert.matches("bad argument #2 to 'newstate' %(in field 'p': the receiver has no class ", message)
        assert.matches("arguments of setup arrive before it runs%)$", message)
    end)

    it("may be named again, and its old tables still cross", function()
        local Old, New = {}, {}
        mtstates.class("values: renewed", Old)
        local old = setmetatable({}, Old)
        mtstates.class("values: renewed", New)
        local state = mtstates.newstate(function()
            require("mtstates").class("values: renewed", {})
            return function(...) return ... end
        end)
        assert.equal(New, getmetatable(state:call(old)))
    end)

    it("does not keep a metatable that its name has left", function()
        local weak = setmetatable({ {} }, { __mode = "v" })
        mtstates.class("values: left", weak[1])
        mtstates.class("values: left", {})
        collectgarbage()
        collectgarbage()
        assert.is_nil(weak[1])
    end)

    it("finalizes tables when they are whole, and the weak ones lose nothing on the way", function()
        local state = mtstates.newstate(function()
            local mt = require("mtstates")
            seen = 0 -- luacheck: ignore
            mt.class("values: Final", { __gc = function(t) -- luacheck: ignore
                assert(t[1] and t.self == t and t.last)
                seen = seen + 1 -- luacheck: ignore
            end })
            mt.class("values: Weak", { __mode = "kv" })
            return function(t)
                if t then
                    return #t.weak, t.held
                end
                collectgarbage()
                return seen -- luacheck: ignore
            end
        end)
        local Final, Weak = {}, { __mode = "kv" }
        mtstates.class("values: Final", Final)
        mtstates.class("values: Weak", Weak)
        local finals, weak = {}, setmetatable({}, Weak)
        for i = 1, 100 do
            finals[i] = { i }
            finals[i].self, finals[i].last = finals[i], true
            setmetatable(finals[i], Final)
            weak[i] = finals[i]
        end
        local count, held = state:call({ weak = weak, held = finals })
        assert.same({ 100, 100 }, { count, #held })
        assert.equal(100, state:call())
    end)

    it("takes a name and a metatable", function()
        assert.matches("bad argument #1 to 'class' %(string expected, got table",
            support.error_of(mtstates.class, {}))
        assert.matches("bad argument #2 to 'class' %(metatable expected, got no value",
            support.error_of(mtstates.class, "x"))
        assert.matches("bad argument #1 to 'class'", support.error_of(mtstates.class))
    end)
end)

describe("what does not cross", function()
    local function refusal(value)
        local message = support.error_of(function() echo:call("first", value) end)
        return message:match("bad argument #2 to 'call' (.*)$")
    end
    local thread = coroutine.create(print)

    it("is named with its place", function()
        local not_supported = ": value of type 'thread' not supported"
        for place, value in pairs({
            ["in field 'a.b[3]'"] = { a = { b = { 1, 2, thread } } },
            ["in field '[1][2]'"] = { { 0, thread } },
            ["in field 'a[-1]'"] = { a = { [-1] = thread } },
            ["in field 'a[1.5]'"] = { a = { [1.5] = thread } },
            ["in field 'a[true]'"] = { a = { [true] = thread } },
            ["in field 'a[\"two words\"]'"] = { a = { ["two words"] = thread } },
            ["in field 'a[\"end\"].b'"] = { a = { ["end"] = { b = thread } } },
            ["in field '[\"\"]'"] = { [""] = thread },
            ["in field '[\"1a\"]'"] = { ["1a"] = thread },
            ["in field '[\"quote \\\" \\\\ \\010\\000\"]'"] = { ["quote \" \\ \n\0"] = thread },
            ["in field '[\"" .. ("x"):rep(29) .. "...\"]'"] = { [("x"):rep(1000)] = thread },
            ["in field '[\"" .. ("ä"):rep(14) .. "...\"]'"] = { [("ä"):rep(1000)] = thread },
            ["in field '[table]'"] = { [{}] = thread },
            ["in field '[function]'"] = { [load("return 1")] = thread },
            ["in field '[userdata]'"] = { [echo] = thread },
            ["in a key of field 'a.b'"] = { a = { b = { [thread] = 1 } } },
            ["in a key"] = { [thread] = 1 },
            ["in field 'x' of a key"] = { [{ x = thread }] = 1 },
            ["in field 'x' of a key of field 'a'"] = { a = { [{ x = thread }] = 1 } },
            ["in a key of a key of field 'a'"] = { a = { [{ [thread] = 1 }] = 1 } },
        }) do
            assert.equal("(" .. place .. not_supported, refusal(value):match("^%(.- not supported"))
        end
        assert.matches("^%(value of type 'thread' not supported", refusal(thread))
    end)

    it("has a place that stays short, however deep", function()
        local deep = { last = thread }
        for i = 1000, 1, -1 do
            deep = { ["level" .. i] = deep }
        end
        assert.matches("in field 'level1.level2.level3.level4...level998.level999.level1000.last': value",
            refusal(deep))
        local long = thread
        for _ = 1, 9 do
            long = { [("\1"):rep(500)] = long }
        end
        assert.matches("%.%.%.': value of type 'thread' not supported: make the coroutine inside%)$",
            refusal(long))
        assert.is_true(#refusal(long) < 600)
    end)

    it("comes with what to do instead", function()
        assert.matches("in field 'f': C function: use it by its name, or require its module inside",
            refusal({ f = print }))
        assert.matches("in field 'f': function uses upvalue 'thread': send its value as well",
            refusal({ f = function() return thread end }))
        assert.matches("in field 't': table with a metatable: give that a name by mtstates.class",
            refusal({ t = setmetatable({}, {}) }))
        assert.matches("in field 'u': value of type 'FILE%*' not supported: make it anew inside",
            refusal({ u = io.stdout }))
        assert.matches("value of type 'thread' not supported: make the coroutine inside",
            refusal({ thread }))
    end)

    it("is refused everywhere, and the callback is not run", function()
        local ran = mtstates.newstate(function(...)
            local count = select("#", ...)
            return function(...)
                count = count + select("#", ...)
                return count
            end
        end)
        local bad = { a = { thread } }
        assert.matches("#2 to 'tcall' %(in field 'a%[1%]'",
            support.error_of(function() ran:tcall(1, bad) end))
        assert.matches("#1 to 'call' %(in field 'a%[1%]'", support.error_of(function() ran(bad) end))
        assert.matches("#3 to 'newstate' %(in field 'a%[1%]'",
            support.error_of(mtstates.newstate, "values: none", support.echo, bad))
        assert.matches("#3 to 'singleton' %(in field 'a%[1%]'",
            support.error_of(mtstates.singleton, "values: none", support.echo, bad))
        assert.is_false((pcall(mtstates.state, "values: none")))
        assert.equal(0, ran:call())
    end)

    it("may be a result of calls and of setup, with its number", function()
        local function gives() return function() return 1, { x = print } end end
        local state = mtstates.newstate("values: gives", gives)
        assert.matches(mtstates.error.state_result .. ".*\"values: gives\".*#2 %(in field 'x': C function",
            support.error_of(state.call, state))
        assert.matches(mtstates.error.state_result .. ".*#3 %(in field 'x': C function",
            support.error_of(mtstates.newstate, "return print and function() end, 1, { x = print }"))
    end)

    it("may be a finalized handle", function()
        local handle = mtstates.newstate(support.echo)
        debug.getmetatable(handle).__gc(handle)
        assert.matches("value of type 'mtstates.state' not supported", refusal({ handle }))
    end)
end)

describe("an error that is not for a value's sake", function()
    it("is told as what it is: results that no C call is left for", function()
        local giver = mtstates.newstate(function() return function() return { 1 } end end)
        local messages = {}
        local function deep()
            local ok, message = pcall(giver.call, giver)
            if not ok then
                messages[#messages + 1] = message
            end
            string.gsub("x", "x", deep)
        end
        pcall(deep)
        assert.is_true(#messages > 0)
        for _, message in ipairs(messages) do
            assert.matches("C stack overflow", message)
            assert.is_nil(message:match("cannot cross"), message)
        end
        assert.same({ 1 }, giver:call())
    end)

    it("is told as what it is: a hook of the state's own", function()
        local hooked = mtstates.newstate(function()
            return function(how)
                if how == "hook" then
                    debug.sethook(function() error("of the hook") end, "c")
                end
            end
        end)
        pcall(hooked.call, hooked, "hook")
        assert.matches("^" .. mtstates.error.invoking_state .. ".*of the hook",
            support.error_of(hooked.call, hooked, {}, 4, 5))
    end)
end)

describe("a handle that crosses", function()
    it("is another key than one that is another here", function()
        local state = mtstates.newstate("values: two keys", support.echo)
        local one = mtstates.newstate("values: gave up", support.echo)
        local known = mtstates.state(one:id())
        do
            local _ <close> = one -- which now owns nothing, too
        end
        local back = echo:call({ [one] = "one", [known] = "known", [state] = "owns" })
        local values = {}
        for _, value in pairs(back) do
            values[value] = true
        end
        assert.same({ one = true, known = true, owns = true }, values)
    end)

    it("keeps its state for the receiver alone", function()
        local keeper = mtstates.newstate(function()
            local kept
            return function(how, handle)
                if how == "keep" then
                    kept = handle
                elseif how == "use" then
                    return kept:call("through the keeper"), kept:isowner()
                else
                    kept = nil -- luacheck: ignore
                    collectgarbage()
                end
            end
        end)
        local state = mtstates.newstate("values: kept", support.echo)
        keeper:call("keep", state)
        do
            local _ <close> = state
        end
        assert.same({ "through the keeper", true }, { keeper:call("use") })
        assert.equal("values: kept", mtstates.state("values: kept"):name())
        keeper:call("drop")
        assert.matches(mtstates.error.unknown_object, support.error_of(mtstates.state, "values: kept"))
    end)

    it("that does not own does not keep it, and is the one that the receiver has", function()
        local looker = mtstates.newstate(function()
            local mt = require("mtstates")
            return function(handle)
                return rawequal(handle, mt.state("values: looked at")), handle:isowner(), handle
            end
        end)
        local state = mtstates.newstate("values: looked at", support.echo)
        local known = mtstates.state("values: looked at")
        local same, owns, back = looker:call(known)
        assert.is_true(same and not owns and rawequal(back, known))
        state:close()
    end)

    it("needs no mtstates loaded there", function()
        local state = mtstates.newstate(function()
            return function(handle)
                assert(not package.loaded.mtstates)
                local result = handle:call("reached")
                assert(require("mtstates").type(handle) == "mtstates.state")
                return result
            end
        end)
        assert.equal("reached", state:call(echo))
    end)

    it("to a state that is closed stays one", function()
        local closed = mtstates.newstate(support.echo)
        closed:close()
        local back = echo:call(closed)
        assert.is_true(back == closed)
        assert.matches(mtstates.error.object_closed, support.error_of(back.id, back))
    end)

    it("is given back when the call fails, or its parcel", function()
        for _, bad in ipairs({ print, setmetatable({}, {}) }) do
            local state = mtstates.newstate("values: given back", support.echo)
            support.error_of(echo.call, echo, state, bad)
            support.error_of(mtstates.newstate, support.echo, { state }, bad)
            state = nil -- luacheck: ignore
            collectgarbage()
            assert.matches(mtstates.error.unknown_object,
                support.error_of(mtstates.state, "values: given back"))
        end
        local state = mtstates.newstate("values: given back", support.echo)
        local Unknown = {}
        mtstates.class("values: Unknown", Unknown)
        local collector = mtstates.newstate(function() return function() collectgarbage() end end)
        support.error_of(collector.call, collector, state, setmetatable({}, Unknown)) -- had it already
        state = nil -- luacheck: ignore
        collectgarbage()
        collector:call()
        assert.matches(mtstates.error.unknown_object, support.error_of(mtstates.state, "values: given back"))
    end)
end)

describe("a long string that occurs often", function()
    it("takes its memory once, as a value, a key, an argument or a result", function()
        local state <close> = mtstates.newstate(function()
            local long = ("x"):rep(1 << 20)
            local list = {}
            for i = 1, 1000 do
                list[i] = long
            end
            return function(how, t)
                if how == "values" then return list
                elseif how == "keys" then
                    local keyed = {}
                    for i = 1, 1000 do keyed[i] = { [long] = i } end
                    return keyed
                elseif how == "results" then return table.unpack(list)
                end
                return #t, t[1] == long, t[#t] == long, collectgarbage("count")
            end
        end)
        local function grown(f, ...)
            collectgarbage()
            local before = collectgarbage("count")
            local results = table.pack(f(...))
            collectgarbage()
            return collectgarbage("count") - before, results
        end
        local long = ("x"):rep(1 << 20)
        local size, results = grown(state.call, state, "values")
        assert.is_true(size < 4 * 1024, size .. " KB")
        assert.same({ 1000, true, true }, { #results[1], results[1][1] == long, results[1][1000] == long })
        size, results = grown(state.call, state, "keys")
        assert.is_true(size < 4 * 1024, size .. " KB")
        assert.same({ 1, 1000 }, { results[1][1][long], results[1][1000][long] })
        size, results = grown(state.call, state, "results")
        assert.is_true(size < 4 * 1024, size .. " KB")
        assert.same({ 1000, true, true }, { results.n, results[1] == long, results[1000] == long })
        local list = {}
        for i = 1, 1000 do
            list[i] = long
        end
        local n, first, last, kilobytes = state:call("argument", list)
        assert.same({ 1000, true, true }, { n, first, last })
        assert.is_true(kilobytes < 4 * 1024)
    end)
end)
