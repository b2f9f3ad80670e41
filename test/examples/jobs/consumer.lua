-- One thread of a worker: takes jobs one by one, and has each run by a member of the pool.
local mtstates = require("mtstates")
local queue = require("queue")
local uv = require("luv")

local consumer = {}

-- Whatever a job does, running into its limits included, is its result, and no failure of the worker.
local function run(pool, task)
    local ok, text = pcall(pool.call, pool, task) -- as many members as threads: it never finds all busy
    if ok then
        return "done", text
    end
    return "failed", text:match("[^\n]*")
end

local function consume(address, name, pool, reason)
    local jobs = queue.connect(address, name)
    local _, stops
    repeat
        local id, task = jobs:take()
        if id then
            jobs:finish(id, run(pool, task))
        end
        _, stops = reason:tcall(math.huge)
    until stops
    jobs:leave()
end

-- Until the state `reason_id` has a reason to stop. A thread that fails, as when redis is gone, gives its
-- own, and ends the worker as an operator would; what supervises the worker may start it again.
function consumer.run(address, name, pool_id, reason_id)
    local reason = mtstates.state(reason_id)
    local ok, message = xpcall(consume, debug.traceback, address, name, mtstates.pool(pool_id), reason)
    if not ok then
        local _, _, is_first = reason:tcall(math.huge, message)
        if is_first then
            uv.kill(uv.os_getpid(), "sigterm")
        end
    end
end

return consumer
