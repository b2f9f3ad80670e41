-- A worker: threads that take jobs from a redis, and a pool of states with limits that runs them. Any number
-- of workers, on any number of hosts, share the jobs of one redis.
--
--     lua5.4 worker.lua [--threads N] [HOST[:PORT]]
--
-- SIGTERM or SIGINT ends it when it has finished the jobs that it has; a second one ends it at once, and
-- others take over its jobs. Needs mtstates, luv and luasocket on package.cpath. Exit status 1: something
-- failed, other than jobs.
local here = arg[0]:match("^(.*)/[^/]*$") or "."
package.path = here .. "/?.lua;" .. here .. "/../?.lua;" .. package.path

local command_line = require("command_line")
local mtstates = require("mtstates")
local uv = require("luv")

local MEMORY_LIMIT = 4000000 -- bytes
local TIME_LIMIT = 1 -- second; others wait three before they take over a job

local options = command_line.parse({
    name = "worker",
    usage = "[--threads N] [HOST[:PORT]]",
    numbers = { threads = { default = uv.available_parallelism(), most = 200 } },
}, arg)
local address = options.paths[1] or "127.0.0.1"
local name = ("%s:%d"):format(uv.os_gethostname(), uv.os_getpid())

local function say(...)
    print("worker " .. name .. table.concat({ " ", ... }))
    io.stdout:flush()
end

local pool = mtstates.newpool({ name = "tasks", size = options.threads, memory_limit = MEMORY_LIMIT,
    time_limit = TIME_LIMIT }, function() return require("task") end)

-- Keeps the first reason to stop that anybody gives; nil: go on. Also returns whether this is it.
local reason = mtstates.newstate("reason to stop", function()
    local first
    return function(why)
        local is_first = not first and why ~= nil
        first = first or why
        return first, is_first
    end
end)

local function stop(signal)
    reason:tcall(math.huge, signal)
    uv.walk(function(handle) handle:close() end) -- the next signal does what it does by default
end

uv.new_signal():start("sigterm", stop)
uv.new_signal():start("sigint", stop)

local threads = {}
for i = 1, options.threads do
    threads[i] = assert(uv.new_thread(function(path, cpath, ...)
        package.path, package.cpath = path, cpath
        require("consumer").run(...)
    end, package.path, package.cpath, address, name .. ":" .. i, pool:id(), reason:id()))
end
say("has ", options.threads, " threads")
uv.run()
for _, thread in ipairs(threads) do
    thread:join()
end
local why, stats = reason:call(), pool:stats()
say("ran ", stats.calls, " jobs, of which ", stats.errors, " failed, and stops: ", why)
os.exit(why == "sigterm" or why == "sigint", true)
