local mtstates = require("mtstates")
local support = require("support")

local echo = support.echo

describe("state", function()
    it("finds a state by id and by name, with a handle that does not own", function()
        local state = mtstates.newstate("findable", echo)
        for _, key in ipairs({ state:id(), "findable" }) do
            local found = mtstates.state(key)
            assert.equal(state, found)
            assert.is_false(found:isowner())
            assert.equal(5, found:call(5))
        end
    end)

    it("takes a float with an integer value for an id", function()
        local state = mtstates.newstate(echo)
        assert.equal(state, mtstates.state(state:id() + 0.0))
    end)

    it("takes a string of digits for a name", function()
        local state = mtstates.newstate("17", echo)
        assert.equal(state, mtstates.state("17"))
    end)

    it("raises unknown_object for ids that nobody has", function()
        for _, id in ipairs({ 0, -5, 3.0, 1, math.maxinteger, math.mininteger }) do
            assert.matches("^" .. mtstates.error.unknown_object, support.error_of(mtstates.state, id))
        end
    end)

    it("refuses numbers that are no integers and other types by an argument error", function()
        for _, id in ipairs({ 1.5, 0 / 0, math.huge, 2 ^ 63 }) do
            assert.matches("bad argument #1 to 'state' %(id: number has no integer representation%)",
                support.error_of(mtstates.state, id))
        end
        assert.matches("bad argument #1 to 'state' %(id or name expected, got no value%)",
            support.error_of(mtstates.state))
        assert.matches("got nil", support.error_of(mtstates.state, nil))
        assert.matches("got table", support.error_of(mtstates.state, {}))
        local light = debug.upvalueid(support.error_of, 1)
        assert.matches("got light userdata", support.error_of(mtstates.state, light))
    end)

    it("raises ambiguous_name while two living states bear the name", function()
        local first = mtstates.newstate("twice", echo)
        local second = mtstates.newstate("twice", echo)
        assert.matches("^" .. mtstates.error.ambiguous_name .. '.*"twice"',
            support.error_of(mtstates.state, "twice"))
        first:close()
        assert.equal(second, mtstates.state("twice"))
        second:close()
        assert.matches("^" .. mtstates.error.unknown_object, support.error_of(mtstates.state, "twice"))
    end)

    it("knows of a name that was looked up before what others do to it", function()
        local states = { mtstates.newstate("looked up", echo) }
        for _ = 1, 3 do
            local known = mtstates.state("looked up")
            assert.is_true(rawequal(known, mtstates.state("looked up")))
            assert.equal(states[1], known)
            for i = 2, 4 do
                states[i] = mtstates.newstate("looked up", echo)
                assert.matches(mtstates.error.ambiguous_name, support.error_of(mtstates.state, "looked up"))
            end
            for i = 4, 2, -1 do
                local other = math.random(i)
                states[other], states[i] = states[i], states[other]
                assert.matches(mtstates.error.ambiguous_name, support.error_of(mtstates.state, "looked up"))
                states[i]:close()
            end
            states = { states[1] }
            assert.equal(states[1], mtstates.state("looked up"))
        end
        states[1]:close()
        assert.matches(mtstates.error.unknown_object, support.error_of(mtstates.state, "looked up"))
        local fresh = mtstates.newstate("looked up", echo)
        assert.equal(fresh, mtstates.state("looked up"))
    end)

    it("keeps ids apart among many states, makes and closes", function()
        local seen, states = {}, {}
        for i = 1, 300 do
            local state = mtstates.newstate("many " .. i, false, echo)
            assert.is_nil(seen[state:id()])
            seen[state:id()] = true
            states[i] = state
        end
        for i = 1, 300, 2 do
            states[i]:close()
        end
        for i = 1, 300 do
            local found = pcall(mtstates.state, "many " .. i)
            assert.equal(i % 2 == 0, found)
        end
    end)

    it("gives ids that a double holds and that no small number hits", function()
        local id = mtstates.newstate(echo):id()
        assert.equal("integer", math.type(id))
        assert.is_true(id < 2 ^ 53)
        assert.is_true(id > 2 ^ 40)
    end)
end)

describe("id", function()
    it("is nil in a host that mtstates did not make", function()
        assert.is_nil(mtstates.id())
    end)

    it("is the state's id inside it, in setup, callback and coroutines", function()
        local state, in_setup = mtstates.newstate(function()
            local mt = require("mtstates")
            return function()
                return mt.id(), coroutine.wrap(mt.id)()
            end, mt.id()
        end)
        local in_callback, in_coroutine = state:call()
        assert.equal(state:id(), in_setup)
        assert.equal(state:id(), in_callback)
        assert.equal(state:id(), in_coroutine)
    end)
end)

describe("type", function()
    it("is like Lua's, but names registered userdata", function()
        assert.equal("mtstates.state", mtstates.type(mtstates.newstate(echo)))
        assert.equal("FILE*", mtstates.type(io.stdout))
        for _, value in ipairs({ 1, "s", true, {}, print }) do
            assert.equal(type(value), mtstates.type(value))
        end
        assert.equal("nil", mtstates.type(nil))
        assert.matches("bad argument #1 to 'type' %(value expected%)", support.error_of(mtstates.type))
    end)

    it("does not believe a table that says it were a userdata", function()
        assert.equal("table", mtstates.type(setmetatable({}, { __name = "mtstates.state" })))
    end)
end)

describe("the module table", function()
    it("has the full name of each error", function()
        local names = { "ambiguous_name", "concurrent_access", "interrupted", "invoking_state",
            "object_closed", "out_of_memory", "state_result", "time_limit", "unknown_object" }
        for _, name in ipairs(names) do
            assert.equal("mtstates.error." .. name, mtstates.error[name])
        end
        local count = 0
        for _ in pairs(mtstates.error) do
            count = count + 1
        end
        assert.equal(#names, count)
    end)

    it("tells its version and how it was built", function()
        assert.matches("^%d+%.%d+%.%d+$", mtstates._VERSION)
        for _, part in ipairs({ "Lua 5%.4", "ck %d", "allocator", "probes" }) do
            assert.matches(part, mtstates._INFO)
        end
    end)

    it("is annotated for editors, function by function", function()
        local file = assert(io.open("src/mtstates.d.lua"))
        local text = file:read("a")
        file:close()
        for name, value in pairs(mtstates) do
            if type(value) == "function" then
                assert.matches("function mtstates%." .. name .. "%(", text)
            end
        end
        for name in pairs(mtstates.error) do
            assert.matches("field " .. name .. " ", text)
        end
        for method in pairs(debug.getmetatable(mtstates.newstate(echo)).__index) do
            assert.matches("function State:" .. method .. "%(", text)
        end
        local pool <close> = mtstates.newpool({ size = 1 }, echo)
        for method in pairs(debug.getmetatable(pool).__index) do
            assert.matches("function Pool:" .. method .. "%(", text)
        end
    end)

    it("by id gives the right state again and again, whatever handles of others there are", function()
        local owning, handles = {}, {}
        for i = 1, 40 do
            owning[i] = mtstates.newstate(echo)
        end
        for round = 1, 3 do
            for i = 1, 40 do
                local id = owning[i]:id()
                handles[#handles + 1] = mtstates.state(id)
                assert.equal(id, handles[#handles]:id())
                assert.is_true(handles[#handles] == owning[i])
            end
            if round == 2 then
                handles = {}
                collectgarbage()
            end
        end
        assert.matches("^" .. mtstates.error.unknown_object,
            support.error_of(mtstates.state, -owning[1]:id()))
        for i = 1, 40 do
            local id = owning[i]:id()
            owning[i]:close()
            assert.matches("^" .. mtstates.error.unknown_object, support.error_of(mtstates.state, id))
            assert.matches("^" .. mtstates.error.object_closed,
                support.error_of(handles[i].call, handles[i]))
        end
    end)
end)
