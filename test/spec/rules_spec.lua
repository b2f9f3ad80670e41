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
end)
