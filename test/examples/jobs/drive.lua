-- Starts a redis and two workers, and has them run jobs of unequal cost, of which some are bad. Kills one
-- worker in the middle and starts another, stops one for so long that it is taken for dead, and looks
-- whether each job has its result, once. Exit status 0: it has.
--
--     lua5.4 drive.lua [--jobs N] [--threads N] [--seconds S]
--
-- --threads is of each worker; --seconds is when to give up. Needs mtstates, luv and luasocket on
-- package.cpath, redis-server, and setpriv.
local here = arg[0]:match("^(.*)/[^/]*$") or "."
package.path = here .. "/?.lua;" .. here .. "/../?.lua;" .. package.path

local command_line = require("command_line")
local queue = require("queue")
local samples = require("samples")
local uv = require("luv")

local options = command_line.parse({
    name = "drive",
    usage = "[--jobs N] [--threads N] [--seconds S]",
    numbers = {
        jobs = { default = 5000, most = 1000000 },
        threads = { default = uv.available_parallelism(), most = 200 },
        seconds = { default = 300, most = 86400 },
    },
}, arg)

local deadline = uv.hrtime() + options.seconds * 1e9
local shows_progress = uv.guess_handle(2) == "tty"
local clear_line = shows_progress and "\r\27[K" or ""

local function say(...)
    io.stderr:write(clear_line)
    print(table.concat({ ... }))
    io.stdout:flush()
end

local function fail(...)
    io.stderr:write(clear_line, "drive: ", table.concat({ ... }), "\n")
    os.exit(1)
end

-- Whatever becomes of this process, the kernel then kills what it has started.
local function spawn(name, environment, on_line, ...)
    local output, child, rest = uv.new_pipe(), { name = name }, ""
    child.process, child.pid = uv.spawn("setpriv", { args = { "--pdeathsig", "KILL", ... },
        stdio = { nil, output, 2 }, env = environment }, function(code, signal)
        child.status = signal ~= 0 and "signal " .. signal or "status " .. code
        child.process:close()
        if child.status ~= child.expected_status then
            fail(name, " ended with ", child.status, "; the last it said: ", child.last_line or "nothing")
        end
    end)
    if not child.process then
        fail("cannot start ", name, ": ", child.pid)
    end
    output:read_start(function(_, data)
        if not data then
            return output:close()
        end
        rest = (rest .. data):gsub("([^\n]*)\n", function(line)
            child.last_line = line
            on_line(line)
            return ""
        end)
    end)
    return child
end

-- Runs the loop until `condition()`, and looks often; `what` is for who gets tired of it.
local ticker = uv.new_timer()
ticker:start(20, 20, function() end)
local function wait_for(what, condition)
    while not condition() do
        if uv.hrtime() >= deadline then
            fail("after ", options.seconds, " s still waiting for ", what)
        end
        uv.run("once")
    end
end

local function signal(child, name, expected_status)
    child.expected_status = expected_status
    child.process:kill(name)
end

local function end_well(child)
    signal(child, "sigterm", "status 0")
    wait_for(child.name .. " to end", function() return child.status end)
end

local function free_port()
    local socket = uv.new_tcp()
    socket:bind("127.0.0.1", 0)
    local port = socket:getsockname().port
    socket:close()
    return port
end

-- One that only this machine reaches, and that keeps nothing; without what a test preloads for Lua.
local function start_redis()
    local port, is_ready = free_port(), false
    local redis = spawn("redis", { "PATH=" .. os.getenv("PATH") }, function(line)
        is_ready = is_ready or line:find("Ready to accept connections", 1, true)
    end, "redis-server", "--bind", "127.0.0.1", "--port", tostring(port), "--save", "", "--appendonly", "no")
    wait_for("redis to listen", function() return is_ready end)
    return redis, "127.0.0.1:" .. port
end

local function start_worker(address)
    return spawn("a worker", nil, say, arg[-1], here .. "/worker.lua", "--threads", tostring(options.threads),
        address)
end

local redis, address = start_redis()
local connection = queue.connect(address)
local jobs = {}
for i = 1, options.jobs do
    local job = samples.make(i, options.jobs)
    jobs[connection:put(job.task)] = job
end
say(options.jobs, " jobs in a redis at ", address)

local begun = uv.hrtime()

-- Until that part of the jobs has gone through the queue.
local function wait_for_part(part)
    local width = 40
    wait_for(("%d of %d jobs"):format(math.ceil(part * options.jobs), options.jobs), function()
        local finished = options.jobs - connection:left()
        if shows_progress then
            local filled = finished * width // options.jobs
            io.stderr:write(("\r[%s%s] %d of %d jobs, %.0f per second"):format(("#"):rep(filled),
                (" "):rep(width - filled), finished, options.jobs, finished / (uv.hrtime() - begun) * 1e9))
        end
        return finished >= part * options.jobs
    end)
end

local function has_jobs(worker)
    for consumer in pairs(connection:pending()) do
        if consumer:find((":%d:"):format(worker.pid), 1, true) then
            return true
        end
    end
    return false
end

-- Until it has some, or nobody has any more.
local function wait_for_jobs_of(worker)
    wait_for("a worker to have jobs", function() return has_jobs(worker) or connection:left() == 0 end)
end

local first, second = start_worker(address), start_worker(address)
wait_for_part(1 / 3)
wait_for_jobs_of(first)
say("kills the first worker, and starts a third")
signal(first, "sigkill", "signal 9")
local third = start_worker(address)
wait_for_part(2 / 3)
wait_for_jobs_of(second)
say("stops the second until others have taken over its jobs")
signal(second, "sigstop")
wait_for("others to take over", function() return not has_jobs(second) end)
say("lets it go on")
signal(second, "sigcont")
wait_for_part(1)
local seconds = (uv.hrtime() - begun) / 1e9
end_well(second)
end_well(third)
local failed, wrong = samples.check(jobs, connection:results())
local consumer = next(connection:pending())
wrong = wrong or consumer and "consumer " .. consumer .. " still has jobs"
if wrong then
    fail(wrong)
end
local taken_over, dropped = connection:mishaps()
end_well(redis)
ticker:close()
uv.run()
say(("%d jobs in %.1f s, %.0f per second; %d of them failed, as they should"):format(options.jobs, seconds,
    options.jobs / seconds, failed))
say("taken over, to run again: ", taken_over, "; results that came too late: ", dropped)
say("each job has one result, the right one")
