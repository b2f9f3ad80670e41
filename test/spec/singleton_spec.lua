local mtstates = require("mtstates")
local support = require("support")
local uv = require("luv")

local echo = support.echo

describe("singleton", function()
    it("makes the state when there is none, then gives it to all, as owning handles", function()
        local first = mtstates.singleton("one", function(start)
            local n = start
            return function()
                n = n + 1
                return n
            end
        end, 10)
        local second = mtstates.singleton("one", function() error("not run") end)
        assert.equal(first, second)
        assert.is_true(first:isowner())
        assert.is_true(second:isowner())
        assert.equal(11, first:call())
        first = nil -- luacheck: ignore
        collectgarbage()
        collectgarbage()
        assert.equal(12, second:call())
    end)

    it("finds a state that newstate made", function()
        local state = mtstates.newstate("made", echo)
        assert.equal(state, mtstates.singleton("made", echo))
    end)

    it("returns one handle only, and takes libs", function()
        assert.equal(1, select("#", mtstates.singleton("returns one", false, function()
            return function() end, 1, 2
        end)))
    end)

    it("is made anew when its last owner has gone or it was closed", function()
        for _, how in ipairs({ "close", "drop" }) do
            local old = mtstates.singleton("anew", echo)
            local id = old:id()
            if how == "close" then
                old:close()
            end
            old = nil -- luacheck: ignore
            collectgarbage()
            collectgarbage()
            local new = mtstates.singleton("anew", echo)
            assert.not_equal(id, new:id())
            new:close()
        end
    end)

    it("is made anew while an abandoned one is still busy", function()
        local busy, release = support.busy_state("busy singleton") -- luacheck: ignore
        busy = nil -- luacheck: ignore
        collectgarbage()
        collectgarbage()
        local new = mtstates.singleton("busy singleton", echo)
        assert.equal("new", new:call("new"))
        assert.equal(new, mtstates.state("busy singleton"))
        release()
        assert.equal(new, mtstates.state("busy singleton"))
    end)

    it("raises ambiguous_name when two living states bear the name", function()
        local _a, _b = mtstates.newstate("both", echo), mtstates.newstate("both", echo)
        assert.matches("^" .. mtstates.error.ambiguous_name,
            support.error_of(mtstates.singleton, "both", echo))
        _a:close()
        _b:close()
    end)

    it("checks its arguments", function()
        assert.matches("bad argument #1 to 'singleton' %(name: string expected, got nil",
            support.error_of(mtstates.singleton, nil, echo))
        assert.matches("bad argument #1 to 'singleton'", support.error_of(mtstates.singleton, echo))
        assert.matches("bad argument #2 to 'singleton' .*got no value",
            support.error_of(mtstates.singleton, "n"))
        assert.matches("bad argument #2 to 'singleton' %(lua function expected",
            support.error_of(mtstates.singleton, "n", print))
        assert.matches("bad argument #4 to 'singleton' %(C function",
            support.error_of(mtstates.singleton, "n", true, echo, print))
        assert.matches("bad argument #2 to 'singleton' .*syntax error",
            support.error_of(mtstates.singleton, "n", "x x"))
        assert.equal("n", mtstates.singleton("n", echo):name())
    end)

    it("gives the handle alone, whatever setup returns besides the callback", function()
        local results = table.pack(mtstates.singleton("alone", "return function() end, 1, print"))
        assert.equal(1, results.n)
        assert.equal("alone", results[1]:name())
    end)

    it("gives the maker the error when making fails, and then can be made", function()
        assert.matches("^" .. mtstates.error.invoking_state .. ".*no luck",
            support.error_of(mtstates.singleton, "fails", function() error("no luck") end))
        assert.equal("fails", mtstates.singleton("fails", echo):name())
    end)

    it("raises an error in a setup that asks for it directly or through other states", function()
        assert.matches("needs itself", support.error_of(mtstates.singleton, "selfish", function()
            require("mtstates").singleton("selfish", function() return function() end end)
        end))
        assert.matches("needs itself", support.error_of(mtstates.singleton, "indirect", function()
            require("mtstates").newstate(function()
                require("mtstates").singleton("indirect", function() end)
            end)
        end))
    end)

    it("is made once when many threads ask at the same time", function()
        local counter = support.adder("made counter")
        local threads = {}
        for i = 1, 6 do
            threads[i] = support.thread(function()
                local mt = require("mtstates")
                local state = mt.singleton("asked by many", function()
                    require("mtstates").state("made counter"):tcall(math.huge, 1)
                    require("luv").sleep(50)
                    return function() end
                end)
                local id = state:id()
                require("luv").sleep(200) -- while the others get theirs
                return id
            end)
        end
        local ids = {}
        for i = 1, 6 do
            local ok, id = threads[i].join()
            assert.is_true(ok, id)
            ids[id] = true
        end
        assert.is_truthy(next(ids))
        assert.is_nil(next(ids, next(ids)))
        assert.equal(1, counter:call(0))
    end)

    it("makes one of those who wait the next maker when making fails", function()
        local attempts = support.adder("attempts")
        local threads = {}
        for i = 1, 4 do
            threads[i] = support.thread(function()
                local state = require("mtstates").singleton("third time lucky", function()
                    local _, n = require("mtstates").state("attempts"):tcall(math.huge, 1)
                    require("luv").sleep(50)
                    if n < 3 then
                        error("attempt " .. n)
                    end
                    return function() end
                end)
                require("luv").sleep(100)
                return state:name()
            end)
        end
        local failed, made = 0, 0
        for i = 1, 4 do
            local ok, value = threads[i].join()
            if ok then
                made = made + 1
            else
                assert.matches("attempt %d", value)
                failed = failed + 1
            end
        end
        assert.same({ 2, 2 }, { failed, made })
        assert.equal(3, attempts:call(0))
    end)

    it("of one name does not wait for that of another", function()
        local function ask(name, seconds)
            return support.thread(function(wanted, duration)
                local state = require("mtstates").singleton(wanted, function(ms)
                    require("luv").sleep(ms)
                    return function() end
                end, duration)
                require("luv").sleep(500) -- while the others get theirs
                return state:name()
            end, name, seconds)
        end
        local threads = {}
        for i, duration in ipairs({ 100, 300, 200 }) do
            local name = "makes for " .. duration
            threads[2 * i - 1] = ask(name, duration)
            uv.sleep(10)
            threads[2 * i] = ask(name, duration)
        end
        for i, thread in ipairs(threads) do
            assert.same({ true, "makes for " .. ({ 100, 300, 200 })[(i + 1) // 2] }, { thread.join() })
        end
    end)

    it("ends a circle of threads in an error, and hangs nobody", function()
        local function maker(mine, other)
            return support.thread(function(own, others)
                return require("mtstates").singleton(own, function(name)
                    require("luv").sleep(100)
                    require("mtstates").singleton(name, function() return function() end end)
                    return function() end
                end, others):name()
            end, mine, other)
        end
        local start = uv.hrtime()
        local a, b = maker("circle a", "circle b"), maker("circle b", "circle a")
        local ok_a, result_a = a.join()
        local ok_b, result_b = b.join()
        assert.is_true(uv.hrtime() - start < 5e9)
        assert.is_false(ok_a and ok_b)
        assert.matches("needs itself", ok_a and result_b or result_a)
    end)
end)
