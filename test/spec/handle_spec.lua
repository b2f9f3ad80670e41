local mtstates = require("mtstates")
local support = require("support")

local echo = support.echo

local function closed(f, ...)
    assert.matches("^" .. mtstates.error.object_closed, support.error_of(f, ...))
end

describe("a handle", function()
    it("shows address, name and id, with control bytes escaped", function()
        local state = mtstates.newstate('a"b\\c\n\0\127', echo)
        assert.matches('^mtstates%.state: 0x%x+ %(name="a\\"b\\\\c\\010\\000\\127",id='
            .. state:id() .. "%)$", tostring(state))
        assert.matches("^mtstates%.state: 0x%x+ %(id=%d+%)$", tostring(mtstates.newstate(echo)))
    end)

    it("equals another handle of the same state, and nothing else", function()
        local state = mtstates.newstate(echo)
        assert.is_true(state == mtstates.state(state:id()))
        assert.is_false(state == mtstates.newstate(echo))
        assert.is_false(state == io.stdout)
        assert.is_false(state == 1)
    end)

    it("keeps its metatable to itself", function()
        assert.equal("mtstates.state", getmetatable(mtstates.newstate(echo)))
    end)

    it("that alone owns is closed by <close>, with its state", function()
        local state, id
        do
            local h <close> = mtstates.newstate("scoped", echo)
            state, id = h, h:id()
            assert.equal(state, mtstates.state(id))
        end
        closed(state.call, state)
        closed(state.id, state)
        assert.matches("^" .. mtstates.error.unknown_object, support.error_of(mtstates.state, id))
        assert.matches("^" .. mtstates.error.unknown_object, support.error_of(mtstates.state, "scoped"))
    end)

    it("that owns with others only owns no more after <close>", function()
        local first = mtstates.singleton("scoped", echo)
        local second = mtstates.singleton("scoped", echo)
        do
            local _ <close> = first
            assert.is_true(first:isowner())
        end
        assert.is_false(first:isowner())
        assert.equal("usable", first:call("usable"))
        assert.is_true(second:isowner())
        assert.is_true(first == second)
        assert.equal("scoped", first:name())
        do
            local _ <close> = first -- which has nothing to give up any more
        end
        assert.equal("usable", second:call("usable"))
        do
            local _ <close> = second
        end
        closed(first.call, first)
        closed(second.call, second)
    end)

    it("that does not own is untouched by <close>", function()
        local state = mtstates.newstate("scoped", echo)
        for _ = 1, 3 do
            local weak
            do
                local h <close> = mtstates.state("scoped")
                weak = h
            end
            assert.equal("usable", weak:call("usable"))
            assert.same({ true, "usable" }, { weak:tcall(0, "usable") })
            assert.is_false(weak:isowner())
            assert.equal(state:id(), weak:id())
            assert.equal(tostring(state), tostring(weak))
            local same = mtstates.state(state:id())
            assert.equal("usable", same:call("usable"))
        end
        assert.is_true(state:isowner())
    end)

    for how, leave in pairs({
        ["an error"] = "local h = ... pcall(function() local _ <close> = h error('x') end)",
        ["a loop's end"] = "local h = ... for _ in function() end, nil, nil, h do end",
        ["a loop left by break"] = "local h = ... for _ in function() return 1 end, nil, nil, h do break end",
        ["a coroutine's end"] = "local h = ... coroutine.wrap(function() local _ <close> = h end)()",
        ["a return"] = "local h = ... local function f() local _ <close> = h return h end f()",
    }) do
        it("is given up by <close> through " .. how .. ", and one that does not own is not", function()
            local state = mtstates.newstate(echo)
            local weak = mtstates.state(state:id())
            load(leave)(weak)
            assert.equal("usable", weak:call("usable"))
            load(leave)(state)
            closed(state.call, state)
            closed(weak.call, weak)
        end)
    end

    it("may be given up by <close> after its state was closed", function()
        local state = mtstates.newstate(echo)
        local weak = mtstates.state(state:id())
        for _, handle in ipairs({ state, weak }) do
            local _ <close> = handle
            state:close()
        end
        closed(state.call, state)
        closed(weak.call, weak)
    end)

    it("that is the last to own a busy state leaves the closing to the thread inside", function()
        local busy, release = support.busy_state("scoped and busy")
        local weak = mtstates.state("scoped and busy")
        do
            local _ <close> = busy
        end
        closed(busy.call, busy)
        closed(weak.call, weak)
        assert.same({ true, "done" }, { release() })
        closed(weak.call, weak)
    end)

    it("is the same one when a host looks up a state again, and no garbage", function()
        local state = mtstates.newstate("known", echo)
        local id = state:id()
        local known = mtstates.state(id)
        assert.is_false(rawequal(state, known)) -- which owns
        assert.is_false(known:isowner())
        assert.is_true(rawequal(known, mtstates.state(id)))
        assert.is_true(rawequal(known, mtstates.state("known")))
        assert.is_true(rawequal(known, mtstates.state(id + 0.0)))
        collectgarbage()
        collectgarbage("stop")
        local before = collectgarbage("count")
        for _ = 1, 1000 do
            mtstates.state(id)
            mtstates.state("known")
        end
        local after = collectgarbage("count")
        collectgarbage("restart")
        assert.equal(before, after)
    end)

    it("may be given up while a call through it runs, and the error still names the state", function()
        local outer = mtstates.newstate("gives up", function()
            local mt = require("mtstates")
            local inner
            return function(what)
                if what == "give up" then
                    local _ <close> = inner
                    return
                end
                inner = mt.newstate("given up", function()
                    local m = require("mtstates")
                    return function(how)
                        m.state("gives up"):call("give up")
                        if how == "error" then
                            error("after all")
                        end
                        return print
                    end
                end)
                return select(2, pcall(inner.call, inner, what))
            end
        end)
        for _, how in ipairs({ "error", "result" }) do
            assert.matches('name="given up"', outer:call(how))
            assert.is_false((pcall(mtstates.state, "given up")))
        end
    end)

    it("may be given up by a finalizer while its closed state is being named", function()
        for _ = 1, 30 do
            local handle = mtstates.newstate(("n"):rep(60000), false, "return function() end")
            handle:close()
            for _ = 1, 40 do
                setmetatable({}, { __gc = function() local _ <close> = handle end })
                local message = support.error_of(handle.call, handle)
                assert.matches("^" .. mtstates.error.object_closed, message)
            end
        end
    end)

    it("that does not own does not keep the state", function()
        local state = mtstates.newstate(echo)
        local weak = mtstates.state(state:id())
        state = nil -- luacheck: ignore
        collectgarbage()
        collectgarbage()
        closed(weak.call, weak)
    end)
end)

describe("close", function()
    it("closes the state for every handle, and takes id and name away", function()
        local state = mtstates.newstate("to close", echo)
        local id, other = state:id(), mtstates.state("to close")
        other:close()
        for _, h in ipairs({ state, other }) do
            for _, method in ipairs({ "call", "id", "name", "isowner", "interrupt" }) do
                closed(h[method], h)
            end
            closed(h.tcall, h, 0)
            closed(h.tcall, h, 1)
            closed(h)
        end
        for _, key in ipairs({ id, "to close" }) do
            assert.matches("^" .. mtstates.error.unknown_object, support.error_of(mtstates.state, key))
        end
        assert.matches('name="to close"', tostring(state))
    end)

    it("does nothing to a closed state", function()
        local state = mtstates.newstate(echo)
        assert.equal(0, select("#", state:close()))
        state:close()
    end)

    it("meets concurrent_access while the state is busy elsewhere, and closes nothing", function()
        local busy, release = support.busy_state()
        assert.matches("^" .. mtstates.error.concurrent_access, support.error_of(busy.close, busy))
        release()
        assert.equal("done", busy:call())
    end)

    it("meets concurrent_access from inside the state, also nested", function()
        local state = mtstates.newstate("suicidal", function()
            local mt = require("mtstates")
            return function(nested)
                if nested then
                    return mt.state("suicidal"):call(false)
                end
                return pcall(mt.state("suicidal").close, mt.state("suicidal"))
            end
        end)
        for _, nested in ipairs({ false, true }) do
            local ok, message = state:call(nested)
            assert.is_false(ok)
            assert.matches("^" .. mtstates.error.concurrent_access, message)
        end
        state:close()
    end)

    it("runs the state's finalizers, which may use other states but not their own", function()
        local log = mtstates.newstate("finalizer log", function()
            local lines = {}
            return function(line)
                lines[#lines + 1] = line
                return table.concat(lines, "; ")
            end
        end)
        local state = mtstates.newstate("finalized", function()
            local mt = require("mtstates")
            return function()
                local own = mt.state("finalized")
                keep = setmetatable({}, { -- luacheck: ignore
                    __gc = function()
                        local say = mt.state("finalizer log")
                        say:call("gc")
                        for _, method in ipairs({ "call", "close" }) do
                            local _, message = pcall(own[method], own)
                            say:call(message:match("error%.[%a_]+"))
                        end
                        say:call(tostring(pcall(mt.state, "finalized")))
                        coroutine.wrap(function() end)()
                    end,
                })
            end
        end)
        state:call()
        state:close()
        assert.equal("gc; error.object_closed; error.concurrent_access; false; end", log:call("end"))
    end)
end)

describe("a finalizer that runs as its state closes", function()
    for _, order in ipairs({ "before", "after" }) do
        it("may make states, which go with it (object made " .. order .. " mtstates is loaded)", function()
            local maker = mtstates.newstate(function(made)
                if made == "after" then
                    require("mtstates")
                end
                keep = setmetatable({}, { -- luacheck: ignore
                    __gc = function()
                        local mt = require("mtstates")
                        made_last = mt.newstate("made last", function() -- luacheck: ignore
                            return function() end
                        end)
                        found_last = mt.state("made last") -- luacheck: ignore
                    end,
                })
                require("mtstates")
                return function() end
            end, order)
            maker:close()
            assert.matches("^" .. mtstates.error.unknown_object,
                support.error_of(mtstates.state, "made last"))
        end)
    end
end)

describe("a finalizer that runs as its state closes", function()
    it("cannot be the first to load mtstates, since nothing would end what it makes", function()
        local path = os.tmpname()
        mtstates.newstate(function(log)
            keep = setmetatable({}, { __gc = function() -- luacheck: ignore
                local file = assert(io.open(log, "w"))
                file:write(tostring(select(2, pcall(require, "mtstates"))))
                file:close()
            end })
            return function() end
        end, path):close()
        local file = assert(io.open(path))
        assert.matches("a finalizer cannot be the first to load mtstates", file:read("a"))
        file:close()
        os.remove(path)
    end)

    it("may close another state twice", function()
        local log = mtstates.newstate("closed twice", function()
            local seen = ""
            return function(text)
                seen = seen .. (text or "")
                return seen
            end
        end)
        local state = mtstates.newstate(function()
            local mt = require("mtstates")
            keep_other = mt.newstate(function() return function() end end) -- luacheck: ignore
            local other = mt.state(keep_other:id()) -- luacheck: ignore
            keep = setmetatable({}, { -- luacheck: ignore
                __gc = function()
                    local first, second = pcall(other.close, other), pcall(other.close, other)
                    mt.state("closed twice"):call(tostring(first) .. tostring(second))
                end,
            })
            return function() end
        end)
        state:close()
        assert.equal("truetrue", log:call())
    end)
end)

describe("the last owning handle", function()
    it("closes an idle state there and then", function()
        local log = support.adder("owner log")
        local state = mtstates.newstate(function() -- luacheck: ignore
            local mt = require("mtstates")
            keep = setmetatable({}, { -- luacheck: ignore
                __gc = function() mt.state("owner log"):call(1) end,
            })
            return function() end
        end)
        assert.equal(0, log:call(0))
        state = nil -- luacheck: ignore
        collectgarbage()
        collectgarbage()
        assert.equal(1, log:call(0))
    end)

    it("lets the thread inside close a busy state, and nobody new in", function()
        local busy, release = support.busy_state("abandoned") -- luacheck: ignore
        local weak = mtstates.state("abandoned")
        local id = busy:id()
        busy = nil -- luacheck: ignore
        collectgarbage()
        collectgarbage()
        closed(weak.call, weak)
        closed(weak.tcall, weak, 5)
        assert.matches("^" .. mtstates.error.unknown_object, support.error_of(mtstates.state, id))
        assert.matches("^" .. mtstates.error.unknown_object,
            support.error_of(mtstates.state, "abandoned"))
        local heir = mtstates.newstate("abandoned", echo)
        assert.equal(heir, mtstates.state("abandoned"))
        assert.same({ true, "done" }, { release() })
        closed(weak.call, weak)
    end)

    it("may go while its own state runs", function()
        local holder = mtstates.newstate("holder", function()
            local mt = require("mtstates")
            local child = mt.newstate("child", function() -- luacheck: ignore
                local m = require("mtstates")
                return function(text)
                    m.state("holder"):call("drop")
                    return text
                end
            end)
            return function(what)
                if what == "drop" then
                    child = nil
                    collectgarbage()
                    collectgarbage()
                    return
                end
                return mt.state("child"):call(what)
            end
        end)
        assert.equal("still here", holder:call("still here"))
        assert.matches("^" .. mtstates.error.unknown_object, support.error_of(mtstates.state, "child"))
    end)

    it("gives up all it has when a debug hook's own work has it collected", function()
        local _, grows = mtstates.newstate("hooked", support.echo), {}
        debug.sethook(function() end, "", 1)
        for i = 1, 20000 do
            mtstates.state("hooked") -- the address sanitizer sees it if one of these keeps its reference
            grows[i] = i
        end
        debug.sethook()
        assert.equal(20000, #grows)
    end)

    it("is told from an object that has got its metatable", function()
        local handle = mtstates.newstate(support.echo)
        local own = debug.getmetatable(io.stdout)
        debug.setmetatable(io.stdout, debug.getmetatable(handle))
        local message = support.error_of(handle.call, io.stdout)
        debug.setmetatable(io.stdout, own)
        assert.matches("bad argument #1 to 'call'", message)
    end)
end)
