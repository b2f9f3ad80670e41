local mtstates = require("mtstates")
local support = require("support")

local adder = support.adder

describe("threads", function()
    it("of luv call one state by id, carried as a double, and refusals lose nothing", function()
        local state = adder()
        local threads = {}
        for i = 1, 3 do
            threads[i] = support.thread(function(id)
                local mt = require("mtstates")
                local handle = mt.state(id)
                local refused = 0
                for _ = 1, 2000 do
                    while true do
                        local ok, message = pcall(handle.call, handle, 1)
                        if ok then
                            break
                        end
                        assert(message:match(mt.error.concurrent_access), message)
                        refused = refused + 1
                        require("luv").sleep(0)
                    end
                end
                return refused
            end, state:id())
        end
        for i = 1, 3 do
            local ok, refused = threads[i].join()
            assert.is_true(ok, refused)
        end
        assert.equal(6000, state:call())
    end)

    it("of cqueues call states by name", function()
        local thread = require("cqueues.thread")
        local state = adder("called by cqueues")
        local running = {}
        for i = 1, 3 do
            running[i] = thread.start(function()
                local handle = require("mtstates").state("called by cqueues")
                for _ = 1, 1000 do
                    assert(handle:tcall(math.huge, 1))
                end
            end)
        end
        for i = 1, 3 do
            assert.is_truthy(running[i]:join(10))
        end
        assert.equal(3000, state:call())
    end)

    it("may end with handles, and make states that others use after them", function()
        local keeper = mtstates.newstate("keeper", function()
            local mt = require("mtstates")
            local owned
            return function(name)
                owned = mt.singleton(name, function() error("made before") end)
                return owned:id()
            end
        end)
        local thread = support.thread(function()
            local mt = require("mtstates")
            local mine <const> = mt.newstate("made by a thread", function()
                return function() return "alive" end
            end)
            mt.state("keeper"):call("made by a thread")
            return mine:id()
        end)
        local ok, id = thread.join()
        assert.is_true(ok, id)
        assert.equal("alive", mtstates.state(id):call())
        keeper:close()
        assert.is_false((pcall(mtstates.state, id)))
    end)

    it("come and go by the hundred", function()
        local state = adder()
        for _ = 1, 20 do
            local threads = {}
            for i = 1, 10 do
                threads[i] = support.thread(function(id)
                    return (select(2, require("mtstates").state(id):tcall(math.huge, 1)))
                end, state:id())
            end
            for i = 1, 10 do
                assert.is_true((threads[i].join()))
            end
        end
        assert.equal(200, state:call())
    end)

    it("look up while others make and close, and get a living state or unknown_object", function()
        local looker = function(deadline)
            local mt, uv = require("mtstates"), require("luv")
            local found, unknown, ambiguous = 0, 0, 0
            while uv.hrtime() < deadline do
                local ok, result = pcall(mt.state, "comes and goes")
                if ok then
                    local called, message = pcall(result.call, result)
                    assert(called or message:match(mt.error.object_closed)
                        or message:match(mt.error.concurrent_access), message)
                    found = found + 1
                elseif result:match(mt.error.ambiguous_name) then
                    ambiguous = ambiguous + 1
                else
                    assert(result:match(mt.error.unknown_object), result)
                    unknown = unknown + 1
                end
            end
            return found .. " " .. unknown .. " " .. ambiguous
        end
        local deadline = require("luv").hrtime() + 5e8
        local a, b = support.thread(looker, deadline), support.thread(looker, deadline)
        while require("luv").hrtime() < deadline do
            local state = mtstates.newstate("comes and goes", false, function()
                return function() end
            end)
            for _ = 1, 100 do -- a while to be found in, however slow making is
                pcall(state.call, state)
            end
            local ok, message = pcall(state.close, state)
            assert(ok or message:match(mtstates.error.concurrent_access), message)
        end
        collectgarbage()
        for _, thread in ipairs({ a, b }) do
            local ok, counts = thread.join()
            assert.is_true(ok, counts)
            assert.is_true(tonumber(counts:match("^%d+")) > 0, counts)
        end
    end)
end)

-- Libraries that only LuaRocks has: used where they are installed.
local function with(library, description, test)
    if pcall(require, library) then
        it("of " .. library .. " " .. description, test)
    else
        pending("of " .. library .. " " .. description .. " (not installed)")
    end
end

describe("threads", function()
    with("llthreads2.ex", "call states", function()
        local state = adder()
        local thread = require("llthreads2.ex").new(function(id)
            return require("mtstates").state(id):call(5)
        end, state:id())
        thread:start()
        local ok, value = thread:join()
        assert.is_truthy(ok)
        assert.equal(5, value)
    end)

    with("lanes", "call states", function()
        local lanes = require("lanes")
        lanes = lanes.configure and lanes.configure() or lanes
        local state = adder()
        local lane = lanes.gen("*", function(id)
            return require("mtstates").state(id):call(5)
        end)(state:id())
        assert.equal(5, lane[1])
    end)

    with("mtmsg", "hand over ids", function()
        local buffer = require("mtmsg").newbuffer("ids for mtstates")
        local state = adder()
        buffer:addmsg(state:id())
        local thread = support.thread(function()
            local id = require("mtmsg").buffer("ids for mtstates"):nextmsg()
            return require("mtstates").state(id):call(5)
        end)
        local ok, value = thread.join()
        assert.is_true(ok, value)
        assert.equal(5, value)
    end)
end)
