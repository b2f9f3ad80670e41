local child = require("child")
local mtstates = require("mtstates")
local support = require("support")

local LIMIT = 1000000

-- What eats memory without end, each a function's body.
local eaters = {
    ["string.rep"] = "return string.rep('x', 1 << 30)",
    ["string.rep in a loop"] = "local s = 'x' while true do s = s:rep(2) end",
    ["table.concat"] = [[
        local t = {}
        for i = 1, 300 do t[i] = ('x'):rep(1000) end
        while true do t[#t + 1] = table.concat(t) end]],
    ["a growing table"] = "local t = {} while true do t[#t + 1] = #t end",
    ["a growing hash"] = "local t = {} while true do t[{}] = true end",
    ["tables in tables"] = "local t = {} while true do t = { t } end",
    ["different strings"] = "local t, i = {}, 0 while true do i = i + 1 t[i] = 'string ' .. i end",
    ["coroutines"] = [[
        local t = {}
        while true do
            t[#t + 1] = coroutine.create(function() coroutine.yield() end)
            coroutine.resume(t[#t])
        end]],
    ["deep recursion"] = "local function f(n) return 1 + f(n + 1) end return f(1)",
    ["deep recursion in a coroutine"] =
        "return coroutine.wrap(function() local function f(n) return 1 + f(n + 1) end return f(1) end)()",
    ["closures in closures"] = "local f = print while true do local g = f f = function() return g() end end",
    ["objects with finalizers"] =
        "local t = {} while true do t[#t + 1] = setmetatable({}, { __gc = function() end }) end",
}

-- A state whose callback runs the code "eat", or returns what it is given.
local function eater(code, options)
    options = options or {}
    options.memory_limit = options.memory_limit or LIMIT
    return mtstates.newstate(options, [[
        local eat = load(...)
        return function(what, ...)
            if what == "eat" then
                return eat()
            end
            return what, ...
        end
    ]], code)
end

local function out_of_memory_of(...)
    local message = support.error_of(...)
    assert.matches("^" .. mtstates.error.out_of_memory, message)
    return message
end

describe("memory_limit", function()
    for name, code in pairs(eaters) do
        it("ends " .. name .. " with out_of_memory, and the state answers the next call", function()
            local state = eater(code)
            for round = 1, 5 do
                out_of_memory_of(state.call, state, "eat")
                local text = ("next "):rep(500)
                assert.equal(text .. round, state:call(text .. round))
                assert.same({ { round } }, state:call({ { round } }))
                local _, peak, limit = state:memory()
                assert.equal(LIMIT, limit)
                assert.is_true(peak <= LIMIT, peak)
            end
            state:close()
        end)
    end

    it("is told in the message, with what was in use and which state it was", function()
        local state = eater(eaters["tables in tables"], { name = "greedy" })
        local used = out_of_memory_of(state.call, state, "eat")
            :match('greedy".-memory_limit is 1000000 bytes, (%d+) were in use')
        assert.is_true(tonumber(used) > 900000)
    end)

    it("lets code that fits collect its garbage and go on", function()
        local state = eater([[
            local sum = 0
            for i = 1, 100000 do
                sum = sum + #{ ('garbage'):rep(i % 100), { {}, i } }
            end
            return sum]])
        assert.equal(200000, state:call("eat"))
    end)

    it("lets code catch the error, and go on with less", function()
        local state = eater([[
            local ok, message = pcall(string.rep, 'x', 1 << 30)
            return ok, message, #('y'):rep(100000)]])
        assert.same({ false, "not enough memory", 100000 }, table.pack(state:call("eat"), nil) and
            { state:call("eat") })
    end)

    it("holds in setup, for its arguments, and for its results", function()
        local function make(code, ...)
            return pcall(mtstates.newstate, { memory_limit = LIMIT }, code, ...)
        end
        for _, code in pairs(eaters) do
            local ok, message = make(code)
            assert.is_false(ok)
            assert.matches("^" .. mtstates.error.out_of_memory, message)
        end
        local ok, message = make("return function() end", ("x"):rep(2 * LIMIT))
        assert.is_false(ok)
        assert.matches("^" .. mtstates.error.out_of_memory .. ".*1000000 bytes", message)
    end)

    it("holds for arguments of calls, of any kind", function()
        local state = eater("return 'fine'")
        for _, value in ipairs({ ("x"):rep(2 * LIMIT), { ("x"):rep(2 * LIMIT) } }) do
            out_of_memory_of(state.call, state, value)
            assert.equal("fine", state:call("eat"))
        end
        local many = {}
        for i = 1, 100000 do
            many[i] = { i }
        end
        out_of_memory_of(state.call, state, many)
        assert.equal("fine", state:call("eat"))
    end)

    it("lets Lua collect before it refuses an argument", function()
        local state = eater("garbage = nil garbage = ('x'):rep(450000) garbage = nil")
        for i = 1, 20 do
            state:call("eat")
            local text = ("%d"):format(i % 10):rep(400000)
            assert.is_true(state:call(text) == text)
        end
    end)

    it("holds in finalizers", function()
        local state = eater([[
            setmetatable({}, { __gc = function() local t = {} while true do t = { t } end end })
            collectgarbage()
            return select(2, pcall(collectgarbage))]])
        assert.equal(0, state:call("eat"))
        assert.is_true(select(2, state:memory()) <= LIMIT)
    end)

    it("holds while the state closes, which always succeeds", function()
        for _, how in ipairs({ "close", "collect" }) do
            local told = mtstates.newstate("told", "local n = 0 return function(m) n = m or n return n end")
            local state = eater([[
                told = require("mtstates").state("told")
                for i = 1, 3 do
                    setmetatable({}, { __gc = function()
                        local ok = pcall(function() local t = {} while true do t = { t } end end)
                        told:call(told:call() + (ok and 100 or 1))
                    end })
                end
                half = {}
                for i = 1, 8000 do half[i] = {} end]])
            state:call("eat")
            if how == "close" then
                state:close()
            else
                state = nil -- luacheck: ignore
                collectgarbage()
            end
            assert.equal(3, told:call())
            told:close()
        end
    end)

    it("that is too little to make a state raises out_of_memory with the limit", function()
        for _, limit in ipairs({ 1, 1000, 10000 }) do
            for _, libs in ipairs({ true, false }) do
                local message = out_of_memory_of(mtstates.newstate,
                    { memory_limit = limit, libs = libs }, "return function() end")
                assert.matches("memory_limit is " .. limit .. " bytes", message)
            end
        end
    end)

    it("does not count what other states have", function()
        local state = eater([[
            big = big or require("mtstates").newstate(
                "local t = {} for i = 1, 200000 do t[i] = i end return function() return #t end")
            return big:call()]])
        assert.equal(200000, state:call("eat"))
    end)

    it("bounds what results take on their way, such as closures of one long function", function()
        local state <close> = mtstates.newstate({ memory_limit = 4e6 }, function()
            local make = load("return function() return '" .. ("x"):rep(200000) .. "' end", "=make")
            return function(count)
                local closures = {}
                for i = 1, count do
                    closures[i] = make()
                end
                return closures
            end
        end)
        assert.equal(300, #state:call(300)) -- 60 of 64 MB
        local message = support.error_of(state.call, state, 330)
        assert.matches("^" .. mtstates.error.state_result, message)
        assert.matches("takes more than 16 times its state's memory_limit", message)
        assert.equal(1, #state:call(1))
    end)

    it("is a singleton's, too", function()
        local state <close> = mtstates.singleton({ name = "limited one", memory_limit = LIMIT },
            "return function(n) return #('x'):rep(n) end")
        assert.equal("limited one", state:name())
        out_of_memory_of(state.call, state, 1 << 30)
        assert.equal(10, state:call(10))
        assert.equal(LIMIT, (select(3, mtstates.singleton("limited one", "return print"):memory())))
    end)

    it("leaves the collector's mode and pause to the program", function()
        local unlimited = mtstates.newstate("return function() return collectgarbage('setpause') end")
        local default = unlimited:call()
        local state = eater([[
            local was = collectgarbage("setpause", 150)
            for i = 1, 20000 do local t = { {} } end
            local mode = collectgarbage("generational")
            for i = 1, 20000 do local t = { {} } end
            return was, collectgarbage("setpause", 100), mode, collectgarbage("incremental")]])
        assert.same({ default, 148, "incremental", "generational" }, { state:call("eat") })
    end)

    it("runs finalizers of garbage, so that what they give back is there again", function()
        local state = eater([[
            local alive = 0
            local mt = { __gc = function() alive = alive - 1 end }
            local most = 0
            for i = 1, 200000 do
                local o = setmetatable({ ('x'):rep(50) .. i }, mt)
                alive = alive + 1
                most = math.max(most, alive)
            end
            return most]])
        assert.is_true(state:call("eat") < 10000)
    end)
end)

describe("a state with a memory limit and 80 % of it alive", function()
    -- Medians of times of the same work, with the limit over without, in one run.
    it("runs at most three times as long as without", function()
        if support.slowness > 1 then
            return -- other memory, other times
        end
        local function worker(limit)
            return mtstates.newstate({ memory_limit = limit }, [[
                local live, n, i = {}, 0, 0
                local function make(k)
                    return k % 3 == 0 and { k } or k % 3 == 1 and ('y'):rep(k % 200) .. k or { a = {}, b = k }
                end
                while collectgarbage("count") * 1024 < 0.8 * ... do
                    n = n + 1
                    live[n] = make(n)
                    if n % 1000 == 0 then collectgarbage() end
                end
                return function()
                    local begun = os.clock()
                    for _ = 1, 300000 do
                        i = (i * 1103515245 + 12345) % 2147483648
                        live[1 + i % n] = make(i)
                    end
                    return os.clock() - begun
                end
            ]], 4e6)
        end
        local free, limited, ratios = worker(), worker(4e6), {}
        for i = 1, 5 do
            ratios[i] = limited:call() / free:call()
        end
        table.sort(ratios)
        assert.is_true(ratios[3] < 3, ratios[3])
    end)
end)

describe("memory()", function()
    it("tells what Lua has, the most that it had, and the limit", function()
        local state = mtstates.newstate([[
            return function(n)
                collectgarbage()
                kept = ('x'):rep(n)
                return collectgarbage("count") * 1024
            end]])
        local used, peak, limit = state:memory()
        assert.is_true(used > 10000 and used <= peak and peak < 100000)
        assert.is_nil(limit)
        local counted = state:call(1000000)
        used, peak = state:memory()
        assert.is_true(math.abs(used - counted) < 1000, used - counted)
        assert.is_true(peak >= 2000000 and peak < 2100000, peak) -- rep has it twice
        state:call(0)
        state:call(0)
        assert.is_true(state:memory() < 100000)
        assert.equal(peak, (select(2, state:memory())))
        assert.same({ "integer", "integer" }, { math.type(used), math.type(peak) })
    end)

    it("tells it of a busy state, too", function()
        local busy, release = support.busy_state()
        assert.is_true(busy:memory() > 10000)
        release()
    end)

    it("is refused for a closed state", function()
        local state = eater("")
        state:close()
        assert.matches("^" .. mtstates.error.object_closed, support.error_of(state.memory, state))
    end)

    -- The push of the argument finds room for the string, but not for Lua's table of strings, which grows
    -- for it; and no place is left in which a collection could be made ready.
    it("holds while an argument arrives in a state that is full to the last block", function()
        local output = child.call(function()
            local mt = require("mtstates")
            local function make()
                return mt.newstate({ memory_limit = 900000 }, function()
                    local gc = collectgarbage
                    local names, kept = {}, {} -- luacheck: ignore
                    for i = 1, 2100 do
                        names[i] = false
                    end
                    for i = 1, 12000 do
                        kept[i] = false
                    end
                    local function fill()
                        local i = 2
                        while true do
                            kept[i] = {}
                            i = i + 1
                        end
                    end
                    kept[1] = string.rep("q", 226)
                    return function(task, last)
                        if task == "arrive" then
                            return "arrived"
                        end
                        gc("stop")
                        for _ = 1, 3 do
                            gc()
                        end
                        local before = gc("count")
                        for i = 1, last do
                            names[i] = string.char(i // 200 + 32, i % 200 + 32, 1, 2)
                            local now = gc("count")
                            if task == "grow" and now - before > 6 then
                                return i
                            end
                            before = now
                        end
                        pcall(fill)
                        kept[1] = false
                        gc()
                        kept[1] = { 1, 2, 3, 4, 5 }
                    end
                end)
            end
            local probe <close> = make()
            local grown = probe:call("grow", 2100)
            for names = grown - 6, grown + 3 do
                local state <close> = make()
                pcall(state.call, state, "fill", names)
                pcall(state.call, state, ("\1"):rep(40))
            end
            print("alive")
        end)
        assert.equal("alive\n[exit 0]", output)
    end)
end)

describe("the options", function()
    local bad = { { 0, "0" }, { -1, "%-1" }, { 0 / 0, "nan" }, { math.huge, "inf" }, { -math.huge, "%-inf" },
        { "1", "number expected, got string" }, { true, "got boolean" }, { {}, "got table" } }
    for _, option in ipairs({ "memory_limit", "time_limit" }) do
        it(option .. " is refused when it is no positive number", function()
            for _, pair in ipairs(bad) do
                for _, make in ipairs({ mtstates.newstate, mtstates.singleton }) do
                    local message = support.error_of(make, { name = "never", [option] = pair[1] },
                        "return function() end")
                    assert.matches("bad argument #1 to '%a+' %(option '" .. option .. "'", message)
                    assert.matches(pair[2], message)
                end
            end
        end)
    end

    it("of a singleton need a name", function()
        assert.matches("bad argument #1 to 'singleton' %(option 'name' is missing%)",
            support.error_of(mtstates.singleton, { libs = false }, "return function() end"))
        assert.matches("unknown option 'limit'",
            support.error_of(mtstates.singleton, { name = "x", limit = 1 }, "return function() end"))
        assert.matches("libs is among the options already", support.error_of(mtstates.singleton,
            { name = "x", libs = true }, true, "return function() end"))
    end)

    it("take any positive number", function()
        local taken = {
            { memory_limit = 1e15 }, { memory_limit = 1e300 }, { memory_limit = 1 << 62 },
            { memory_limit = 1e5 + 0.5 }, { time_limit = 1 }, { time_limit = 4e6 },
        }
        for _, options in ipairs(taken) do
            local state <close> = mtstates.newstate(options, "return function() return 1 end")
            assert.equal(1, state:call())
        end
        assert.matches("49 days", support.error_of(mtstates.newstate, { time_limit = 5e6 },
            "return function() end"))
    end)

    it("does not hide another error for which there is no memory to say where it came from", function()
        local state <close> = mtstates.newstate({ memory_limit = 1e6, time_limit = 0.05 * support.slowness },
            function()
                local breathe = os.getenv("MTSTATES_TEST_TSAN") and os.time or function() end
                return function()
                    local head
                    pcall(function()
                        while true do
                            head = { head }
                        end
                    end)
                    while true do
                        breathe()
                    end
                end
            end)
        assert.matches("mtstates%.error%.time_limit", support.error_of(state.call, state))
    end)
end)
