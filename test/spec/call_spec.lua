local mtstates = require("mtstates")
local support = require("support")

local echo = support.echo

local function error_name(name)
    return "^" .. mtstates.error[name]:gsub("%.", "%%.")
end

describe("call", function()
    local state

    before_each(function()
        state = mtstates.newstate("callee", echo)
    end)

    it("passes every plain value there and back, exactly", function()
        local values = { n = 0 }
        local function add(v)
            values.n = values.n + 1
            values[values.n] = v
        end
        add(nil) add(true) add(false)
        add(0) add(-1) add(math.maxinteger) add(math.mininteger)
        add(0.0) add(1.0) add(-0.0) add(2 ^ 53) add(1e308) add(5e-324) add(math.huge) add(-math.huge)
        add("") add("a\0b") add("short") add(("long"):rep(100)) add(("huge"):rep(1000000))
        for i = 1, values.n do
            local back = state:call(values[i])
            assert.equal(values[i], back)
            assert.equal(math.type(values[i]), math.type(back))
            if values[i] == 0 then
                assert.equal(1 / values[i], 1 / back)
            end
        end
        local nan = state:call(0 / 0)
        assert.is_true(nan ~= nan)
        local all = table.pack(state:call(table.unpack(values, 1, values.n)))
        assert.equal(values.n, all.n)
        for i = 1, values.n do
            assert.equal(values[i], all[i])
        end
    end)

    it("passes light userdata", function()
        local light = require("luv").version and debug.upvalueid(function()
            return state
        end, 1)
        assert.equal("userdata", type(light))
        assert.equal(light, state:call(light))
        assert.equal(light, (state:call(light, "with a string")))
        assert.equal(light, (select(2, state:call("with a string", light))))
    end)

    it("passes as many values as Lua's stack holds, and says clearly when they are too many", function()
        for _, value in ipairs({ 1, "string" }) do
            local many = {}
            for i = 1, 100000 do
                many[i] = value
            end
            local count = mtstates.newstate(function()
                return function(...)
                    return select("#", ...), (select(-1, ...))
                end
            end)
            assert.same({ 100000, value }, { count:call(table.unpack(many)) })
            assert.equal(100000, select("#", state:call(table.unpack(many))))
        end
        local spill = mtstates.newstate(function()
            return function(n)
                local t = {}
                return table.unpack(t, 1, n)
            end
        end)
        local function deep(n) -- leaves the host little stack for the results
            if n == 0 then
                return select("#", spill:call(900000))
            end
            return (deep(n - 1))
        end
        assert.matches(error_name("state_result") .. ".*900000 values: too many",
            support.error_of(deep, 60000))
        local crowded = mtstates.newstate(function()
            local mt = require("mtstates")
            local me, other
            return function(how, ...)
                if how == "count" then
                    return select("#", ...)
                end
                me = me or mt.state(mt.id())
                other = other or mt.newstate(function(id)
                    return function()
                        return require("mtstates").state(id):call("count", table.unpack({}, 1, 400000))
                    end
                end, me:id())
                return other:call()
            end
        end)
        assert.matches("too many arguments to 'call'",
            support.error_of(function() crowded:call("nest", table.unpack({}, 1, 650000)) end))
        assert.equal(400000, crowded:call("nest"))
        assert.equal(1, select("#", state:call(1)))
        assert.equal(900000, select("#", spill:call(900000)))
    end)

    it("refuses arguments that cannot cross, and does not run the callback", function()
        local counter = mtstates.newstate(function()
            local n = 0
            return function()
                n = n + 1
                return n
            end
        end)
        local refused = {
            ["C function"] = print,
            ["function uses upvalue 'counter'"] = function() return counter end,
            ["value of type 'FILE%*' not supported"] = io.stdout,
            ["value of type 'thread' not supported"] = coroutine.create(print),
            ["table with a metatable"] = setmetatable({}, {}),
        }
        for why, value in pairs(refused) do
            for position = 1, 3 do
                local arguments = { "a", "b", "c" }
                arguments[position] = value
                assert.matches("bad argument #" .. position .. " to 'call' %(" .. why,
                    support.error_of(function()
                        counter:call(table.unpack(arguments))
                    end))
            end
        end
        assert.equal(1, counter:call())
    end)

    it("counts arguments as the user does", function()
        local function where(f)
            return support.error_of(f):match("#(%d)")
        end
        assert.equal("1", where(function() state:call(print) end))
        assert.equal("2", where(function() state.call(state, print) end))
        assert.equal("1", where(function() state(print) end))
        assert.equal("2", where(function() state:tcall(0, print) end))
    end)

    it("refuses a wrong self by an argument error", function()
        for _, method in ipairs({ "call", "tcall", "interrupt", "close", "isowner", "id", "name" }) do
            for _, self in ipairs({ 1, "s", {}, io.stdout }) do
                assert.matches("bad argument #1 to '" .. method .. "' %(mtstates.state expected, got",
                    support.error_of(state[method], self))
            end
            assert.matches("mtstates.state expected, got no value", support.error_of(state[method]))
        end
        local impostor = { call = state.call }
        assert.matches("calling 'call' on bad self %(mtstates.state expected, got table%)",
            support.error_of(function() impostor:call() end))
        assert.equal(1, state:call(1))
    end)

    it("raises state_result for results that cannot cross, and the state stays usable", function()
        local giver = mtstates.newstate(function()
            return function(kind)
                if kind == "thread" then
                    return 1, coroutine.create(print)
                elseif kind == "function" then
                    return "a", "b", print
                elseif kind == "much and a thread" then
                    return ("long"):rep(5000), coroutine.create(print)
                end
                return "fine"
            end
        end)
        assert.matches(error_name("state_result") .. ".*#2 %(value of type 'thread'",
            support.error_of(giver.call, giver, "thread"))
        assert.matches(error_name("state_result") .. ".*#3 %(C function",
            support.error_of(giver.call, giver, "function"))
        assert.matches(error_name("state_result") .. ".*#2 %(value of type 'thread'",
            support.error_of(giver.call, giver, "much and a thread"))
        assert.equal("fine", giver:call())
    end)

    it("is what calling the handle does", function()
        assert.same({ 1, "two", nil, 4.0 }, { state(1, "two", nil, 4.0) })
    end)

    it("nests from the same thread, directly, through coroutines and round a circle", function()
        local a = mtstates.newstate("nest a", function()
            local mt = require("mtstates")
            return function(how, text)
                if how == "self" then
                    return mt.state("nest a"):call("leaf", text .. ">self")
                elseif how == "coroutine" then
                    return coroutine.wrap(function()
                        return mt.state("nest a"):call("leaf", text .. ">co")
                    end)()
                elseif how == "round" then
                    return mt.state("nest b"):call("leaf", text .. ">b")
                elseif how == "round in a coroutine" then
                    return coroutine.wrap(function()
                        return mt.state("nest b"):call("leaf", text .. ">co b")
                    end)()
                end
                return text .. ">leaf", 1, nil
            end
        end)
        local b = mtstates.newstate("nest b", function()
            local mt = require("mtstates")
            return function(how, text)
                return mt.state("nest a"):call(how, text)
            end
        end)
        assert.same({ "x>self>leaf", 1, nil }, { a:call("self", "x") })
        assert.same({ "x>co>leaf", 1, nil }, { a:call("coroutine", "x") })
        assert.same({ "x>b>leaf", 1, nil }, { a:call("round", "x") })
        assert.same({ "x>co b>leaf", 1, nil }, { a:call("round in a coroutine", "x") })
        assert.equal("y>leaf", (b:call("leaf", "y")))
        assert.equal(("z"):rep(100000) .. ">b>leaf", (a:call("round", ("z"):rep(100000))))
    end)

    it("nests with errors and refusals and comes back whole", function()
        local a = mtstates.newstate("errs a", function()
            local mt = require("mtstates")
            return function(how)
                if how == "leaf" then
                    error("leaf error")
                elseif how == "refused" then
                    return print
                end
                local target = how:find("self") and "errs a" or "errs b"
                local what = how:find("refused") and "refused" or "leaf"
                return pcall(mt.state(target).call, mt.state(target), what)
            end
        end)
        local b = mtstates.newstate("errs b", function()
            local mt = require("mtstates")
            return function(how)
                return mt.state("errs a"):call(how)
            end
        end)
        for _ = 1, 3 do
            for _, how in ipairs({ "self", "round" }) do
                local ok, message = a:call(how)
                assert.is_false(ok)
                assert.matches(error_name("invoking_state") .. ".*leaf error", message)
                ok, message = a:call(how .. " refused")
                assert.is_false(ok)
                assert.matches(mtstates.error.state_result, message)
            end
        end
        assert.matches("leaf error", support.error_of(b.call, b, "leaf"))
    end)

    it("copies within one state what crosses, and nothing else", function()
        local own = mtstates.newstate("with itself", function()
            local mt = require("mtstates")
            local given
            return function(how, t)
                local self = mt.state("with itself")
                if how == "refused" then
                    return select(2, pcall(self.call, self, print))
                elseif how == "change" then
                    t.x, given = "changed", t
                    return t
                end
                local mine = { x = "as it was" }
                local result = self:call("change", mine)
                given.x = "changed again"
                return mine.x, result.x
            end
        end)
        assert.matches("bad argument #2 to 'call' %(C function", own:call("refused"))
        assert.same({ "as it was", "changed" }, { own:call() })
    end)

    it("turns a callback that yields into an ordinary error", function()
        local yielder = mtstates.newstate(function()
            return function(x)
                if x then
                    return x
                end
                coroutine.yield(1)
            end
        end)
        assert.matches(error_name("invoking_state") .. ".*attempt to yield",
            support.error_of(yielder.call, yielder))
        local wrapped = coroutine.wrap(function()
            return pcall(yielder.call, yielder)
        end)
        assert.is_false((wrapped()))
        assert.equal(3, yielder:call(3))
    end)

    it("raises concurrent_access at once while another thread is inside", function()
        local busy, release = support.busy_state("busy")
        for _ = 1, 3 do
            assert.matches(error_name("concurrent_access") .. '.*name="busy"',
                support.error_of(busy.call, busy))
        end
        assert.same({ true, "done" }, { release() })
        assert.equal("done", busy:call())
    end)
end)

describe("an error inside", function()
    it("names the state and has both tracebacks, inside first", function()
        local state = mtstates.newstate("trace", function()
            local function inner()
                error("the message")
            end
            return function()
                inner()
            end
        end)
        local function outer_function()
            state:call()
        end
        local message = support.error_of(outer_function)
        assert.matches(error_name("invoking_state"), message)
        assert.matches("the message", message)
        assert.matches('name="trace",id=' .. state:id(), message)
        local inside = message:find("in upvalue 'inner'")
        local outside = message:find("outer_function")
            or message:find("in function <test/spec/call_spec.lua")
        assert.is_truthy(inside)
        assert.is_truthy(message:find("outer stack traceback:", inside, true))
        assert.is_truthy(outside)
    end)

    it("has no traceback inside after ten others of its call, raised by values being closed", function()
        local state = mtstates.newstate(function()
            local mt = require("mtstates")
            return function(count, is_nested)
                if is_nested then
                    mt.state(mt.id()):call(count)
                end
                local function raise(i)
                    local _ <close> = i > 1 and setmetatable({}, {
                        __close = function() error("no. " .. i) end,
                    }) or nil
                    if i == count then
                        error("no. 1")
                    end
                    raise(i + 1)
                    return nil
                end
                raise(1)
            end
        end)
        for _, count in ipairs({ 10, 11, 10, 1 }) do
            for _, is_nested in ipairs({ false, true }) do
                local message = support.error_of(state.call, state, count, is_nested)
                assert.matches(count == 1 and "no%. 1" or "no%. 2", message)
                local _, tracebacks = message:gsub("\nstack traceback:", "")
                assert.equal((is_nested and 1 or 0) + (count <= 10 and 1 or 0), tracebacks)
            end
        end
    end)

    it("has its traceback after any number of arguments that were refused inside", function()
        local state = mtstates.newstate(function()
            return function()
                error("at last")
            end
        end)
        local Unknown = {}
        mtstates.class("unknown inside", Unknown)
        for _ = 1, 20 do
            assert.matches("unknown inside", support.error_of(state.call, state, setmetatable({}, Unknown)))
        end
        assert.matches("\nstack traceback:", support.error_of(state.call, state))
    end)

    it("shows objects by __tostring, else by their type", function()
        local state = mtstates.newstate(function()
            return function(kind)
                if kind == "tostring" then
                    error(setmetatable({}, { __tostring = function() return "spoken" end }))
                elseif kind == "bad tostring" then
                    error(setmetatable({}, { __tostring = function() error("no") end }))
                elseif kind == "nil" then
                    error(nil)
                elseif kind == "number" then
                    error(42)
                end
                error({})
            end
        end)
        local function message(kind)
            return support.error_of(state.call, state, kind)
        end
        assert.matches("spoken", message("tostring"))
        assert.matches("a table value", message("bad tostring"))
        assert.matches("a table value", message("table"))
        assert.matches("a nil value", message("nil"))
        assert.matches(": 42\n", message("number"))
    end)

    it("keeps messages with zero bytes whole", function()
        local state = mtstates.newstate(function()
            return function()
                error("a\0b", 0)
            end
        end)
        assert.is_truthy(support.error_of(state.call, state):find("a\0b\n", 1, true))
    end)

    it("shows the name of the inner error when states are nested", function()
        local inner = mtstates.newstate("inner", function()
            return function()
                return print
            end
        end)
        local outer = mtstates.newstate("outer", function()
            local mt = require("mtstates")
            return function()
                mt.state("inner"):call()
            end
        end)
        local message = support.error_of(outer.call, outer)
        assert.matches(error_name("invoking_state"), message)
        assert.matches(mtstates.error.state_result, message)
        inner:close()
    end)
end)
