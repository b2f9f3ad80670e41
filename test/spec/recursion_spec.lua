-- Whatever Lua lets nest, in a state, ends in a Lua error before the C stack does; also where Lua
-- goes on counting its C calls from what a coroutine had when it was last resumed, or from zero.
local child = require("child")
local support = require("support")

-- Code of a state that defines nest(again): it calls again() with some C stack more in use.
-- suspended(at_close) gives a coroutine that has waited since before the recursion, and that calls
-- at_close() when it is closed; resumed, it dies. close(co) closes a coroutine, and raises its error as it
-- is: assert would put a position before it on each level.
local ways = {
    ["a coroutine that dies with a __close pending"] = [[
        function nest(again)
            coroutine.wrap(function()
                local _ <close> = setmetatable({}, { __close = again })
                error("dies")
            end)()
        end
    ]],
    ["a coroutine that is closed with a __close pending"] = [[
        function nest(again)
            close(suspended(again))
        end
    ]],
    ["a coroutine that is made, and closed with a __close pending"] = [[
        function nest(again)
            local co = coroutine.create(function()
                local _ <close> = setmetatable({}, { __close = again })
                coroutine.yield()
            end)
            coroutine.resume(co)
            close(co)
        end
    ]],
    ["a coroutine that is resumed, and dies with a __close pending"] = [[
        function nest(again)
            local co = suspended(again)
            assert(coroutine.resume(co) == false)
            close(co)
        end
    ]],
    ["a coroutine that is made, and closed in a loop with a closing value"] = [[
        function nest(again)
            local co = coroutine.create(function()
                for _ in coroutine.yield, nil, nil, setmetatable({}, { __close = again }) do
                end
            end)
            coroutine.resume(co)
            close(co)
        end
    ]],
    ["a coroutine that is closed in a coroutine"] = [[
        function nest(again)
            coroutine.wrap(function()
                local co = coroutine.wrap(function()
                    local _ <close> = setmetatable({}, { __close = function()
                        coroutine.wrap(again)()
                    end })
                    error("dies")
                end)
                co()
            end)()
        end
    ]],
    ["a coroutine that dies with several __close pending"] = [[
        function nest(again)
            local entered
            local function once()
                if not entered then
                    entered = true
                    again()
                end
            end
            coroutine.wrap(function()
                local _ <close> = setmetatable({}, { __close = function(_, e) error(e, 0) end })
                local _ <close> = setmetatable({}, { __close = once })
                local _ <close> = setmetatable({}, { __close = function() error("first") end })
                error("dies")
            end)()
        end
    ]],
    ["a message handler that closes a coroutine"] = [[
        function nest(again)
            local co = suspended(again)
            local _, message = xpcall(error, function()
                return select(2, coroutine.close(co)) or "fine"
            end)
            error(message, 0)
        end
    ]],
    ["a callback of string.gsub that closes a coroutine"] = [[
        function nest(again)
            local co = suspended(function()
                return (("x"):gsub("x", function() again() end))
            end)
            return (("x"):gsub("x", function() close(co) end))
        end
    ]],
    ["__tostring, string.format and a coroutine that dies"] = [[
        function nest(again)
            coroutine.wrap(function()
                local _ <close> = setmetatable({}, { __close = function()
                    return ("%s"):format(setmetatable({}, { __tostring = function()
                        again()
                        return "x"
                    end }))
                end })
                error("dies")
            end)()
        end
    ]],
    ["metamethods, load, require and a coroutine that is closed"] = [[
        function nest(again)
            local co = suspended(function()
                package.preload.nested = function() again() end
                package.loaded.nested = nil
                require("nested")
            end)
            local t = setmetatable({}, { __index = function() close(co) end })
            local loaded, message = load(function() return t.x end)
            return loaded or error(message, 0)
        end
    ]],
    ["a comparison of table.sort that closes a coroutine"] = [[
        function nest(again)
            table.sort({ 1, 2 }, function() close(suspended(again)) end)
        end
    ]],
    ["a state that calls itself as a coroutine is closed"] = [[
        local mt = require("mtstates")
        local itself
        function nest()
            close(suspended(function()
                itself = itself or mt.state(mt.id())
                itself:call()
            end))
        end
    ]],
    ["a state that calls itself in a coroutine that dies"] = [[
        local mt = require("mtstates")
        local itself
        function nest()
            coroutine.wrap(function()
                local _ <close> = setmetatable({}, { __close = function()
                    itself = itself or mt.state(mt.id())
                    itself:call()
                end })
                error("dies")
            end)()
        end
    ]],
    ["a finalizer in which coroutines are closed"] = [[
        local inside
        function nest(again)
            if inside then
                return close(suspended(again))
            end
            local message
            inside = true
            setmetatable({}, { __gc = function()
                message = select(2, pcall(again))
            end })
            collectgarbage()
            collectgarbage()
            inside = false
            error(message, 0)
        end
    ]],
}

-- Prints what the state's recursion ends in, and "usable" if the state is so afterwards.
local BODY = [=[
    local way, deepest, waiting_count = ...
    local mt = require("mtstates")
    local state = mt.newstate(function(code)
        local waiting = {}
        local function fill(count)
            for i = 1, code:match("suspended") and count or 0 do
                local one = {}
                one.co = coroutine.create(function()
                    local _ <close> = setmetatable({}, { __close = function() one.close() end })
                    coroutine.yield()
                    error("dies")
                end)
                coroutine.resume(one.co)
                waiting[i] = one
            end
        end
        function suspended(at_close)
            local one = table.remove(waiting)
            one.close = at_close
            return one.co
        end
        function close(co)
            local ok, message = coroutine.close(co)
            return ok or error(message, 0)
        end
        assert(load(code))()
        local function again()
            nest(again)
        end
        return function(command, count)
            if command == "fill" then
                fill(count)
            elseif command then
                return command
            else
                again()
            end
        end
    end, way)
    local function descend(depth, f)
        if depth == 0 then
            return f()
        end
        return (("x"):gsub("x", function() descend(depth - 1, f) end))
    end
    for depth = 0, deepest, deepest do
        state:call("fill", waiting_count)
        descend(depth, function()
            local ok, message = pcall(state.call, state)
            message = tostring(message)
            local known = message:match("stack overflow") or message:match("error in error handling") or
                message:match("error while handling") or message
            io.write(ok and "no error" or known, "\n")
        end)
        assert(state:call("usable") == "usable")
    end
    io.write("usable\n")
]=]

local ENDINGS = { ["stack overflow"] = true, ["error in error handling"] = true,
    ["error while handling"] = true }

-- Each line but the last tells of an ending in the recursion's own error.
local function assert_ended_well(output)
    local overflows = 0
    for line in output:gmatch("(.-)\n") do
        if ENDINGS[line] then
            overflows = overflows + 1
        end
    end
    assert.matches("\nusable\n%[exit 0%]$", "\n" .. output)
    assert.equal(2, overflows, output)
end

-- Each runs body(...) there. How many calls of string.gsub deep Lua itself comes there is `deepest`; more
-- than `levels` levels of coroutines that close each other do not fit.
local places = {
    ["on the main thread"] = {
        deepest = 180,
        levels = 10000,
        run = function(body, ...)
            return child.run(("load(%q)(%q, %d, %d)"):format(body, ...))
        end,
    },
    ["on a C stack of 512 KB"] = {
        deepest = 180,
        levels = 1500,
        run = function(body, ...)
            return child.run(("load(%q)(%q, %d, %d)"):format(body, ...), "ulimit -s 512")
        end,
    },
    ["on a thread's C stack of 256 KB"] = {
        deepest = 30,
        levels = 1500,
        run = function(body, ...)
            return child.run(([[
                local thread = require("luv").new_thread({ stack_size = 256 * 1024 }, function(body, ...)
                    assert(load(body))(...)
                end, %q, %q, %d, %d)
                thread:join()
            ]]):format(body, ...))
        end,
    },
}

describe("recursion without end in a state", function()
    for name, place in pairs(places) do
        for way, code in pairs(ways) do
            it("through " .. way .. " ends in a Lua error, " .. name, function()
                assert_ended_well((place.run(BODY, code, place.deepest, place.levels)))
            end)
        end
    end
end)

-- Prints what closing a chain of coroutines gives, each of which closes the next in its __close.
local CHAIN = [=[
    local close_next, close_first, length = ...
    local mt = require("mtstates")
    local state = mt.newstate(function()
        return function(close_next, close_first, length)
            local chain
            close_next = load(close_next)
            for i = 1, length do
                local mine = chain
                chain = coroutine.create(function()
                    local _ <close> = setmetatable({}, { __close = function()
                        if mine then
                            close_next(mine)
                        end
                    end })
                    coroutine.yield()
                    error("dies")
                end)
                coroutine.resume(chain)
            end
            local _, message = pcall(load(close_first), chain)
            return tostring(message)
        end
    end)
    io.write(state:call(close_next, close_first, length), "\n")
    assert(state:call(close_next, close_first, 3))
    io.write("usable\n")
]=]

describe("a chain of coroutines that close each other", function()
    local orders = {
        ["closed from its end"] = "return coroutine.close((...))",
        ["whose first one dies"] = "local co = ... return coroutine.wrap(function() "
            .. "local _ <close> = setmetatable({}, { __close = function() assert(coroutine.close(co)) end })"
            .. " error 'dies' end)()",
        ["closed by a message handler"] = "local co = ... return "
            .. "xpcall(error, function() return coroutine.close(co) end)",
        ["closed by a finalizer"] = "local co = ... local function drop() "
            .. "setmetatable({}, { __gc = function() coroutine.close(co) end }) end "
            .. "drop() collectgarbage() collectgarbage()",
    }
    for name, place in pairs(places) do
        local length = 2 * place.levels
        for order, close_first in pairs(orders) do
            it(order .. " is closed as far as the C stack goes, " .. name, function()
                local chain = ("local close_first, length = ... assert(load(%q))(%q, close_first, length)")
                    :format(CHAIN, "coroutine.close((...))")
                assert.matches("usable\n%[exit 0%]$", (place.run(chain, close_first, length, 0)))
            end)
        end

        it("tells that it was too long, if asked, " .. name, function()
            local chain = ("local close, length = ... assert(load(%q))(close, close, length)"):format(CHAIN)
            assert.matches("stack overflow.*usable\n%[exit 0%]$",
                (place.run(chain, "local ok, message = coroutine.close((...)) return ok or error(message, 0)",
                    length, 0)))
        end)
    end

    it("may be very long", function()
        local chain = ("local close, length = ... assert(load(%q))(close, close, length)"):format(CHAIN)
        local close = "coroutine.close((...))"
        assert.matches("usable\n%[exit 0%]$", (places["on the main thread"].run(chain, close, 100000, 0)))
    end)

    it("is closed by its state's end, too", function()
        assert.matches("usable\n%[exit 0%]$", (child.run([[
            local mt = require("mtstates")
            local state = mt.newstate(function()
                local chain
                for i = 1, 20000 do
                    local mine = chain
                    chain = coroutine.create(function()
                        local _ <close> = setmetatable({}, { __close = function()
                            if mine then
                                coroutine.close(mine)
                            end
                        end })
                        coroutine.yield()
                    end)
                    coroutine.resume(chain)
                end
                keep = setmetatable({}, { __gc = function() coroutine.close(chain) end })
                return function() end
            end)
            state:close()
            io.write("usable\n")
        ]])))
    end)
end)

describe("a chain of pools that own each other", function()
    it("is closed by a thread with a small stack", function()
        local thread = support.thread_with({ stack_size = 512 * 1024 }, function()
            local mt = require("mtstates")
            local p
            for _ = 1, 5000 do
                p = mt.newpool({ size = 1, libs = false }, "local h <close> = ... return function() end", p)
            end
            p:close()
            return "done"
        end)
        assert.same({ true, "done" }, { thread.join() })
    end)
end)
