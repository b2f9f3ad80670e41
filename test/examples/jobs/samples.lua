-- Jobs to try the workers with, and what is right for them.
local mtstates = require("mtstates")

local samples = {}

local BAD = {
    { task = "factor 2305843009213693951", outcome = "failed", text = mtstates.error.time_limit }, -- a prime
    { task = "primes 1000000000", outcome = "failed", text = mtstates.error.out_of_memory },
    { task = "factor nothing", outcome = "failed", text = "no integer" },
}

-- Job `i` of `count`, in turn, each time the same. A dozen are bad; the others take from microseconds to
-- 10 ms, which leaves a busy machine a hundred times as long before the time limit strikes.
math.randomseed(1)
function samples.make(i, count)
    local bad_every = math.max(count // 12, 1)
    if i % bad_every == 0 then
        return BAD[i // bad_every % #BAD + 1]
    elseif i % 10 == 1 then
        return { task = "primes 10000", outcome = "done", text = "1229" }
    end
    local number = math.random(2, 1000000000000)
    return { task = "factor " .. number, outcome = "done", number = number }
end

local function product(factors)
    local result = 1
    for factor in factors:gmatch("%d+") do
        result = result * math.tointeger(factor)
    end
    return result
end

local function is_right(job, result)
    return result.outcome == job.outcome and (job.number and product(result.text) == job.number
        or job.text and result.text:find(job.text, 1, true))
end

-- Whether each of `jobs`, which are by their ids, has one result, the right one. Returns how many jobs have
-- failed, or nil and what is wrong.
function samples.check(jobs, results)
    local has_result, failed = {}, 0
    for _, result in ipairs(results) do
        local job = jobs[result.job]
        if not job then
            return nil, "a result of no job: " .. result.job
        elseif has_result[result.job] then
            return nil, "two results of the job " .. job.task
        elseif not is_right(job, result) then
            return nil, ("wrong result of the job %s: %s, %s"):format(job.task, result.outcome, result.text)
        end
        has_result[result.job] = true
        failed = failed + (result.outcome == "failed" and 1 or 0)
    end
    for id, job in pairs(jobs) do
        if not has_result[id] then
            return nil, "no result of the job " .. job.task
        end
    end
    return failed
end

return samples
