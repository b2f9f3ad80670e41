local mtstates = require("mtstates")
local support = require("support")
local uv = require("luv")

local function looping(name)
    return mtstates.newstate(name, function()
        local breathe = os.getenv("MTSTATES_TEST_TSAN") and os.time -- see CMakeLists.txt
        return function(how)
            local function forever()
                while true do
                    if breathe then
                        breathe()
                    end
                end
            end
            if how == "loop" then
                forever()
            elseif how == "coroutine" then
                coroutine.wrap(forever)()
            elseif how == "resumed coroutine" then
                error(select(2, coroutine.resume(coroutine.create(forever))), 0)
            elseif how == "coroutine in a coroutine" then
                coroutine.wrap(function()
                    coroutine.wrap(forever)()
                end)()
            elseif how == "coroutine that closes" then
                local co = coroutine.create(function()
                    local _ <close> = setmetatable({}, { __close = forever })
                    coroutine.yield()
                end)
                coroutine.resume(co)
                error(select(2, coroutine.close(co)), 0)
            elseif how == "coroutine that another state has called back" then
                local mt = require("mtstates")
                local other = mt.newstate(function(id)
                    local back = require("mtstates").state(id)
                    return function() back:call("back") end
                end, mt.id())
                coroutine.wrap(function()
                    other:call()
                    forever()
                end)()
            elseif how == "the __tostring of an error" then
                error(setmetatable({}, { __tostring = forever }))
            elseif how == "calls" then
                local f = breathe or os.clock
                while true do
                    f()
                end
            elseif how == "pcall" then
                local ok, message = pcall(forever)
                return ok, message
            elseif how == "C" then
                os.execute("sleep 0.3")
                return "not interrupted"
            end
            return how
        end
    end)
end

-- Sends interrupt(...) to the state from another thread in a moment.
local function interrupt_soon(state, flag)
    return support.thread(function(id, has_flag, value)
        require("luv").sleep(50)
        local target = require("mtstates").state(id)
        if has_flag then
            target:interrupt(value)
        else
            target:interrupt()
        end
    end, state:id(), flag ~= nil, flag)
end

-- A state that runs on above so many values to be closed: by a function of C's that takes long ("C"), or by
-- Lua, in a call from within the state, 50000 levels deep ("deep").
local function holding()
    return mtstates.newstate(function()
        local mt = require("mtstates")
        local breathe = os.getenv("MTSTATES_TEST_TSAN") and os.time or function() end
        local words = setmetatable({}, { __close = table.concat })
        for i = 1, 100000 do
            words[i] = ""
        end
        local breathing = setmetatable({}, { __close = function() breathe() end })
        local function hold(values, value)
            if values == 0 then
                while true do
                    breathe()
                end
            end
            local _ <close> = value
            hold(values - 1, value)
            return nil
        end
        local function recurse(levels, f)
            if levels == 0 then
                f()
            else
                recurse(levels - 1, f)
            end
            return nil
        end
        return function(how, values)
            if how == "deep" then
                recurse(50000, function() mt.state(mt.id()):call("Lua", values) end)
            end
            hold(values, how == "C" and words or breathing)
        end
    end)
end

-- Calls the state with these, which interrupt(true) has to end within so many seconds of processor time;
-- the message.
local function end_always(seconds, state, ...)
    local thread = interrupt_soon(state, true)
    local start = os.clock()
    local message = support.error_of(state.call, state, ...)
    assert.is_true(os.clock() - start < seconds * support.slowness)
    assert.is_truthy(message:find(mtstates.error.interrupted, 1, true))
    thread.join()
    state:interrupt(false)
    return message
end

describe("interrupt", function()
    for _, how in ipairs({ "loop", "coroutine", "resumed coroutine", "coroutine in a coroutine",
        "coroutine that closes", "coroutine that another state has called back", "the __tostring of an error",
        "calls", "C" }) do
        it("stops code that is busy with: " .. how, function()
            local state = looping()
            local thread = interrupt_soon(state)
            local message = support.error_of(state.call, state, how)
            assert.matches("^" .. mtstates.error.invoking_state, message)
            assert.matches(mtstates.error.interrupted, message)
            thread.join()
            assert.equal("idle again", state:call("idle again"))
        end)
    end

    it("raises a string that begins with its name", function()
        local state = looping()
        local thread = interrupt_soon(state)
        local ok, message = state:call("pcall")
        thread.join()
        assert.is_false(ok)
        assert.equal(mtstates.error.interrupted, message)
    end)

    it("strikes an idle state at the next call, once", function()
        local state = looping()
        state:interrupt()
        state:interrupt(nil)
        assert.matches(mtstates.error.interrupted, support.error_of(state.call, state, "x"))
        assert.equal("x", state:call("x"))
    end)

    it("with true strikes at every operation until false", function()
        local state = looping()
        state:interrupt(true)
        for _ = 1, 3 do
            assert.matches(mtstates.error.interrupted, support.error_of(state.call, state, "pcall"))
        end
        state:interrupt() -- does not take it back
        for _ = 1, 2 do
            assert.matches(mtstates.error.interrupted, support.error_of(state.call, state, "x"))
        end
        state:interrupt(false)
        assert.equal("x", state:call("x"))
        state:interrupt()
        state:interrupt(false)
        assert.equal("x", state:call("x"))
    end)

    it("with true stops code that catches errors", function()
        local state = mtstates.newstate(function()
            local breathe = os.getenv("MTSTATES_TEST_TSAN") and os.time
            return function()
                while true do
                    pcall(function()
                        while true do
                            if breathe then
                                breathe()
                            end
                        end
                    end)
                end
            end
        end)
        local thread = interrupt_soon(state, true)
        assert.matches(mtstates.error.interrupted, support.error_of(state.call, state))
        thread.join()
    end)

    -- Lua walks all levels for each error that goes up by one: 3 s for what 0.05 s went down.
    it("with true ends a coroutine at once, however many levels would catch the error", function()
        local state = mtstates.newstate(function()
            local breathe = os.getenv("MTSTATES_TEST_TSAN") and os.time
            local dead
            return function(how)
                if how == "status" then
                    return coroutine.status(dead)
                end
                local function f()
                    if breathe then
                        breathe()
                    end
                    pcall(f)
                    pcall(f)
                end
                dead = coroutine.create(f)
                error(select(2, coroutine.resume(dead)), 0)
            end
        end)
        local thread = interrupt_soon(state, true)
        local start = os.clock()
        assert.matches(mtstates.error.interrupted, support.error_of(state.call, state))
        assert.is_true(os.clock() - start < 1)
        thread.join()
        state:interrupt(false)
        assert.equal("dead", state:call("status"))
    end)

    -- Each of the values raises an error, and a traceback of such a stack takes milliseconds.
    it("with true ends a call with thousands of values to be closed soon, however deep it is", function()
        end_always(5, holding(), "deep", 20000)
    end)

    it("with true ends code in which only C functions run, without an operation between", function()
        for _, values in ipairs({ 0, 5000 }) do
            local message = end_always(3, holding(), "C", values)
            assert.equal(values == 0, message:find("\nstack traceback:", 1, true) ~= nil)
        end
    end)

    it("with true lets files and handles be closed by <close>", function()
        local state = mtstates.newstate(function(path)
            local mt = require("mtstates")
            local breathe = os.getenv("MTSTATES_TEST_TSAN") and os.time or function() end
            local file
            return function(how)
                if how == "type" then
                    return io.type(file)
                end
                file = assert(io.open(path))
                local _ <close> = file
                local _ <close> = mt.newstate("closed by <close>", "return function() end")
                while true do
                    breathe()
                end
            end
        end, "LICENSE")
        end_always(3, state)
        assert.equal("closed file", state:call("type"))
        assert.matches(mtstates.error.unknown_object, support.error_of(mtstates.state, "closed by <close>"))
    end)

    -- Each of the levels that it goes through copies it: 30 s.
    it("with true ends the way of a long message through many states or coroutines", function()
        local state = mtstates.newstate(function()
            local mt = require("mtstates")
            local message = ("x"):rep(50000000)
            return function(how, levels)
                local function go_on(n)
                    if n > 0 then
                        return coroutine.wrap(go_on)(n - 1)
                    end
                    error(message)
                end
                if how == "coroutines" then
                    go_on(150)
                elseif levels > 0 then
                    return mt.state(mt.id()):call(how, levels - 1)
                end
                error(message)
            end
        end)
        for _, how in ipairs({ "coroutines", "states" }) do
            end_always(3, state, how, 150)
        end
    end)

    it("leaves a debug hook of the state's own code in place", function()
        local state = mtstates.newstate(function()
            local count = 0
            local breathe = os.getenv("MTSTATES_TEST_TSAN") and os.time
            debug.sethook(function() count = count + 1 end, "", 1)
            return function(what)
                while what == "loop" do
                    if breathe then
                        breathe()
                    end
                end
                return count, debug.gethook() ~= nil
            end
        end)
        local before = state:call()
        local thread = interrupt_soon(state)
        assert.matches(mtstates.error.interrupted, support.error_of(state.call, state, "loop"))
        thread.join()
        local after, hooked = state:call()
        assert.is_true(hooked)
        assert.is_true(after > before)
    end)

    it("reaches a state that nobody owns any more and that does not end", function()
        local state = looping("abandoned loop")
        local weak = mtstates.state("abandoned loop")
        local thread = support.thread(function()
            require("mtstates").state("abandoned loop"):tcall(math.huge, "loop")
        end)
        support.eventually(function()
            return not state:tcall(0, "x")
        end)
        state = nil -- luacheck: ignore
        collectgarbage()
        collectgarbage()
        weak:interrupt()
        local ok, message = thread.join()
        assert.is_false(ok)
        assert.matches(mtstates.error.interrupted, message)
        assert.matches("^" .. mtstates.error.object_closed, support.error_of(weak.interrupt, weak))
    end)

    it("does not reach finalizers, nor what they resume, as the state closes", function()
        local log = support.adder("resumed log")
        local state = mtstates.newstate(function()
            local say = require("mtstates").state("resumed log")
            keep = setmetatable({}, { __gc = function() -- luacheck: ignore
                say:call(coroutine.wrap(function()
                    return 1
                end)())
            end })
            return function() end
        end)
        state:interrupt(true)
        state:close()
        assert.equal(1, log:call(0))
    end)

    it("raises object_closed on a closed state", function()
        local state = looping()
        state:close()
        assert.matches("^" .. mtstates.error.object_closed, support.error_of(state.interrupt, state))
    end)

    it("refuses flags that are no booleans", function()
        local state = looping()
        for _, value in ipairs({ 1, "true", {} }) do
            assert.matches("bad argument #1 to 'interrupt' %(boolean or nil expected, got",
                support.error_of(function() state:interrupt(value) end))
        end
        assert.equal("x", state:call("x"))
    end)

    it("may come at any moment of a state's life", function()
        local board = mtstates.newstate("interrupted at any moment", function()
            local id
            return function(value)
                if value ~= nil then
                    id = value
                end
                return id
            end
        end)
        local thread = support.thread(function()
            local mt = require("mtstates")
            local board_handle = mt.state("interrupted at any moment")
            local sent = 0
            while true do
                local _, id = board_handle:tcall(math.huge)
                if id == false then
                    return sent
                elseif id and pcall(function() mt.state(id):interrupt() end) then
                    sent = sent + 1
                end
            end
        end)
        local deadline = uv.hrtime() + 0.5e9
        local interrupted, rounds = 0, 0
        while uv.hrtime() < deadline do
            local state = mtstates.newstate(function()
                return function()
                    local t = {}
                    for i = 1, 50 do
                        t[i] = coroutine.wrap(function()
                            local inner = coroutine.wrap(function() return { i } end)
                            return pcall(inner)
                        end)()
                    end
                    return #t
                end
            end)
            board:tcall(math.huge, state:id())
            for _ = 1, 5 do
                local ok, message = pcall(state.call, state)
                if not ok then
                    assert.matches(mtstates.error.interrupted, message)
                    interrupted = interrupted + 1
                end
            end
            state:close()
            rounds = rounds + 1
        end
        board:tcall(math.huge, false)
        local ok, sent = thread.join()
        assert.is_true(ok, sent)
        assert.is_true(rounds > 0 and sent > 0)
    end)
end)
