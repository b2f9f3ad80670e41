-- Results of mtstates_bench: what its JSON file says, by the names of the benchmarks.
local dkjson = require("dkjson")

local json = {}

-- Gives a function that finds a benchmark's median, what the file says of the machine, and the names of
-- the benchmarks, sorted.
--   find("look-up, same state/mtstates", 2)                 items per second of two threads
--   find("idle memory (bare)/mtstates", nil, "bytes")       a counter
-- It raises an error when there is no such benchmark.
function json.load(path)
    local file = assert(io.open(path))
    local content = assert(dkjson.decode(file:read("a")))
    file:close()
    local medians, names = {}, {}
    for _, run in ipairs(content.benchmarks) do
        assert(not run.error_occurred, run.error_message)
        if run.aggregate_name == "median" or run.repetitions == 1 then
            local name = run.run_name:gsub("/real_time", ""):gsub("/iterations:%d+", "")
                :gsub("/repeats:%d+", ""):gsub("/min_time:[%d.]+", "")
            medians[name] = run
            names[#names + 1] = name
        end
    end
    table.sort(names) -- they ran in random order
    local function find(name, threads, counter)
        if threads then
            name = ("%s/threads:%d"):format(name, threads)
        end
        local run = medians[name] or error("no benchmark " .. name .. " in " .. path, 2)
        return run[counter or "items_per_second"]
    end
    return find, content.context, names
end

return json
