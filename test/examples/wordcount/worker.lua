-- One thread of the pool: takes files from the queue, counts their words, and brings the counts to the
-- shards. A shard that another thread is using refuses; then the worker goes on with the next shard,
-- or the next file, and comes back later.
local mtstates = require("mtstates")
local words = require("words")

local worker = {}

-- `counts` in a table for each shard.
local function batches_of(counts, shards)
    local batches = {}
    for word, count in pairs(counts) do
        local shard = words.shard(word, shards)
        batches[shard] = batches[shard] or {}
        batches[shard][word] = count
    end
    return batches
end

-- Tries each pending batch once; what is refused stays. Returns calls and refusals.
local function deliver(pending, shards)
    local calls, refusals = 0, 0
    for i = #pending, 1, -1 do
        local shard = shards[pending[i].shard]
        if shard:tcall(0, pending[i].batch) then
            calls = calls + 1
            table.remove(pending, i)
        else
            refusals = refusals + 1
        end
    end
    return calls, refusals
end

-- `queue_id`: a state that gives the shards and the next path, and takes reports.
function worker.run(queue_id)
    local queue = mtstates.state(queue_id)
    local _, shards = queue:tcall(math.huge, "shards")
    local pending, calls, refusals = {}, 0, 0
    local path
    _, path = queue:tcall(math.huge, "next")
    while path do
        local text, message = words.read(path)
        local counts = {}
        if text then
            words.count(text, counts)
        else
            queue:tcall(math.huge, "unreadable", message)
        end
        for shard, batch in pairs(batches_of(counts, #shards)) do
            pending[#pending + 1] = { shard = shard, batch = batch }
        end
        local done, refused = deliver(pending, shards)
        calls, refusals = calls + done + 1, refusals + refused
        _, path = queue:tcall(math.huge, "next")
    end
    for _, left in ipairs(pending) do -- nothing else to do: now it may wait
        shards[left.shard]:tcall(math.huge, left.batch)
        calls = calls + 1
    end
    queue:tcall(math.huge, "finished", calls, refusals)
end

return worker
