-- Uses the module as installed, and says which it is.
local mtstates = require("mtstates")
local state = mtstates.newstate("sum", function()
    return function(...)
        local sum = 0
        for _, v in ipairs({ ... }) do sum = sum + v end
        return sum
    end
end)
assert(state:call(1, 2, 39) == 42)
print("mtstates " .. mtstates._VERSION .. " from " .. package.searchpath("mtstates", package.cpath))
