-- As many values as Lua's stack takes (1000000), and one more or less. Where Lua checks the use of its
-- interface, as in the preset apicheck, a push too many ends the process.
local mtstates = require("mtstates")
local support = require("support")

-- An error that says that there were too many values.
local function says_too_many(message)
    message = tostring(message)
    return message:match("too many") or message:match("stack overflow")
end

-- The largest count for which works(count) is true, where it is true for smaller ones. It is a little
-- less than all that the stack takes, or half of it.
local function limit_of(works)
    local high = works(900000) and 1000001 or 500001
    local low = works(high - 500) and high - 500 or 400000
    assert.is_true(works(low))
    while high - low > 1 do
        local middle = (low + high) // 2
        if works(middle) then
            low = middle
        else
            high = middle
        end
    end
    return low
end

-- Calls check(count) for counts about the limit of what works.
local function about_the_limit(works, check)
    local limit = limit_of(works)
    for count = limit - 7, limit + 1 do
        check(count)
    end
end

-- A state that calls itself, and gives as many results as it is told to. Asked how, it gives the count
-- and the last of what pcall gives for such a call; select copies nothing, as a vararg function would.
local function nester()
    return mtstates.newstate(function()
        local mt = require("mtstates")
        local own, refused = nil, coroutine.create(print)
        local function values(count, last)
            return { [count] = last == "refused" and refused or last }, 1, count
        end
        local ways = {
            call = function(...) return pcall(own.call, own, "unpack", ...) end,
            tcall = function(...) return pcall(own.tcall, own, 1, "unpack", ...) end,
            coroutine = function(...)
                return coroutine.resume(coroutine.create(own.call), own, "unpack", ...)
            end,
            arguments = function(...) return pcall(own.call, own, table.unpack(values(...))) end,
        }
        return function(what, count, last)
            own = own or mt.state(mt.id())
            if what == "unpack" then
                return table.unpack(values(count, last))
            elseif ways[what] then
                return select("#", ways[what](count, last)), (select(-1, ways[what](count, last)))
            end
            return what
        end
    end)
end

describe("a full stack", function()
    it("of results is as good as any, or too many", function()
        local state = nester()
        local function works(count)
            return (pcall(state.call, state, "unpack", count))
        end
        about_the_limit(works, function(count)
            local got = select("#", pcall(state.call, state, "unpack", count, "last"))
            local last = select(-1, pcall(state.call, state, "unpack", count, "last"))
            assert.is_truthy(got == count + 1 or got == 2, got)
            assert.is_truthy(last == "last" or says_too_many(last), last)
            local ok, message = pcall(state.call, state, "unpack", count, "refused")
            assert.is_false(ok)
            assert.is_truthy(says_too_many(message) or message:match("^" .. mtstates.error.state_result),
                message)
            assert.equal("usable", state:call("usable"))
        end)
    end)

    it("of arguments is as good as any, or too many", function()
        local state = nester()
        local function call(count, last)
            return pcall(function() return state:call(table.unpack({ [count] = last }, 1, count)) end)
        end
        about_the_limit(function(count) return (call(count)) end, function(count)
            local ok, message = call(count, "last")
            assert.is_truthy(ok or says_too_many(message), message)
            ok, message = call(count, print)
            assert.is_false(ok)
            assert.is_truthy(says_too_many(message) or message:match("#" .. count .. " to 'call'"), message)
            assert.equal("usable", state:call("usable"))
        end)
    end)

    for how, more in pairs({ call = 1, tcall = 2, coroutine = 1, arguments = 1 }) do
        it("in a state that calls itself is as good as any, or too many, by " .. how, function()
            local state = nester()
            local function works(count)
                local ok, _, last = pcall(state.call, state, how, count, "last")
                return ok and last == "last" or ok and how == "arguments" and not says_too_many(last)
            end
            about_the_limit(works, function(count)
                local ok, got, last = pcall(state.call, state, how, count, "last")
                if not ok or says_too_many(last) then
                    assert.is_truthy(says_too_many(ok and last or got), got)
                elseif how ~= "arguments" then
                    assert.same({ count + more, "last" }, { got, last })
                end
                ok, got, last = pcall(state.call, state, how, count, "refused")
                local message = ok and last or got
                assert.is_truthy(says_too_many(message) or message:match(mtstates.error.state_result)
                    or message:match("not supported"), message)
                assert.equal("usable", state:call("usable"))
            end)
        end)
    end

    it("of setup's results leaves a state as good as any, or none", function()
        local function make(count, last)
            return pcall(mtstates.newstate, "full", function(n, value)
                return function(...) return ... end, table.unpack({ [n] = value }, 1, n)
            end, count, last)
        end
        about_the_limit(function(count)
            local ok, state = make(count)
            if ok then
                state:close()
            end
            return ok
        end, function(count)
            local _, results = pcall(function() return select("#", make(count, "last")) end)
            assert.is_truthy(results == count + 2 or results == 2 or says_too_many(results), results)
            collectgarbage()
            collectgarbage()
            local ok, state = make(count, "last")
            if ok then
                assert.equal("usable", state:call("usable"))
                state:close()
            else
                assert.is_truthy(says_too_many(state), state)
            end
            collectgarbage()
            collectgarbage()
            assert.is_false((pcall(mtstates.state, "full")))
        end)
    end)

    it("of setup's results, the last of which is refused, leaves no state", function()
        for count = 999970, 999995 do
            local message = support.error_of(mtstates.newstate, "full", function(n)
                return function() end, table.unpack({ [n] = print }, 1, n)
            end, count)
            assert.is_truthy(says_too_many(message) or message:match("^" .. mtstates.error.state_result),
                message)
            assert.is_false((pcall(mtstates.state, "full")))
        end
    end)

    it("of setup's results, the first of which is no callback, leaves no state", function()
        for count = 999970, 999995 do
            local message = support.error_of(mtstates.newstate, "full", function(n)
                return table.unpack({}, 1, n)
            end, count)
            assert.is_truthy(says_too_many(message) or message:match("^" .. mtstates.error.state_result),
                message)
        end
    end)
end)
