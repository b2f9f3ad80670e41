local mtstates = require("mtstates")
local support = require("support")

-- A state that calls the next one when it is called; the last of `count` calls the first.
local function ring(prefix, count)
    local states = {}
    for i = 1, count do
        states[i] = mtstates.newstate(prefix .. i, false, function(next_name)
            local mt = require("mtstates")
            local next_state
            return function(depth)
                next_state = next_state or mt.state(next_name)
                return next_state:call(depth + 1)
            end
        end, prefix .. (i % count + 1))
    end
    return states
end

-- What a script prints that has a C stack of 512 KB, and "survived" if it comes to its end.
-- descend(depth, f) calls f that many C calls deep; FORMAT_DEEP is code that recurses without end.
local function run_in_512_kb(script)
    local path = os.tmpname()
    local file = assert(io.open(path, "w"))
    file:write([=[
        local mt = require("mtstates")
        local FORMAT_DEEP = [[
            local function format_deep()
                return ("%s"):format(setmetatable({}, { __tostring = format_deep }))
            end
        ]]
        local function descend(depth, f)
            if depth == 0 then
                return f()
            end
            return (("x"):gsub("x", function() descend(depth - 1, f) end))
        end
    ]=], script, "print('survived')")
    file:close()
    local output = io.popen("ulimit -s 512; lua5.4 " .. path .. " 2>&1")
    local text = output:read("a")
    output:close()
    os.remove(path)
    return text
end

describe("recursion without end", function()
    for _, case in ipairs({ { 1, "through one state" }, { 2, "through two in turn" },
        { 10000, "through ten thousand in a row" } }) do
        it(case[2] .. " ends in a Lua error, and all stay usable", function()
            local states = ring("ring of " .. case[1] .. " ", case[1])
            for _ = 1, 2 do
                local message = support.error_of(states[1].call, states[1], 0)
                assert.matches("stack overflow", message)
                assert.matches("^" .. mtstates.error.invoking_state, message)
            end
            for i = 1, #states, 97 do
                assert.is_string(support.error_of(states[i].call, states[i], "x"))
            end
        end)
    end

    it("through setups ends in a Lua error", function()
        local code = [[
            local code = ...
            return require("mtstates").newstate(nil, false, code, code) and function() end
        ]]
        assert.matches("stack overflow", support.error_of(mtstates.newstate, nil, false, code, code))
    end)

    it("ends in a Lua error before a C stack of 512 KB does, whatever Lua puts on it", function()
        assert.matches("survived", run_in_512_kb([[
            local state = mt.newstate(nil, FORMAT_DEEP .. "return function() pcall(format_deep) end")
            for depth = 0, 190 do
                pcall(descend, depth, function() pcall(state.call, state) end)
            end
        ]]))
    end)

    it("in which Lua drops finalizers of handles harms no other handle", function()
        assert.matches("survived", run_in_512_kb([[
            for depth = 150, 200 do
                collectgarbage("stop") -- such handles are noted as made in finalizers are
                for _ = 1, 3 do
                    mt.newstate("return function() end")
                end
                pcall(descend, depth, collectgarbage)
                collectgarbage()
                mt.newstate("return function() end")
            end
        ]]))
    end)

    it("ends in a Lua error before a small thread's C stack does", function()
        local thread = support.thread_with({ stack_size = 256 * 1024 }, function()
            local mt = require("mtstates")
            local states = {}
            for i = 1, 50 do
                states[i] = mt.newstate("small " .. i, false, function(next_name)
                    local m = require("mtstates")
                    return function()
                        return m.state(next_name):call()
                    end
                end, "small " .. (i % 50 + 1))
            end
            states[1]:call()
        end)
        local ok, message = thread.join()
        assert.is_false(ok)
        assert.matches("stack overflow", message)
    end)

    -- Each state makes the next one, and calls it by again(), on a C stack of 256 KB.
    for way, body in pairs({
        ["callbacks"] = "return again",
        ["setups"] = "again() return again",
        ["coroutines"] = "return function() return coroutine.wrap(again)() end",
        ["error objects"] = "return function() error(setmetatable({}, { __tostring = again })) end",
        ["message handlers"] = "return function() xpcall(error, function() pcall(again) end) end",
        ["__close"] = "return function() local _ <close> = setmetatable({}, { __close = again }) end",
        ["finalizers"] = "return function() setmetatable({}, { __gc = again }) collectgarbage() end",
    }) do
        it("through " .. way .. " harms no thread with a C stack of 256 KB", function()
            local thread = support.thread_with({ stack_size = 256 * 1024 }, function(way_code)
                local mt = require("mtstates")
                local code = "local code = ... " .. [[
                    local function again()
                        local next_state <close> = require("mtstates").newstate(nil, code, code)
                        return next_state:call()
                    end
                ]] .. way_code
                local ok, message = pcall(function()
                    mt.newstate(nil, code, code):call()
                end)
                return ok or message
            end, body)
            assert.is_true((thread.join()))
        end)
    end
end)

describe("memory", function()
    it("of 20000 states that a host with a heap of 100 MB drops stays within 100 MB", function()
        local ballast = {}
        for i = 1, 1000000 do
            ballast[i] = { i }
        end
        collectgarbage()
        collectgarbage()
        assert.is_true(collectgarbage("count") > 80 * 1024)
        local start, most = support.resident_mb(), 0
        for i = 1, 20000 do
            mtstates.newstate(function()
                return function() end
            end)
            if i % 100 == 0 then
                most = math.max(most, support.resident_mb() - start)
            end
        end
        assert.is_true(#ballast > 0)
        assert.is_true(most < 100, most)
    end)

    it("does not make a host collect that has stopped its collector", function()
        local finalized = false
        setmetatable({}, { __gc = function() finalized = true end })
        collectgarbage("stop")
        for _ = 1, 300 do
            mtstates.newstate(function()
                return function() end
            end)
        end
        local early = finalized
        collectgarbage("restart")
        assert.is_false(early)
    end)

    it("of a state is the state's own: running out of it is out_of_memory for the caller", function()
        local state = mtstates.newstate(function()
            return function(n)
                local file <close> = io.open("/dev/zero")
                return #file:read(n)
            end
        end)
        local message = support.error_of(state.call, state, 1 << 46)
        assert.matches("^" .. mtstates.error.out_of_memory, message)
        assert.equal(5, state:call(5))
    end)
end)

describe("closing", function()
    for _, close in ipairs({ "box[1]:close()", "local _ <close> = box[1]",
        "box[1] = nil collectgarbage()" }) do
        it("by " .. close .. " leaves finalizers for later where the C stack is full", function()
            local text = run_in_512_kb([[
                local function make()
                    return { (mt.newstate("deep", FORMAT_DEEP .. [=[
                        keep = setmetatable({}, { __gc = function()
                            pcall(format_deep)
                            io.write("+")
                        end })
                        return function() end
                    ]=])) }
                end
                for depth = 0, 190 do
                    local box = make()
                    assert(pcall(descend, depth, function() ]] .. close .. [[ end))
                    assert(not pcall(mt.state, "deep"))
                end
                make()[1]:close() -- here is room for those left, too
            ]])
            assert.equal(("+"):rep(192) .. "survived\n", text)
        end)
    end

    it("leaves no finalizer for longer than the host lives", function()
        assert.equal("closed survived\nfinalized", run_in_512_kb([[
            local state = mt.newstate(function()
                keep = setmetatable({}, { __gc = function() io.write("finalized") end })
                return function() end
            end)
            descend(100, function()
                state:close()
                io.write("closed ")
            end)
        ]]))
    end)

    it("a chain of 20000 states that own each other needs no deep recursion", function()
        local code = [[
            local mt = require("mtstates")
            local code, left = ...
            local owned
            return function(id)
                owned = mt.newstate(nil, false, code, code)
                return owned:id()
            end
        ]]
        local head = mtstates.newstate(nil, false, code, code)
        local id = head:id()
        for _ = 2, 20000 do
            id = mtstates.state(id):call()
        end
        local tail = mtstates.state(id)
        assert.equal(id, tail:id())
        head:close()
        assert.matches("^" .. mtstates.error.object_closed, support.error_of(tail.id, tail))
    end)

    it("a ring of states that own each other does not crash", function()
        local code = [[
            local mt = require("mtstates")
            local name = ...
            local owned
            return function(other, code)
                owned = mt.singleton(other, code, other)
            end
        ]]
        local a = mtstates.newstate("ring a", code, "ring a")
        a:call("ring b", code)
        mtstates.state("ring b"):call("ring a", code)
        a = nil -- luacheck: ignore
        collectgarbage()
        collectgarbage()
        mtstates.state("ring a"):close() -- breaks the ring, which would leak
        assert.is_false((pcall(mtstates.state, "ring b")))
    end)
end)
