-- Memory of the process and of states that has to come back. Each case is a process of its own.
local child = require("child")

local PROLOGUE = [=[
    local mt = require("mtstates")
    local function echo() return function(...) return ... end end
    package.path = "test/spec/?.lua;" .. package.path
    local resident_mb = require("support").resident_mb
    -- What Lua has in use, in MB; each collection halves the table that it keeps of strings.
    local MEMORY = [[
        for _ = 1, 20 do
            collectgarbage()
        end
        return collectgarbage("count") / 1024
    ]]
    local memory = load(MEMORY)
    local function most(limit, mb, what)
        io.write(mb > limit and "TOO MUCH " or "", what, (": %.1f MB more, at most %d\n"):format(mb, limit))
    end
]=]

local function stays_small_in(process, script, ...)
    local output = child.run(PROLOGUE .. script:format(...), process)
    assert.matches("%[exit 0%]$", output)
    assert.is_nil(output:match("TOO MUCH"), output)
end

local function stays_small(...)
    stays_small_in(nil, ...)
end

-- By itself glibc's malloc keeps some of the large blocks that it is given back, one time more than another.
local LARGE_BLOCKS_GO = "export MALLOC_MMAP_THRESHOLD_=131072"

describe("a host with a heap of 100 MB", function()
    -- What is done with the state that make(i) makes.
    local lives = {
        ["dropped at once"] = "make(i)",
        ["kept until the next 1000 are made"] = "kept[i % 1000 + 1] = make(i)",
        ["kept for a time of its own"] = "kept[math.random(1000)] = make(i)",
        ["kept for a while, and found again by name"] =
            "kept[i % 500 + 1] = { make(i), mt.state('state ' .. i) }",
        ["kept in a closure, with garbage made meanwhile"] = "local s = make(i) "
            .. "kept[i % 500 + 1] = function() return s end for j = 1, 100 do s = { s } s = s[1] end",
    }
    local COUNT = os.getenv("MTSTATES_TEST_SECONDS") and 20000 or 7000 -- too many if they all stayed

    -- One life after the other, in one host; the longest with 20000 states.
    local function stays_within_100_mb(mode, life)
        local script = {}
        for name, code in pairs(life and { [life] = lives[life] } or lives) do
            script[#script + 1] = ([[
                do
                    local kept, start, peak = {}, settled_mb(), 0
                    for i = 1, %d do
                        %s
                        if i %% 100 == 0 then
                            peak = math.max(peak, resident_mb() - start)
                        end
                    end
                    most(100, peak, %q)
                end
            ]]):format(life and name:match("until") and 20000 or COUNT, code, name)
        end
        stays_small("%s", mode .. [[
            local ballast = {}
            for i = 1, 1000000 do
                ballast[i] = { i }
            end
            local function make(i)
                return (mt.newstate("state " .. i, echo))
            end
            local function settled_mb()
                collectgarbage()
                collectgarbage()
                return resident_mb()
            end
        ]] .. table.concat(script) .. "assert(#ballast == 1000000)")
    end

    local GENERATIONAL, INCREMENTAL = 'collectgarbage("generational")\n', 'collectgarbage("incremental")\n'

    for life in pairs(lives) do
        it("in generational mode stays within 100 MB with states each " .. life, function()
            stays_within_100_mb(GENERATIONAL, life)
        end)
    end

    it("in incremental mode stays within 100 MB with states, whatever it does with them", function()
        stays_within_100_mb(INCREMENTAL)
    end)

    it("stays within 100 MB when it has changed to the other mode, and back", function()
        stays_within_100_mb(INCREMENTAL .. GENERATIONAL .. INCREMENTAL, "kept for a time of its own")
        stays_within_100_mb(GENERATIONAL .. INCREMENTAL .. GENERATIONAL, "kept for a time of its own")
    end)

    it("does not collect more often for states that live on", function()
        stays_small([[
            collectgarbage("generational")
            local ballast, kept = {}, {}
            for i = 1, 1000000 do
                ballast[i] = { i }
            end
            local start = os.clock()
            collectgarbage()
            local one = os.clock() - start
            start = os.clock()
            for i = 1, 2000 do
                kept[i] = mt.newstate(nil, false, echo)
            end
            local making = os.clock() - start
            start = os.clock()
            for i = 1, 500000 do
                kept[i %% 2000 + 1]:call(i)
            end
            local calling = os.clock() - start
            assert(making < 1 + 10 * one, making / one)
            assert(calling < 2 + 2 * one, calling / one)
            assert(#ballast > 0)
        ]])
    end)
end)

describe("a large call", function()
    local calls = {
        ["with 900000 arguments"] = "state:call('count', table.unpack({}, 1, 900000))",
        ["with 900000 results"] = "select('#', state:call('unpack', 900000))",
        ["with 200000 strings"] = "local t = {} for i = 1, 200000 do t[i] = 'string ' .. i end "
            .. "state:call('count', table.unpack(t)) t = nil",
        ["with a timeout"] = "state:tcall(1, 'count', table.unpack({}, 1, 900000)) "
            .. "select('#', state:tcall(1, 'unpack', 900000))",
        ["of which the last argument is refused"] = "local t = { [900000] = print } "
            .. "assert(not pcall(state.call, state, table.unpack(t, 1, 900000)))",
        ["of which the last result is refused"] = "assert(not pcall(state.call, state, 'refused', 900000))",
        ["that fails"] = "assert(not pcall(state.call, state, 'error', table.unpack({}, 1, 900000)))",
        ["within a call"] = "state:call('nested', 900000)",
        ["in a coroutine of the host"] = "coroutine.wrap(function() "
            .. "state:call('count', table.unpack({}, 1, 900000)) end)()",
        ["with a table of 900000 integers, there and back"] =
            "local t = {} for i = 1, 900000 do t[i] = i end "
            .. "state:call('count', t) t = nil state:call('give', 900000)",
        ["with 100000 tables in each other, there and back"] =
            "local t for i = 1, 100000 do t = { t } end "
            .. "state:call('count', t) t = nil state:call('chain', 100000)",
        ["of which a table in tables is refused"] = "local t = print for i = 1, 100000 do t = { t } end "
            .. "assert(not pcall(state.call, state, t))",
        ["of 50 MB in one string"] = "state:call('count', ('x'):rep(50000000))",
    }
    for how, call in pairs(calls) do
        it(how .. " leaves nothing behind", function()
            stays_small_in(LARGE_BLOCKS_GO, [[
                collectgarbage("incremental")
                local state = mt.newstate("large", function(...)
                    local memory = load(...)
                    return function(what, n)
                        if what == "count" then
                            return memory()
                        elseif what == "unpack" then
                            return table.unpack({}, 1, n)
                        elseif what == "refused" then
                            return table.unpack({ [n] = print }, 1, n)
                        elseif what == "nested" then
                            local own = require("mtstates").state("large")
                            return (own:call("unpack", n)), (own:call("count", table.unpack({}, 1, n)))
                        elseif what == "give" then
                            return table.pack(table.unpack({}, 1, n))
                        elseif what == "chain" then
                            local t
                            for _ = 1, n do
                                t = { t }
                            end
                            return t
                        elseif what == "error" then
                            error("fails")
                        end
                    end
                end, MEMORY)
                local function call()
                    %s
                end
                state:call("count")
                state:call("nested", 10)
                local before, host, resident = state:call("count"), memory(), resident_mb()
                for _ = 1, 3 do
                    call()
                    most(1, state:call("count") - before, "the state")
                    most(1, memory() - host, "the host")
                end
                most(%d, resident_mb() - resident, "the process")
            ]], call, (how:match("strings") or how:match("tables")) and 20 or 5) -- holes in malloc's heap
        end)
    end

    for where, returned in pairs({ arguments = "nil", results = "chain(depth)", both = "x" }) do
        it("of a setup, with 100000 tables in tables as " .. where .. ", leaves nothing behind", function()
            stays_small_in(LARGE_BLOCKS_GO, [[
                collectgarbage("incremental")
                function chain(depth)
                    local t
                    for _ = 1, depth do
                        t = { t }
                    end
                    return t
                end
                local function make(depth)
                    return (mt.newstate(function(code, f, depth, x)
                        chain = f
                        return load(code), %s
                    end, MEMORY, chain, depth, %q ~= "results" and chain(depth) or nil))
                end
                local before, host = make(1):call(), memory()
                for _ = 1, 3 do
                    most(1, make(100000):call() - before, "the state")
                    most(1, memory() - host, "the host")
                end
            ]], returned, where)
        end)
    end

    it("of a setup, with 400000 arguments and results, leaves nothing behind", function()
        stays_small_in(LARGE_BLOCKS_GO, [[
            collectgarbage("incremental")
            local function make(count)
                return (mt.newstate(function(code, ...)
                    return load(code), ...
                end, MEMORY, table.unpack({}, 1, count)))
            end
            local before, host, resident = make(1):call(), memory(), resident_mb()
            local states = {}
            for i = 1, 5 do
                states[i] = make(400000)
                most(1, states[i]:call() - before, "the state")
                most(1, memory() - host, "the host")
            end
            most(5, resident_mb() - resident, "the process")
        ]])
    end)
end)

-- malloc keeps what it has in holes of its heap, of plain Lua's states as well: it serves those to come.
describe("memory serves as many again", function()
    local function of_states(count, options, setup, ending)
        stays_small([[
            local count, setup = %d, %q
            local states = {}
            local function make()
                for i = 1, count do
                    states[i] = mt.newstate(%s, setup)
                end
            end
            local function close()
                %s
                states = {}
                collectgarbage()
                collectgarbage()
            end
            local start = resident_mb()
            make()
            local peak = resident_mb() - start
            io.write(("%%.1f MB in use\n"):format(peak))
            for _ = 1, 3 do
                close()
                make()
                most(math.ceil(peak * 1.1) + 5, resident_mb() - start, "the process")
            end
        ]], count, setup, options, ending)
    end
    local ONE_BY_ONE = "for i = 1, count do states[i]:close() end"
    local SMALL = "return function() end"

    it("when 10000 states close in the order in which they were made", function()
        of_states(10000, "{}", SMALL, ONE_BY_ONE)
    end)

    it("when 5000 states close in any order", function()
        of_states(5000, "{}", SMALL, [[
            for i = count, 1, -1 do
                table.remove(states, math.random(#states)):close()
            end
        ]])
    end)

    it("when the collector closes 5000 states", function()
        of_states(5000, "{}", SMALL, "")
    end)

    it("when 8000 named states without libraries close", function()
        of_states(8000, "{ name = 'state ' .. i, libs = false }", SMALL, ONE_BY_ONE)
    end)

    it("when 1500 states with something in them close", function()
        of_states(1500, "{}", "t = {} for i = 1, 500 do t[i] = { 'text ' .. i } end return function() end",
            ONE_BY_ONE)
    end)

    it("when another thread closes 4000 states", function()
        of_states(4000, "{ name = 'state ' .. i }", SMALL, [[
            require("luv").new_thread(function(count)
                local mt = require("mtstates")
                for i = 1, count do
                    mt.state("state " .. i):close()
                end
            end, count):join()
        ]])
    end)
end)

describe("memory comes back to the system", function()
    it("when a state frees a burst of 200 MB in small pieces", function()
        stays_small([[
            local state = mt.newstate(function()
                return function(mb)
                    local all = {}
                    for i = 1, mb * 9000 do
                        all[i] = { i, i }
                    end
                    all = nil
                    collectgarbage()
                end
            end)
            state:call(1)
            local start = resident_mb()
            state:call(200)
            most(30, resident_mb() - start, "the process")
        ]])
    end)
end)
