-- Tables of many entries, deep ones, and long strings in them. Sanitizers and collectors that never pause
-- take too long for these.
local mtstates = require("mtstates")
local support = require("support")
local graphs = dofile("test/graphs.lua")

local echo = mtstates.newstate("large values", support.echo)

describe("a table", function()
    it("takes as much memory as one that grows, or less", function()
        local measure = mtstates.newstate(function()
            return function(t)
                collectgarbage()
                local with = collectgarbage("count")
                local count = #t
                t = nil -- luacheck: ignore
                collectgarbage()
                return (with - collectgarbage("count")) * 1024 / count
            end
        end)
        local t = {}
        for i = 1, 5000 do
            t[i] = { x = i, y = i }
        end
        local crossed = measure:call(t)
        collectgarbage()
        local with = collectgarbage("count")
        t = nil -- luacheck: ignore
        collectgarbage()
        assert.is_true(crossed <= (with - collectgarbage("count")) * 1024 / 5000)
    end)

    it("of 100000 tables, one in the other, crosses, and a million entries", function()
        local count = 0
        local chain = echo:call(graphs.chain(100000))
        while chain do
            count = count + 1
            assert(chain[1] == count)
            chain = chain.next
        end
        assert.equal(100000, count)
        local t = {}
        for i = 1, 1000000 do
            t[i] = i
        end
        t = echo:call(t)
        assert.equal(1000000, #t)
        assert.equal(1000000, t[1000000])
    end)

    it("nested by keys crosses as well", function()
        local t = {}
        for _ = 1, 50000 do
            t = { [t] = true }
        end
        local depth = 0
        t = echo:call(t)
        while next(t) do
            t, depth = next(t), depth + 1
        end
        assert.equal(50000, depth)
    end)

    it("deeper than the stack takes is a clear error, and leaves nothing behind", function()
        local deep = graphs.chain(600000)
        assert.matches("bad argument #2 to 'call' %(.*nested too deep",
            support.error_of(function() echo:call({}, deep, {}) end))
        local giver = mtstates.newstate(function(path)
            local g = dofile(path)
            return function(n) return g.chain(n) end
        end, "test/graphs.lua")
        assert.matches(mtstates.error.state_result .. ".*nested too deep",
            support.error_of(giver.call, giver, 600000))
        assert.equal("usable", echo:call("usable"))
        assert.equal(1, giver:call(2)[1])
    end)

    it("may have a string of 200 MB", function()
        local text = ("0123456789"):rep(20000000)
        local length, last = mtstates.newstate(function()
            return function(t) return #t.text, t.text:sub(-1) end
        end):call({ text = text })
        assert.same({ #text, "9" }, { length, last })
    end)

    it("beside as many values as the stack takes is a result or a clear error", function()
        local t = table.pack(table.unpack({ {} }, 1, 900000))
        local function count(...) return select("#", ...) end
        local function says_too_many(message)
            return (message:match("too many") or message:match("stack overflow")) ~= nil
        end
        local ok, n = pcall(function() return count(echo:call(table.unpack(t, 1, 400000))) end)
        assert.is_true(ok and n == 400000 or says_too_many(n), n)
        ok, n = pcall(function() return count(echo:call(table.unpack(t, 1, 900000))) end)
        assert.is_true(ok and n == 900000 or says_too_many(n), n)
        assert.equal("usable", echo:call("usable"))
    end)
end)
