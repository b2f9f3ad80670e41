local child = require("child")

describe("the example of rules", function()
    it("keeps hostile scripts within their limits, and the others do not notice", function()
        local text = child.run([[
            arg = { [0] = "test/examples/rules/rules.lua", "--orders", "60", "--threads", "3" }
            dofile(arg[0])]])
        assert.matches("each order got its answers\n%[exit 0%]$", text)
        local function numbers_of(script)
            local found, off = text:match(script .. "%.lua([ %d]+)[%d.]+([^\n]*)")
            local list = {}
            for number in found:gmatch("%d+") do
                list[#list + 1] = tonumber(number)
            end
            return off, table.unpack(list, 1, 4)
        end
        for _, script in ipairs({ "loyal", "three_for_two", "volume" }) do
            assert.same({ "", 60, 0, 0, 0 }, { numbers_of(script) })
        end
        assert.same({ "", 20, 40, 0, 0 }, { numbers_of("careless") })
        assert.same({ "", 0, 60, 0, 0 }, { numbers_of("burglar") })
        local off, discounted, errors, late, large = numbers_of("endless")
        assert.same({ "  switched off", 0, 0, true, 0 }, { off, discounted, errors, late >= 3, large })
        off, discounted, errors, late, large = numbers_of("greedy")
        assert.same({ "  switched off", 0, 0, 0, true }, { off, discounted, errors, late, large >= 3 })
    end)

    it("gives scripts no function of Lua's that takes long and cannot be ended meanwhile", function()
        local mtstates = require("mtstates")
        local sandboxed = mtstates.newstate({ libs = false, inherit = false }, function(make)
            local environment = make()
            return function(code)
                return load(code, "=script", "t", environment)()
            end
        end, dofile("test/examples/rules/sandbox.lua"))
        local METATABLE = "the table library is not for tables with a metatable here"
        for code, message in pairs({
            ["return ('').rep('', 1 << 30)"] = "string.rep: at most 1000000",
            ["return (''):rep('0x40000000')"] = "string.rep: at most 1000000",
            ["table.move({}, 1, 1 << 26, 2, {})"] = "table.move: at most 1000000",
            ["table.move({}, 1, 2, 1, setmetatable({}, {}))"] = METATABLE,
            ["table.insert(setmetatable({}, { __len = function() return 1 << 26 end }), 1, 1)"] = METATABLE,
            ["table.concat(setmetatable({}, { __index = table.concat }), '', 1, 1 << 22)"] = METATABLE,
        }) do
            local ok, text = pcall(sandboxed.call, sandboxed, code)
            assert.is_false(ok)
            assert.matches(message, text)
        end
        assert.equal("x-x 2 1", sandboxed:call([[
            local t = table.move({ "x", "x" }, 1, 2, 1)
            table.insert(t, 1, table.remove(t))
            local _, last = table.unpack({ 1, 2 })
            return ("x"):rep(2, "-") .. " " .. last .. " " .. #table.concat({ "x" }) ]]))
    end)
end)
