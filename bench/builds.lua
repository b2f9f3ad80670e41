-- Compares two modules of the same interface, benchmark by benchmark, from one run's results.
--
--     lua5.4 bench/builds.lua results.json
--
-- The run has to have the modules "old" and "new" (bench/run builds OLD NEW). Exit status 1 when "new" takes
-- over 5 % longer in the geometric mean.
package.path = arg[0]:gsub("[^/]*$", "?.lua;") .. package.path

local find, context, names = require("json").load(arg[1])
local sum, count = 0, 0

print("old: " .. context.old)
print("new: " .. context.new)
print(("%-50s %12s %12s %10s"):format("", "old, ns", "new, ns", "new / old"))
for _, name in ipairs(names) do
    local family, rest = name:match("^(.*)/old(.*)$")
    if family then
        local old, new = 1e9 / find(name), 1e9 / find(family .. "/new" .. rest)
        sum, count = sum + math.log(new / old), count + 1
        print(("%-50s %12.1f %12.1f %10.3f"):format(family .. rest, old, new, new / old))
    end
end
assert(count > 0, "no benchmark of both modules in " .. arg[1])
local mean = math.exp(sum / count)
print(("%-50s %12s %12s %10.3f"):format("geometric mean", "", "", mean))
os.exit(mean <= 1.05)
