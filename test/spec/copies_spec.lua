-- Two copies of the module in one process, as when two programs each bring their own.
local child = require("child")

-- Runs the script with two copies of the module: `first` and `second` are their files, and
-- open(file) loads one into this Lua state, as require does. Returns what it printed.
local function run_with_copies(script)
    local original = assert(package.searchpath("mtstates", package.cpath))
    local folders = {}
    for i = 1, 2 do
        folders[i] = os.tmpname()
        os.remove(folders[i])
        assert(os.execute(("mkdir %s && cp %s %s/mtstates.so"):format(folders[i], original, folders[i])))
    end
    local output = child.run(([[
        local first, second = %q, %q
        local function open(file)
            package.loaded.mtstates = nil
            local before = package.cpath
            package.cpath = file
            local ok, module = pcall(require, "mtstates")
            package.cpath = before
            return ok or nil, module
        end
        local function check(condition, message)
            if not condition then
                error(message or "no", 2)
            end
            return condition
        end
        %s
        io.write("done")
    ]]):format(folders[1] .. "/mtstates.so", folders[2] .. "/mtstates.so", script))
    for i = 1, 2 do
        os.execute("rm -r " .. folders[i])
    end
    return output
end

local function passes(script)
    assert.equal("done[exit 0]", (run_with_copies(script)))
end

-- A setup that loads that file into its state and calls body(module, ...) there.
local SETUP = [[
    local function in_a_state(mt, file, body, ...)
        return mt.newstate({ inherit = false }, function(file, body, ...)
            package.cpath = file
            local module = require("mtstates")
            local results = table.pack(assert(load(body))(module, ...))
            return function() return table.unpack(results, 1, results.n) end
        end, file, body, ...):call()
    end
]]

describe("a second copy of the module", function()
    it("is refused by a Lua state that has the first, with the files of both", function()
        local output = run_with_copies([[
            check(open(first))
            local ok, message = open(second)
            io.write(tostring(ok), " ", tostring(message), "\n", first, "\n", second, "\n")
        ]])
        local message, first, second = output:match("^nil (.*)\n(/[^\n]*)\n(/[^\n]*)\ndone%[exit 0%]$")
        assert.is_string(message, output)
        assert.is_truthy(message:find(first, 1, true), message)
        assert.is_truthy(message:find(second, 1, true), message)
    end)

    it("is refused again and again, and the first one goes on", function()
        passes([[
            local ok, mt = open(first)
            check(ok)
            local kept = mt.newstate("kept", function() return function(...) return ... end end)
            for i = 1, 3 do
                check(not open(second))
                check(mt.type(kept) == "mtstates.state")
                check(kept:call(i) == i and kept:name() == "kept" and kept:isowner())
                check(mt.state("kept") == kept and mt.state(kept:id()):call(i) == i)
                check(tostring(kept):match("^mtstates%.state: 0x"))
                for _ = 1, 50 do
                    local dropped = mt.newstate("dropped", "return function() return 1 end")
                    check(dropped() == 1)
                    dropped = nil
                    collectgarbage()
                    collectgarbage()
                    check(not pcall(mt.state, "dropped"))
                end
                do
                    local scoped <close> = mt.singleton("scoped", "return function() return 2 end")
                    check(scoped:tcall(1))
                end
                check(not pcall(mt.state, "scoped"))
            end
            kept:close()
            check(not pcall(kept.call, kept))
        ]])
    end)

    it("is refused in a state of the first that has loaded that", function()
        passes([[
            local _, mt = open(first)
            local refused, message, works = mt.newstate({ inherit = false }, function(first, second)
                package.cpath = first
                local own = require("mtstates")
                package.loaded.mtstates = nil
                package.cpath = second
                local ok, message = pcall(require, "mtstates")
                package.loaded.mtstates = own
                return function()
                    return not ok, message, own.newstate("return function() return own end") ~= nil
                end
            end, first, second):call()
            check(refused and works)
            check(message:find(first, 1, true) and message:find(second, 1, true), message)
        ]])
    end)

    it("is no second copy when it is the same file", function()
        passes([[
            local _, mt = open(first)
            local state = mt.newstate("one", "return function() return 1 end")
            local ok, again = open(first)
            check(ok, again)
            check(again.state("one") == state and again.state("one"):call() == 1)
            check(again.type(state) == "mtstates.state" and mt.type(again.state("one")) == "mtstates.state")
        ]])
    end)

    it("works in a state of the first copy", function()
        passes(SETUP .. [[
            local _, mt = open(first)
            local own = mt.newstate("of the first", "return function() return 1 end")
            for _ = 1, 3 do
                local id, unknown, sum, kind = in_a_state(mt, second, [=[
                    local mt, first_id = ...
                    local a = mt.newstate("a", "local n = ... return function(m) return n + m end", 1)
                    local unknown = not pcall(mt.state, first_id) and not pcall(mt.state, "of the first")
                    return mt.id(), unknown, mt.state("a"):call(2) + a:call(3), mt.type(a)
                ]=], own:id())
                check(id == nil, "the second copy did not make this state")
                check(unknown and sum == 7 and kind == "mtstates.state")
                check(not pcall(mt.state, "a"))
                check(own:call() == 1)
                collectgarbage()
            end
        ]])
    end)

    it("works in a thread", function()
        passes([[
            local _, mt = open(first)
            local state = mt.newstate("shared name", "return function() return 'first' end")
            local thread = require("luv").new_thread(function(file, id)
                package.cpath = file
                local mt = require("mtstates")
                local state = mt.newstate("shared name", "return function() return 'second' end")
                for _ = 1, 100 do
                    assert(mt.state("shared name"):call() == "second")
                    assert(not pcall(mt.state, id))
                    mt.newstate("return function() end"):close()
                end
                assert(state:call() == "second")
            end, second, state:id())
            for _ = 1, 100 do
                check(mt.state("shared name"):call() == "first")
                mt.newstate("return function() end"):close()
            end
            check(thread:join())
            check(state:call() == "first")
        ]])
    end)

    it("gives no id that the first one gives, nor one that programs use for other things", function()
        passes(SETUP .. [[
            local _, mt = open(first)
            local ids = {}
            for i = 1, 200 do
                local state = mt.newstate(nil, false, "return function() end")
                ids[i] = state:id()
            end
            local others = in_a_state(mt, second, [=[
                local mt = ...
                local ids = {}
                for i = 1, 200 do
                    ids[i] = ("%d"):format(mt.newstate(nil, false, "return function() end"):id())
                end
                return table.concat(ids, " ")
            ]=])
            local seen = {}
            for _, id in ipairs(ids) do
                seen[id] = true
            end
            for other in others:gmatch("%d+") do
                local id = math.tointeger(other)
                check(not seen[id], "both copies gave " .. id)
                check(id > 1 << 32 and id < 1 << 53, "the id is " .. id)
                check(not pcall(mt.state, id))
                ids[#ids + 1] = id
            end
            check(#ids == 400)
            for _, id in ipairs(ids) do
                check(id > 1 << 32 and id < 1 << 53, "the id is " .. id)
            end
        ]])
    end)

    it("calls states of its own from inside states of the first, and the other way round", function()
        passes([[
            local _, mt = open(first)
            local log = mt.newstate("log", function()
                local text = ""
                return function(more)
                    text = text .. (more or "")
                    return text
                end
            end)
            local outer = mt.newstate({ name = "outer", inherit = false }, function(first, second)
                package.cpath = second
                local inner = require("mtstates").newstate({ inherit = false }, function(first)
                    package.cpath = first
                    local log = require("mtstates").state("log")
                    keep = setmetatable({}, { __gc = function() log:call("closed ") end })
                    return function(n)
                        log:call(n .. " ")
                        if n == 0 then
                            error("at the end")
                        end
                        require("mtstates").state("outer"):call(n - 1)
                    end
                end, first)
                return function(n)
                    return inner:call(n)
                end
            end, first, second)
            local ok, message = pcall(outer.call, outer, 3)
            check(not ok and message:match("at the end"), message)
            outer:close()
            check(log:call() == "3 2 1 0 closed ", log:call())
        ]])
    end)
end)

describe("the first id of a process", function()
    it("is another in each process", function()
        local seen = {}
        for _ = 1, 4 do
            local id = child.run([[
                io.write(require("mtstates").newstate("return function() end"):id())
            ]]):match("^(%d+)%[exit 0%]$")
            assert.is_nil(seen[id], id)
            seen[id] = true
        end
    end)
end)
