local mtstates = require("mtstates")
local uv = require("luv")

describe("metrics", function()
    it("of ten thousand states take less than 20 ms", function()
        local states = {}
        for i = 1, 10000 do
            states[i] = mtstates.newstate(nil, false, "return function() end")
        end
        local least = math.huge
        for _ = 1, 5 do
            local start = uv.hrtime()
            mtstates.metrics()
            least = math.min(least, (uv.hrtime() - start) / 1e6)
        end
        assert.is_true(least < 20, least .. " ms")
        for i = 1, 10000 do
            states[i]:close()
        end
    end)
end)
