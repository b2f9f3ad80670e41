-- Arrays of C numbers, which cross by reference: those of `carray` where that is installed, else of a
-- module of the tests that offers the same interface.
local mtstates = require("mtstates")
local carray = require("carray")
local child = require("child")
local support = require("support")

-- carray takes names of types, the tests' module numbers.
local function new(type, count)
    local numbers = { int = 5, double = 10 }
    local ok, array = pcall(carray.new, numbers[type], count)
    return ok and array or carray.new(type, count)
end

-- A state that holds the array which it is given, and reads and writes it.
local function holder()
    return mtstates.newstate(function()
        local held
        return function(what, ...)
            if what == "hold" then
                held = ...
            elseif what == "get" then
                return held:get(...)
            elseif what == "set" then
                held:set(...)
            elseif what == "give" then
                return held, held
            elseif what == "count" then
                return #held
            elseif what == "drop" then
                held = nil
                collectgarbage()
                collectgarbage()
            end
        end
    end)
end

local function alive()
    collectgarbage()
    collectgarbage()
    return carray.alive and carray.alive()
end

describe("an array", function()
    it("has the same elements in all states that hold it", function()
        local before = alive()
        local a = new("int", 1000)
        local s <close> = holder()
        local t <close> = holder()
        s:call("hold", a)
        t:call("hold", (s:call("give")))
        assert.equal(1000, t:call("count"))
        a:set(1000, 7)
        assert.equal(7, s:call("get", 1000))
        t:call("set", 1, -5)
        assert.equal(-5, a:get(1))
        assert.equal(0, s:call("get", 2))
        a = nil -- luacheck: ignore
        alive()
        s:call("drop")
        assert.equal(-5, t:call("get", 1))
        assert.equal(7, t:call("get", 1000))
        t:call("drop")
        assert.equal(before, alive())
    end)

    it("keeps its identity and its type", function()
        local s <close> = holder()
        local a = new("double", 3)
        a:set(2, 0.1)
        s:call("hold", { { [a] = a }, a })
        s:call("hold", a)
        local x, y = s:call("give")
        assert.is_true(rawequal(x, y))
        assert.equal(0.1, x:get(2))
        local into = { a, { a }, a }
        mtstates.newstate(function(t)
            assert(rawequal(t[1], t[2][1]) and rawequal(t[1], t[3]))
            return function() end
        end, into)
    end)

    it("may be empty", function()
        local before = alive()
        do
            local s <close> = holder()
            s:call("hold", new("int", 0))
            assert.equal(0, s:call("count"))
            assert.equal(0, #s:call("give"))
        end
        assert.equal(before, alive())
    end)

    it("outlives the state that made it, and the library that this one had loaded", function()
        assert.matches("^7 3\n%[exit 0%]", (child.call(function()
            local mt = require("mtstates")
            local s = mt.newstate(function()
                local arrays = require("carray")
                local ok, a = pcall(arrays.new, 5, 3)
                a = ok and a or arrays.new("int", 3)
                a:set(2, 7)
                return function() return a end
            end)
            local a = s:call()
            s:close()
            collectgarbage()
            print(a:get(2), #a)
            a = nil -- luacheck: ignore
            collectgarbage()
            os.exit(true, true)
        end):gsub("\t", " ")))
    end)

    if carray.alive then
        it("is given back though who received it made it shorter", function()
            local before = alive()
            do
                local s <close> = holder()
                s:call("hold", new("int", 1000))
                for i = 0, 99 do
                    s:call("give"):shorten(i)
                end
                assert.equal(1000, s:call("count"))
            end
            assert.equal(before, alive())
        end)

        it("weighs as much as its elements on whom it comes to", function()
            local s <close> = holder()
            local before, most = alive(), 0
            s:call("hold", new("double", 1 << 17)) -- 1 MB
            for _ = 1, 3000 do
                s:call("give")
                most = math.max(most, carray.alive() - before)
            end
            assert.is_true(most < 100, most)
        end)
    end

    it("is shared by threads that pass it on and drop it at random", function()
        local before = alive()
        local states, names = {}, {}
        for i = 1, 4 do
            states[i] = holder()
            names[i] = states[i]:id()
            states[i]:call("hold", new("int", 10))
        end
        -- Few where TSan looks on: after more it forgets that libuv used a descriptor (tsan.supp).
        local passes = support.has_thread_sanitizer and 25 or 5000 // support.slowness
        local threads = {}
        for i = 1, 3 do
            threads[i] = support.thread(function(seed, rounds, ...)
                local mt = require("mtstates")
                local ids = { ... }
                math.randomseed(seed)
                for _ = 1, rounds do
                    local from, to = mt.state(ids[math.random(#ids)]), mt.state(ids[math.random(#ids)])
                    local ok, a = from:tcall(1, "give")
                    assert(ok and #a == 10)
                    a:set(seed, 1) -- an element of this thread's own
                    assert(to:tcall(1, "hold", a))
                end
            end, i, passes, table.unpack(names))
        end
        for _, thread in ipairs(threads) do
            assert.same({ true }, { thread.join() })
        end
        for _, s in ipairs(states) do
            assert.equal(10, s:call("count"))
            s:close()
        end
        assert.equal(before, alive())
    end)
end)

describe("an array that cannot cross", function()
    it("is closed, or its interface is another one", function()
        local s <close> = holder()
        local a = new("int", 3)
        if a.close then
            a:close()
            assert.error_matches(function()
                s:call("hold", a)
            end, "'carray' not supported: make it anew inside")
        end
        local file = io.tmpfile()
        local metatable = getmetatable(file)
        metatable._capi_carray = getmetatable(new("int", 1))._capi_carray -- of another object
        local crossed, message = pcall(s.call, s, "hold", file)
        metatable._capi_carray = file -- no interface at all
        local again = pcall(s.call, s, "hold", file)
        metatable._capi_carray = nil
        assert.is_false(crossed)
        assert.matches("'FILE%*' not supported", tostring(message))
        assert.is_false(again)
        file:close()
    end)

    if carray.refuse then
        it("is refused by its module on the other side, and nothing is lost", function()
            local before = alive()
            local s <close> = holder()
            carray.refuse(true)
            assert.error_matches(function()
                s:call("hold", { new("int", 3) })
            end, "its module does not make this array anew")
            carray.refuse(false)
            assert.equal(before, alive())
        end)
    end
end)
