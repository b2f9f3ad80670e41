-- luacheck: globals LAST OWN OWN_LAST
local mtstates = require("mtstates")
local support = require("support")
local uv = require("luv")

-- The setup of members that tell their id.
local function teller()
    local mt = require("mtstates")
    return function(...)
        return mt.id(), ...
    end
end

-- The setup of members that sleep for so many milliseconds when told so.
local function sleeper(extra)
    local uv = require("luv") -- luacheck: ignore
    local mt = require("mtstates")
    return function(milliseconds)
        uv.sleep(milliseconds or 0)
        return mt.id(), extra
    end
end

local function pool_of(options, setup, ...)
    return mtstates.newpool(options, setup or teller, ...)
end

-- A thread that keeps one member busy for so many milliseconds; returns when it is.
local function occupy(pool, milliseconds)
    local before = pool:stats().busy
    local thread = support.thread(function(id, ms)
        return (require("mtstates").pool(id):call(ms))
    end, pool:id(), milliseconds)
    support.eventually(function() return pool:stats().busy > before end)
    return thread
end

describe("newpool", function()
    it("makes `min` members with the same arguments, each by a setup of its own", function()
        local pool <close> = pool_of({ size = 3, min = 2 }, function(a, b)
            local mt = require("mtstates")
            return function() return mt.id(), a, b end
        end, "a", 2)
        assert.equal(3, #pool)
        local stats = pool:stats()
        assert.same({ 3, 2, 2, 0, 2, 0 },
            { stats.size, stats.members, stats.idle, stats.busy, stats.made, stats.waiting })
        assert.same({ "a", 2 }, { select(2, pool:call()) })
        assert.not_equal(pool:state(1):id(), pool:state(2):id())
        assert.is_nil(pool:state(3))
    end)

    it("has by default as many members as this process may use CPUs", function()
        local pool <close> = mtstates.newpool({}, support.echo)
        local nproc = io.popen("nproc")
        assert.equal(nproc:read("n"), #pool)
        assert.equal(#pool, pool:stats().members)
        nproc:close()
    end)

    it("takes sizes from 1 to 4096", function()
        local one <close> = pool_of({ size = 1 })
        assert.equal(1, #one)
        local most <close> = pool_of({ size = 4096, min = 1 })
        assert.equal(4096, #most)
        assert.is_number((most:call()))
    end)

    local refused = {
        { { size = 0 }, "option 'size': an integer from 1 to 4096 expected, got 0" },
        { { size = 4097 }, "got 4097" },
        { { size = 1.5 }, "got 1%.5" },
        { { size = "2" }, "option 'size': number expected, got string" },
        { { size = 2, min = 3 }, "option 'min': 3 is more than size, which is 2" },
        { { min = 0 }, "option 'min'" },
        { { recycle = 1 }, "option 'recycle': table expected, got number" },
        { { recycle = { calls = 0 } }, "option 'recycle%.calls': an integer from 1" },
        { { recycle = { bytes = 0.5 } }, "option 'recycle%.bytes'" },
        { { recycle = { seconds = 0 } }, "option 'recycle%.seconds'" },
        { { recycle = { seconds = 0 / 0 } }, "option 'recycle%.seconds'" },
        { { recycle = { hours = 1 } }, "unknown option 'recycle%.hours'" },
        { { time_limit = 0 }, "option 'time_limit'" },
        { { memory_limit = "1" }, "option 'memory_limit'" },
        { { name = 1 }, "name: string expected, got number" },
        { { libs = 1 }, "option 'libs'" },
        { { sise = 1 }, "unknown option 'sise'" },
    }
    for _, case in ipairs(refused) do
        it("refuses options: " .. case[2], function()
            local message = support.error_of(mtstates.newpool, case[1], support.echo)
            assert.matches("bad argument #1 to 'newpool' %(", message)
            assert.matches(case[2], message)
        end)
    end

    it("refuses what is no table of options, and what is no setup", function()
        assert.matches("bad argument #1 to 'newpool' %(table expected, got number%)",
            support.error_of(mtstates.newpool, 1, support.echo))
        assert.matches("bad argument #2 to 'newpool' %(lua function or string expected, got no value%)",
            support.error_of(mtstates.newpool, {}))
        assert.matches("lua function expected", support.error_of(mtstates.newpool, {}, print))
        assert.matches("bad argument #3 to 'newpool'",
            support.error_of(mtstates.newpool, {}, support.echo, print))
    end)

    it("says what is wrong with the code of a setup, or with its arguments", function()
        assert.matches("bad argument #2 to 'newpool' %(.*syntax error",
            support.error_of(mtstates.newpool, { size = 1 }, "this is no lua"))
        mtstates.class("of this host", { __name = "of this host" })
        local metatable = { __index = {} }
        mtstates.class("of the pool's host", metatable)
        assert.matches("bad argument #3 to 'newpool' %(.*class",
            support.error_of(mtstates.newpool, { size = 1 }, support.echo, setmetatable({}, metatable)))
        local pool <close> = pool_of({ size = 1 })
        assert.matches("bad argument #1 to 'reload' %(.*syntax error",
            support.error_of(function() pool:reload("this is no lua") end))
    end)

    it("lets a setup use the pool, and close it", function()
        local pool <close> = pool_of({ size = 2 }, function()
            local p, place = require("mtstates").pool()
            if place == 1 then
                p:call() -- which makes the other
            end
            return function() end
        end)
        assert.same({ 2, 2 }, { pool:stats().members, pool:stats().made })
        assert.matches("object_closed", support.error_of(mtstates.newpool, { size = 2 }, function()
            require("mtstates").pool():close()
            return function() end
        end))
    end)

    it("raises the error of a setup that fails, and leaves nothing behind", function()
        local message = support.error_of(mtstates.newpool, { name = "failing" }, function()
            error("no luck")
        end)
        assert.matches("^mtstates%.error%.invoking_state: .*no luck", message)
        assert.matches("unknown_object", support.error_of(mtstates.pool, "failing"))
    end)
end)

describe("a pool", function()
    it("is called by call and as a function, and gives a member's results", function()
        local pool <close> = pool_of({ size = 1 }, support.echo)
        assert.same({ 1, n = 3 }, table.pack(pool:call(1, nil, nil)))
        assert.same({ 1, "x" }, { pool(1, "x") })
        assert.same({ true, 1, "x" }, { pool:tcall(0, 1, "x") })
    end)

    it("gives a member that it makes for a call what the call gives", function()
        local pool <close> = pool_of({ size = 2, min = 1 }, function()
            return function(inner, ...)
                if inner then return inner:call(false, ...) end
                return select("#", ...), ...
            end
        end)
        local count, t = pool:state(1):call(mtstates.pool(pool:id()), { 1 }, "a")
        assert.same({ 2, { 1 } }, { count, t })
        assert.equal(2, pool:stats().members)
    end)

    it("gives a thread the member that it used last", function()
        local pool <close> = pool_of({ size = 4 })
        local first = pool:call()
        for _ = 1, 10 do
            assert.equal(first, pool:call())
        end
    end)

    it("takes another member while one is busy, makes one more up to its size, then refuses", function()
        local pool <close> = pool_of({ name = "all busy", size = 2, min = 1 }, sleeper)
        local a = occupy(pool, 200 * support.slowness)
        local b = occupy(pool, 200 * support.slowness)
        assert.same({ 2, 2 }, { pool:stats().members, pool:stats().made })
        assert.matches("^mtstates%.error%.concurrent_access: all members of pool "
            .. '%(name="all busy",id=%d+%) are busy', support.error_of(pool.call, pool))
        assert.is_false(pool:tcall(0))
        local _, first = a.join()
        local _, second = b.join()
        assert.not_equal(first, second)
    end)

    it("lets a caller wait for any member, as long as it wants", function()
        local pool <close> = pool_of({ size = 2 }, sleeper)
        local a, b = occupy(pool, 400 * support.slowness), occupy(pool, 100 * support.slowness)
        local start = uv.hrtime()
        assert.is_false(pool:tcall(0.02))
        assert.is_true(uv.hrtime() - start >= 0.02e9)
        local ok, id = pool:tcall(math.huge)
        assert.is_true(ok)
        assert.equal(id, select(2, b.join()))
        assert.is_false(a.ended())
        a.join()
    end)

    it("serves all who wait, each with some member", function()
        local pool <close> = pool_of({ size = 3 }, sleeper)
        local threads = {}
        for i = 1, 12 do
            threads[i] = support.thread(function(id)
                local p = require("mtstates").pool(id)
                for _ = 1, 50 do
                    assert(p:tcall(math.huge, 0))
                end
                return 50
            end, pool:id())
        end
        for _, thread in ipairs(threads) do
            assert.same({ true, 50 }, { thread.join() })
        end
        assert.same({ 0, 3, 0 }, { pool:stats().waiting, pool:stats().idle, pool:stats().busy })
    end)

    it("nests in a member of its own when no other is idle", function()
        local pool <close> = pool_of({ size = 2 }, function()
            local mt = require("mtstates")
            return function(depth)
                local pool, place = mt.pool()
                if depth == 0 then
                    return place
                end
                return place, select(2, pool:tcall(math.huge, depth - 1))
            end
        end)
        local places = { pool:call(4) }
        assert.equal(5, #places)
        assert.not_equal(places[1], places[2])
        assert.matches("C stack overflow", support.error_of(pool.call, pool, 1e6))
        assert.same({ 0, 2 }, { pool:stats().busy, pool:stats().idle })
    end)

    it("is used by the members of another", function()
        local inner <close> = pool_of({ name = "inner", size = 1 })
        local outer <close> = pool_of({ size = 2 }, function(other)
            return function() return other:call("through") end
        end, inner)
        assert.same({ inner:state(1):id(), "through" }, { outer:call() })
    end)

    it("raises the error of a setup that fails later to that caller alone, and then tries again", function()
        local counter <close> = support.adder("setups")
        local pool <close> = pool_of({ size = 2, min = 1 }, function()
            local uv = require("luv") -- luacheck: ignore
            if require("mtstates").state("setups"):call(1) == 2 then
                error("second")
            end
            return function(ms) uv.sleep(ms or 0) return "fine" end
        end)
        local busy = occupy(pool, 300 * support.slowness)
        assert.matches("second", support.error_of(pool.call, pool))
        assert.equal("fine", pool:call())
        busy.join()
        assert.same({ 2, 2 }, { pool:stats().members, pool:stats().made })
        counter:close()
    end)

    it("keeps a member after an ordinary error and after an interrupt", function()
        local pool <close> = pool_of({ size = 1 }, function()
            local mt = require("mtstates")
            return function(code) if code then load(code)() end return mt.id() end
        end)
        local id = pool:call()
        assert.matches("oh", support.error_of(pool.call, pool, "error 'oh'"))
        pool:interrupt(true)
        assert.matches("interrupted", support.error_of(pool.call, pool))
        pool:interrupt(false)
        assert.equal(id, pool:call())
    end)

    it("interrupts members that are busy", function()
        local pool <close> = pool_of({ size = 2 }, function()
            local breathe = os.getenv("MTSTATES_TEST_TSAN") and os.time or function() end
            return function(forever) while forever do breathe() end return "idle" end
        end)
        local thread = support.thread(function(id)
            return require("mtstates").pool(id):call(true)
        end, pool:id())
        support.eventually(function() return pool:stats().busy == 1 end)
        pool:interrupt()
        local ok, message = thread.join()
        assert.is_false(ok)
        assert.matches("mtstates%.error%.interrupted", message)
        assert.same({ "idle", "idle" }, { pool:call(), pool:state(2):call() })
    end)

    it("replaces a member that ran into a limit", function()
        local pool <close> = pool_of({ size = 1, memory_limit = 1e6, time_limit = 0.05 * support.slowness },
            function()
                local mt = require("mtstates")
                local breathe = os.getenv("MTSTATES_TEST_TSAN") and os.time or function() end
                return function(what)
                    while what == "time" do breathe() end
                    if what == "memory" then return ("x"):rep(1e7) end
                    if what == "caught" then pcall(function() while true do breathe() end end) end
                    return mt.id()
                end
            end)
        local id = pool:call()
        assert.matches("time_limit", support.error_of(pool.call, pool, "time"))
        local second = pool:call()
        assert.not_equal(id, second)
        assert.matches("out_of_memory", support.error_of(pool.call, pool, "memory"))
        local third = pool:call()
        assert.not_equal(second, third)
        pcall(pool.call, pool, "caught")
        assert.not_equal(third, pool:call())
        assert.same({ 3, 4 }, { pool:stats().retired.limit, pool:stats().made })
    end)

    it("replaces a member that somebody closed", function()
        local pool <close> = pool_of({ size = 1 })
        local id = pool:call()
        pool:state(1):close()
        assert.is_nil(pool:state(1))
        assert.not_equal(id, pool:call())
        assert.equal(1, pool:stats().retired.closed)
    end)
end)

describe("recycle", function()
    it("replaces members after so many calls, not all at a time", function()
        local pool <close> = pool_of({ size = 4, recycle = { calls = 8 } })
        local lives = {}
        for place = 1, 4 do
            local id, calls = pool:state(place):id(), 0
            while pool:state(place):id() == id do
                pool:state(place):call()
                calls = calls + 1
            end
            lives[place] = calls
        end
        assert.equal(8, lives[1])
        for place = 2, 4 do
            assert.is_true(lives[place] <= lives[place - 1] and lives[place] >= 6, lives[place])
        end
        assert.is_true(lives[4] < 8)
        assert.equal(4, pool:stats().retired.calls)
    end)

    it("replaces members of an age, and those that hold too many bytes", function()
        local old <close> = pool_of({ size = 1, recycle = { seconds = 0.05 } })
        local id = old:call()
        uv.sleep(100)
        old:call()
        assert.not_equal(id, old:call())
        assert.is_true(old:stats().retired.seconds >= 1)

        local fat <close> = pool_of({ size = 1, recycle = { bytes = 1e6 } }, function()
            local mt, kept = require("mtstates"), nil
            return function(n) kept = n and ("x"):rep(n) return mt.id(), kept and #kept end
        end)
        id = fat:call()
        assert.equal(id, (fat:call(1000)))
        fat:call(2000000)
        assert.not_equal(id, (fat:call()))
        assert.equal(1, fat:stats().retired.bytes)
    end)

    it("leaves the place to the next caller where setup fails", function()
        local counter <close> = support.adder("recycled setups")
        local pool <close> = pool_of({ size = 1, recycle = { calls = 1 } }, function()
            local n = require("mtstates").state("recycled setups"):call(1)
            if n % 3 == 0 then
                error("every third")
            end
            return function() return n end
        end)
        local answers, errors = 0, 0
        for _ = 1, 30 do
            local ok, message = pcall(pool.call, pool)
            answers, errors = answers + (ok and 1 or 0), errors + (ok and 0 or 1)
            assert(ok or message:match("every third"), message)
        end
        assert.is_true(answers > 20)
        assert.equal(30, answers + errors)
        counter:close()
    end)
end)

describe("broadcast", function()
    it("runs the callback once in every member, and waits for those that are busy", function()
        local pool <close> = pool_of({ size = 3 }, function()
            local uv = require("luv") -- luacheck: ignore
            local seen = 0
            return function(what, ms)
                if what == "sleep" then uv.sleep(ms) end
                seen = seen + (what == "count" and 1 or 0)
                return seen
            end
        end)
        local thread = support.thread(function(id)
            return require("mtstates").pool(id):call("sleep", 150)
        end, pool:id())
        support.eventually(function() return pool:stats().busy == 1 end)
        assert.same({ 2, 1 }, { pool:broadcast(0, "count") })
        assert.same({ 3, 0 }, { pool:broadcast(math.huge, "count") })
        thread.join()
        local sum = 0
        for place = 1, 3 do
            sum = sum + pool:state(place):call()
        end
        assert.equal(5, sum)
    end)

    it("reaches the others when one fails, and raises that error", function()
        local pool <close> = pool_of({ size = 3 }, function()
            local mt, seen = require("mtstates"), 0
            return function(bad)
                seen = seen + 1
                if bad == select(2, mt.pool()) then error("bad place") end
                return seen
            end
        end)
        assert.matches("bad place", support.error_of(pool.broadcast, pool, 1, 2))
        for place = 1, 3 do
            assert.equal(2, pool:state(place):call())
        end
        assert.matches("bad argument #1 to 'broadcast'", support.error_of(function() pool:broadcast("1") end))
    end)
end)

describe("reload", function()
    it("replaces all idle members, by the old setup or another", function()
        local pool <close> = pool_of({ size = 3 }, function(x) return function() return x end end, "old")
        local before = pool:state(2):id()
        pool:reload()
        assert.not_equal(before, pool:state(2):id())
        assert.equal("old", pool:call())
        pool:reload(function(x) return function() return x end end, "new")
        for place = 1, 3 do
            assert.equal("new", pool:state(place):call())
        end
        assert.same({ 6, 9 }, { pool:stats().retired.reload, pool:stats().made })
    end)

    it("lets calls end, and then replaces their members", function()
        local pool <close> = pool_of({ size = 2 }, sleeper, "old")
        local a, b = occupy(pool, 200 * support.slowness), occupy(pool, 200 * support.slowness)
        pool:reload(sleeper, "new")
        assert.equal("new", select(2, pool:call(0)))
        assert.is_true((a.join()))
        assert.is_true((b.join()))
        for place = 1, 2 do
            assert.equal("new", select(2, pool:state(place):call(0)))
        end
        assert.same({ 2, 0 }, { pool:stats().members, pool:stats().busy })
    end)

    it("tells each new member its place while it is set up", function()
        local function tells_place()
            local _, place = require("mtstates").pool()
            return function() return place end
        end
        local pool <close> = pool_of({ size = 3 }, tells_place)
        pool:reload()
        for place = 1, 3 do
            assert.equal(place, pool:state(place):call())
        end
    end)

    it("makes no more members than there were", function()
        local pool <close> = pool_of({ size = 4, min = 1 })
        for _ = 1, 3 do
            pool:reload()
        end
        assert.same({ 1, 4, 3 }, { pool:stats().members, pool:stats().made, pool:stats().retired.reload })
    end)

    it("leaves none of an older plan, where several come at a time", function()
        local counter <close> = support.adder("reloads") -- luacheck: ignore
        local pool <close> = pool_of({ size = 2 }, function() return function() return "first" end end)
        pool:reload(function()
            local mt = require("mtstates")
            if mt.state("reloads"):call(1) == 2 then -- in place 2
                mt.pool():reload(function() return function() return "third" end end)
            end
            return function() return "second" end
        end)
        for place = 1, 2 do
            assert.equal("third", pool:state(place):call())
        end
    end)

    it("by the setup that the pool had does not undo one by another", function()
        local pool <close> = pool_of({ size = 2 }, function()
            local mt = require("mtstates")
            local found, older = pcall(mt.state, "older")
            if found and older:call(1) == 1 then
                mt.pool():reload(function() return function() return "new" end end)
            end
            return function() return "old" end
        end)
        local older <close> = support.adder("older") -- luacheck: ignore
        pool:reload()
        for place = 1, 2 do
            assert.equal("new", pool:state(place):call())
        end
    end)

    it("in the setup of a reload in the setup of a reload ends some time", function()
        local pool <close> = pool_of({ size = 1 })
        local code = "local s = ... require('mtstates').pool():reload(s, s) return function() end"
        assert.matches("C stack overflow", support.error_of(pool.reload, pool, code, code))
        assert.is_number((pool:call()))
    end)

    it("takes no member away before the next is ready", function()
        local pool <close> = pool_of({ size = 2 }, function()
            local members = require("mtstates").pool():stats().members
            return function() return members end
        end)
        pool:reload()
        for place = 1, 2 do
            assert.equal(2, pool:state(place):call())
        end
    end)

    -- A caller met members one by one, while another thread left one behind it for the next.
    it("has no call refused while there are fewer threads than members", function()
        local pool <close> = pool_of({ size = 3 })
        local threads = {}
        for i = 1, 2 do
            threads[i] = support.thread(function(id, calls)
                local p = require("mtstates").pool(id)
                for _ = 1, calls do
                    p:call()
                end
                return "none"
            end, pool:id(), 200000 // support.slowness)
        end
        repeat
            pool:reload()
        until threads[1].ended() and threads[2].ended()
        for i = 1, 2 do
            assert.same({ true, "none" }, { threads[i].join() })
        end
    end)

    it("changes nothing when the new setup fails", function()
        local pool <close> = pool_of({ size = 2 })
        local id = pool:state(1):id()
        assert.matches("bad setup", support.error_of(pool.reload, pool, function() error("bad setup") end))
        assert.matches("bad argument #1 to 'reload'", support.error_of(function() pool:reload(print) end))
        assert.equal(id, pool:state(1):id())
        assert.same({ 2, 2 }, { pool:stats().members, pool:stats().made })
    end)
end)

describe("closing a pool", function()
    it("closes idle members now, busy ones as they are left, and tells whether any is left", function()
        local pool = pool_of({ name = "closing", size = 2 }, sleeper)
        local idle = pool:state(2)
        local thread = occupy(pool, 200 * support.slowness)
        local id = pool:id()
        assert.is_false(pool:close())
        assert.matches("object_closed", support.error_of(pool.call, pool))
        assert.matches("object_closed", support.error_of(pool.tcall, pool, 1))
        assert.matches("^mtstates%.error%.object_closed: pool %(name=\"closing\",id=%d+%) is closed",
            support.error_of(pool.reload, pool))
        assert.matches("unknown_object", support.error_of(mtstates.pool, id))
        assert.matches("unknown_object", support.error_of(mtstates.pool, "closing"))
        assert.matches("object_closed", support.error_of(idle.call, idle))
        assert.is_true(pool:close(math.huge))
        assert.is_true((thread.join()))
        assert.is_true(pool:close())
    end)

    it("stands finalizers that use it, of members and of hosts", function()
        local function with_finalizer()
            local pool = require("mtstates").pool()
            LAST = setmetatable({}, { __gc = function()
                pcall(pool.call, pool)
                pcall(pool.reload, pool)
                pcall(pool.state, pool, 1)
                pcall(pool.close, pool, 0.01)
            end })
            return function() end
        end
        local pool = pool_of({ size = 2, recycle = { calls = 1 } }, with_finalizer)
        for _ = 1, 5 do -- each member is replaced when it was called, and its finalizer closes the pool
            pcall(pool.call, pool)
        end
        assert.is_true(pool:close(math.huge))
        local members = {}
        local host <close> = mtstates.newstate(function(setup)
            OWN = require("mtstates").newpool({ size = 2 }, setup)
            OWN_LAST = setmetatable({}, { __gc = function()
                pcall(OWN.call, OWN)
            end })
            return function(place) return OWN:state(place) end
        end, with_finalizer)
        for place = 1, 2 do
            members[place] = host:call(place)
        end
        host:close()
        for place = 1, 2 do
            assert.matches("object_closed", support.error_of(members[place].call, members[place]))
        end
    end)

    it("takes no new callers while its members run their finalizers", function()
        local outcome <close> = support.adder("calls in finalizers")
        local pool = pool_of({ size = 2 }, function()
            local mt = require("mtstates")
            local p, told = mt.pool(), mt.state("calls in finalizers")
            LAST = setmetatable({}, { __gc = function() told:call(pcall(p.call, p) and 1 or 10) end })
            return function() end
        end)
        assert.is_true(pool:close(math.huge))
        assert.equal(20, outcome:call())
    end)

    it("does not wait for what its own thread is to close", function()
        local pool <close> = pool_of({ name = "closed by a finalizer", size = 2 }) -- luacheck: ignore
        local outcome <close> = support.adder("outcome")
        mtstates.newstate(function()
            local mt = require("mtstates")
            local p, told = mt.pool("closed by a finalizer"), mt.state("outcome")
            LAST = setmetatable({}, { __gc = function() told:call(p:close(math.huge) and 1 or 2) end })
            return function() end
        end):close()
        assert.equal(2, outcome:call(0))
        assert.is_true(pool:close(math.huge))
    end)

    it("wakes who waits", function()
        local pool = pool_of({ size = 1 }, sleeper)
        local busy = occupy(pool, 300 * support.slowness)
        local waiter = support.thread(function(id)
            return require("mtstates").pool(id):tcall(math.huge)
        end, pool:id())
        support.eventually(function() return pool:stats().waiting == 1 end)
        pool:close()
        local ok, message = waiter.join()
        assert.is_false(ok)
        assert.matches("object_closed", message)
        busy.join()
    end)

    it("happens when its last owning handle goes", function()
        local pool = pool_of({ size = 2 })
        local member, other = pool:state(1), mtstates.pool(pool:id())
        assert.is_true(pool:isowner())
        assert.is_false(other:isowner())
        do
            local owner <close> = pool -- luacheck: ignore
        end
        assert.matches("object_closed", support.error_of(other.call, other))
        assert.matches("object_closed", support.error_of(member.call, member))
    end)

    it("from inside a member does not wait for that", function()
        local pool = pool_of({ size = 1 }, function()
            local mt = require("mtstates")
            return function() return mt.pool():close(math.huge) end
        end)
        assert.is_false(pool:call())
        assert.is_true(pool:close(math.huge))
    end)
end)

describe("handles of pools", function()
    it("are found by id and name, apart from states of that name", function()
        local pool <close> = pool_of({ name = "shared", size = 1 })
        local state <close> = mtstates.newstate("shared", support.echo)
        assert.equal(pool, mtstates.pool("shared"))
        assert.equal(pool, mtstates.pool(pool:id()))
        assert.equal(pool, mtstates.pool(pool:id() + 0.0))
        assert.equal(state, mtstates.state("shared"))
        assert.not_equal(pool, state)
        assert.matches("no living state", support.error_of(mtstates.state, pool:id()))
        local twin <close> = pool_of({ name = "shared", size = 1 })
        assert.equal("shared", twin:name())
        assert.matches("^mtstates%.error%.ambiguous_name: more than one living pool has",
            support.error_of(mtstates.pool, "shared"))
    end)

    it("look and are typed as such", function()
        local pool <close> = pool_of({ name = "p\n", size = 1 })
        assert.matches('^mtstates%.pool: 0x%x+ %(name="p\\010",id=%d+%)$', tostring(pool))
        assert.equal("mtstates.pool", mtstates.type(pool))
        assert.matches("mtstates%.pool expected, got mtstates%.state",
            support.error_of(function() pool.call(pool:state(1)) end))
        assert.matches("mtstates%.state expected, got mtstates%.pool",
            support.error_of(function() pool:state(1).call(pool) end))
    end)

    it("cross as values", function()
        local pool <close> = pool_of({ size = 1 }, support.echo)
        local state <close> = mtstates.newstate(function()
            return function(p) return p:call("crossed"), p, p:isowner() end
        end)
        assert.same({ "crossed", pool, true }, { state:call(pool) })
        assert.is_false((select(3, state:call(mtstates.pool(pool:id())))))
    end)

    it("give members by their places only", function()
        local pool <close> = pool_of({ size = 2 })
        for _, place in ipairs({ 0, 3, -1, math.mininteger, math.maxinteger }) do
            assert.matches("bad argument #1 to 'state' %(place %-?%d+: the pool has places from 1 to 2%)",
                support.error_of(function() pool:state(place) end))
        end
        for _, place in ipairs({ "1", 1.5, true }) do
            assert.matches("bad argument #1 to 'state' %(integer expected, got",
                support.error_of(function() pool:state(place) end))
        end
        assert.equal(pool:state(1), pool:state(1.0))
        assert.is_false(pool:state(1):isowner())
    end)

    it("are what mtstates.pool() gives in a member, and nil elsewhere", function()
        local pool <close> = pool_of({ size = 2 }, function()
            local mt = require("mtstates")
            return function() return mt.pool() end
        end)
        assert.same({ pool, 2 }, { pool:state(2):call() })
        assert.same({ nil, n = 1 }, table.pack(mtstates.pool()))
        local state <close> = mtstates.newstate(function()
            local mt = require("mtstates")
            return function() return mt.pool() end
        end)
        assert.is_nil(state:call())
        assert.matches("id or name expected", support.error_of(mtstates.pool, nil))
    end)
end)

describe("many threads that call, wait, reload, close members and meet limits", function()
    it("leave no member, no waiter and no caller behind", function()
        local counter <close> = support.adder("members in the storm") -- luacheck: ignore
        local pool = mtstates.newpool({ size = 4, min = 1, recycle = { calls = 50 } }, function()
            local mt = require("mtstates")
            local _, number = mt.state("members in the storm"):tcall(math.huge, 1)
            if number > 1 and math.random(20) == 1 then -- newpool's own member is lucky
                error("unlucky")
            end
            return function(n)
                if n % 97 == 0 then error("ordinary") end
                if n % 31 == 0 then return n, mt.pool():tcall(0.001, 1) end
                return n
            end
        end)
        local threads = {}
        for i = 1, 8 do
            threads[i] = support.thread(function(id, seed)
                local mt = require("mtstates")
                math.randomseed(seed)
                local p = mt.pool(id)
                for n = 1, 400 do
                    local what = math.random(40)
                    local ok, message = pcall(function()
                        if what == 1 then p:reload()
                        elseif what == 2 then p:interrupt()
                        elseif what == 3 then
                            local member = p:state(math.random(4))
                            if member then member:close() end
                        elseif what == 4 then p:broadcast(0.001, 1)
                        elseif what == 5 then
                            local member = p:state(math.random(4))
                            if member then member:tcall(0.01, n) end
                        elseif what < 20 then
                            p:call(n)
                        else
                            p:tcall(math.huge, n)
                        end
                    end)
                    assert(ok or message:match("unlucky") or message:match("ordinary")
                        or message:match("concurrent_access") or message:match("interrupted")
                        or message:match("object_closed"), message)
                end
                return "done"
            end, pool:id(), i)
        end
        for _, thread in ipairs(threads) do
            assert.same({ true, "done" }, { thread.join() })
        end
        local stats = pool:stats()
        assert.same({ 0, 0 }, { stats.busy, stats.waiting })
        local retired = 0
        for _, count in pairs(stats.retired) do
            retired = retired + count
        end
        assert.is_true(stats.made - retired >= stats.members)
        assert.is_true(pool:close(math.huge))
    end)
end)
