-- One thread: takes files from the queue and has each counted by a member of the pool.
local mtstates = require("mtstates")

local worker = {}

-- `queue_id`: a state that gives the next path, and takes reports.
function worker.run(queue_id, pool_id)
    local queue, pool = mtstates.state(queue_id), mtstates.pool(pool_id)
    local _, path = queue:tcall(math.huge, "next")
    while path do
        local _, message = pool:tcall(math.huge, path)
        _, path = queue:tcall(math.huge, "next", message)
    end
    queue:tcall(math.huge, "finished")
end

return worker
