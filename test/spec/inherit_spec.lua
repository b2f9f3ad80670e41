local mtstates = require("mtstates")
local support = require("support")

-- package.preload with these entries added, while `body` runs.
local function preloading(entries, body)
    local preload, before = package.preload, {}
    for name, loader in pairs(entries) do
        before[name], preload[name] = preload[name], loader
    end
    local ok, message = pcall(body)
    for name in pairs(entries) do
        preload[name] = before[name]
    end
    assert(ok, message)
end

-- What package.preload of a new state has under that name, by type.
local function inherited(name, options)
    return mtstates.newstate(options or {}, function(key)
        local kind = type(package.preload[key])
        return function()
            return kind
        end
    end, name):call()
end

-- A state that requires what it is called with, and returns what require does.
local function requirer()
    return mtstates.newstate(function()
        return function(name)
            return require(name)
        end
    end)
end

describe("a new state", function()
    it("inherits C functions of package.preload that need nothing else", function()
        preloading({ ["in c"] = math.abs, ["in c with upvalues"] = coroutine.wrap(print) }, function()
            assert.equal("function", inherited("in c"))
            assert.equal("nil", inherited("in c with upvalues"))
        end)
    end)

    it("inherits Lua functions of package.preload without upvalues", function()
        preloading({ ["in lua"] = function() return 1, 2 end }, function()
            assert.equal("function", inherited("in lua"))
            assert.equal(1, (requirer():call("in lua")))
        end)
    end)

    it("inherits Lua functions of package.preload that use globals, which are then its own", function()
        preloading({ ["uses globals"] = function(name, origin)
            global_of_the_module = (global_of_the_module or 0) + 1 -- luacheck: ignore
            return name .. " " .. origin .. " " .. global_of_the_module -- luacheck: ignore
        end }, function()
            for _ = 1, 2 do
                local state = requirer()
                assert.equal("uses globals :preload: 1", (state:call("uses globals")))
                assert.equal("uses globals :preload: 1", (state:call("uses globals")))
            end
            assert.is_nil(rawget(_G, "global_of_the_module"))
        end)
    end)

    it("inherits chunks that were loaded, from text and from binary", function()
        local chunk = load("local name = ... return print and name")
        preloading({ text = chunk, binary = load(string.dump(chunk)) }, function()
            local state = requirer()
            assert.equal("text", (state:call("text")))
            assert.equal("binary", (state:call("binary")))
        end)
    end)

    it("inherits stripped functions whose only upvalue is the globals, or that have none", function()
        local captured, globals = {}, _G
        local function strip(f, ...)
            local stripped = load(string.dump(f, true))
            for i, value in ipairs({ ... }) do
                debug.setupvalue(stripped, i, value)
            end
            return stripped
        end
        preloading({
            plain = strip(function() return 1 end),
            global = strip(function() return print and 2 end, _G),
            other = strip(function() return captured end, captured),
            both = strip(function() return print, captured end, _G, captured),
            second = strip(function() return captured, print end, captured, _G),
            renamed = function() return globals end,
        }, function()
            local state = requirer()
            assert.equal(1, (state:call("plain")))
            assert.equal(2, (state:call("global")))
            for _, name in ipairs({ "other", "both", "second", "renamed" }) do
                assert.equal("nil", inherited(name), name)
            end
        end)
    end)

    it("inherits no Lua functions with upvalues, and still makes the state", function()
        local captured = 1
        preloading({ captures = function() return captured, print end, recursive = preloading,
            plain = function() end }, function()
            assert.equal("nil", inherited("captures"))
            assert.equal("function", inherited("plain"))
        end)
    end)

    it("inherits only functions, under names that are strings", function()
        preloading({ [1] = function() end, [true] = math.abs, ["a table"] = {}, ["a\0b"] = function() end,
            callable = setmetatable({}, { __call = function() end }) }, function()
            for _, name in ipairs({ 1, true, "a table", "callable" }) do
                assert.equal("nil", inherited(name), tostring(name))
            end
            assert.equal("function", inherited("a\0b"))
        end)
    end)

    it("has inherited modules at hand in setup, and hands them on to states that it makes", function()
        preloading({ ["handed on"] = function() return tostring(require("mtstates").id()) end }, function()
            local state = mtstates.newstate(function()
                local own = require("handed on")
                local child = require("mtstates").newstate(function()
                    local childs = require("handed on")
                    return function() return childs end
                end)
                return function() return own, child:call(), child:id() end
            end)
            local own, childs, child_id = state:call()
            assert.equal(tostring(state:id()), own)
            assert.equal(tostring(child_id), childs)
        end)
    end)

    it("keeps line numbers and source names of what it inherits", function()
        local line = debug.getinfo(1, "l").currentline + 1
        preloading({ fails = function() error("here") end }, function()
            local state = requirer()
            local message = support.error_of(state.call, state, "fails")
            assert.matches("inherit_spec.lua:" .. line .. ": here", message)
        end)
    end)

    it("does not get in place of its own libraries what the host has under their names", function()
        preloading({ string = function() return "not it" end, math = math.abs }, function()
            for _, libs in ipairs({ true, false }) do
                local state = mtstates.newstate({ libs = libs }, function()
                    return function()
                        return require("string").upper("x"), require("math").abs(-1)
                    end
                end)
                assert.same({ "X", 1 }, { state:call() })
            end
        end)
    end)

    it("inherits what a host has that lacks the package library's global", function()
        preloading({ ["still there"] = function() return "it" end }, function()
            local parent = mtstates.newstate(function()
                local mt = require("mtstates")
                package = nil -- luacheck: ignore
                return function()
                    return mt.newstate("return function() return (require('still there')) end"):call()
                end
            end)
            assert.equal("it", parent:call())
        end)
    end)

    it("inherits nothing with inherit=false", function()
        preloading({ ["in c"] = math.abs, ["in lua"] = function() end }, function()
            local path, cpath = package.path, package.cpath
            package.path, package.cpath = "p/?.lua", "c/?.so"
            local ok, message = pcall(function()
                for _, name in ipairs({ "in c", "in lua" }) do
                    assert.equal("nil", inherited(name, { inherit = false }))
                end
                local own_path, own_cpath = mtstates.newstate({ inherit = false }, function()
                    return function() return package.path, package.cpath end
                end):call()
                assert.not_equal("p/?.lua", own_path)
                assert.not_equal("c/?.so", own_cpath)
            end)
            package.path, package.cpath = path, cpath
            assert(ok, message)
        end)
    end)

    it("inherits a few hundred modules", function()
        local entries = {}
        for i = 1, 300 do
            entries["module " .. i] = load("return " .. i)
        end
        preloading(entries, function()
            local state = requirer()
            for i = 1, 300, 13 do
                assert.equal(i, (state:call("module " .. i)))
            end
        end)
    end)
end)
