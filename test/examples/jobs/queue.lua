-- A queue in redis, for any number of hosts: a stream of jobs, of which a consumer group gives each job to
-- one consumer, and a stream of results.
--
-- A job runs at least once, and has exactly one result. Whoever has a job for too long is taken for dead, and
-- another consumer gets it. If it lives after all, the job runs twice; but only the consumer that has the
-- job can acknowledge it, and stores the result in the same step. What the other brings is dropped.

-- Debian has lua-redis for Lua up to 5.3 only; it is plain Lua, and runs in 5.4 as it is.
package.path = package.path .. ";/usr/share/lua/5.3/?.lua"
local redis = require("redis")

local queue = {}

-- Seconds; more than the time limit of jobs, so that only the dead, and hosts that hang, are robbed.
queue.TAKE_OVER_AFTER = 3

local JOBS, GROUP, RESULTS = "jobs", "workers", "results"
local TAKEN_OVER, DROPPED = "taken over", "dropped" -- counters

local WAIT = 500 -- milliseconds for a job to come
local TIMEOUT = 10 -- seconds for redis to answer

-- Streams are younger than lua-redis.
for _, name in ipairs({ "xadd", "xgroup", "xlen", "xpending", "xrange", "xreadgroup" }) do
    redis.commands[name] = redis.command(name)
end

-- redis runs a script as one step, which nobody sees half done. Those who live give back their jobs within
-- the time limit, so the oldest ones in the group's list are those of the dead: from the start is enough.
local TAKE_OVER_SCRIPT = [[
    local group, consumer, idle = unpack(ARGV)
    local claimed = redis.call("XAUTOCLAIM", KEYS[1], group, consumer, idle, "0-0", "COUNT", 1)[2]
    if claimed[1] then
        redis.call("INCR", KEYS[2])
    end
    return claimed[1]
]]

local FINISH_SCRIPT = [[
    local group, consumer, id, outcome, text = unpack(ARGV)
    if #redis.call("XPENDING", KEYS[1], group, id, id, 1, consumer) == 0 then
        redis.call("INCR", KEYS[3])
        return
    end
    redis.call("XACK", KEYS[1], group, id)
    redis.call("XDEL", KEYS[1], id)
    redis.call("XADD", KEYS[2], "*", "job", id, "outcome", outcome, "text", text)
]]

local Queue = {}
Queue.__index = Queue

-- `address`: HOST or HOST:PORT; `consumer`: a name like no other's, for who takes jobs. This and every method
-- raise an error when redis does not answer.
function queue.connect(address, consumer)
    local host, port = address:match("^(.*):(%d+)$")
    local client = redis.connect({ host = host or address, port = port, timeout = TIMEOUT })
    local ok, message = pcall(client.xgroup, client, "CREATE", JOBS, GROUP, "0", "MKSTREAM")
    if not ok and not message:find("BUSYGROUP", 1, true) then -- somebody else has made it
        error(message, 0)
    end
    return setmetatable({ client = client, consumer = consumer }, Queue)
end

-- Returns the id of the job.
function Queue:put(task)
    return self.client:xadd(JOBS, "*", "task", task)
end

-- The id and the task of a job; nil: there was none for a while. What the dead have left comes first.
function Queue:take()
    local job = self.client:eval(TAKE_OVER_SCRIPT, 2, JOBS, TAKEN_OVER, GROUP, self.consumer,
        queue.TAKE_OVER_AFTER * 1000)
    if not job then
        local streams = self.client:xreadgroup("GROUP", GROUP, self.consumer, "COUNT", 1, "BLOCK", WAIT,
            "STREAMS", JOBS, ">")
        job = streams and streams[1][2][1]
    end
    if job then
        return job[1], job[2][2]
    end
end

-- Acknowledges a job and stores its result, unless another consumer has it by now, or had.
function Queue:finish(id, outcome, text)
    self.client:eval(FINISH_SCRIPT, 3, JOBS, RESULTS, DROPPED, GROUP, self.consumer, id, outcome, text)
end

-- For a consumer that has no job and wants none any more; with it, redis forgets that jobs are taken.
function Queue:leave()
    local had = self.client:xgroup("DELCONSUMER", JOBS, GROUP, self.consumer)
    assert(had == 0, "a consumer that has jobs has left")
end

-- How many jobs wait or run.
function Queue:left()
    return self.client:xlen(JOBS)
end

-- All results, as tables with job, outcome and text.
function Queue:results()
    local results = {}
    for i, entry in ipairs(self.client:xrange(RESULTS, "-", "+")) do
        local fields = entry[2]
        results[i] = { job = fields[2], outcome = fields[4], text = fields[6] }
    end
    return results
end

-- How many jobs each consumer has that has any.
function Queue:pending()
    local pending = {}
    for _, entry in ipairs(self.client:xpending(JOBS, GROUP)[4] or {}) do
        pending[entry[1]] = math.tointeger(tonumber(entry[2]))
    end
    return pending
end

-- How many jobs have been taken over so far, and how many results were dropped.
function Queue:mishaps()
    return self.client:get(TAKEN_OVER) or "0", self.client:get(DROPPED) or "0"
end

return queue
