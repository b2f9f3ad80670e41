-- Starts the server, has wrk send it requests from a second process, reloads its pages in the middle,
-- and stops it. Exit status 0: every request was answered, and well.
--
--     lua5.4 drive.lua [--seconds S] [--connections C]
local here = arg[0]:match("^(.*)/[^/]*$") or "."
package.path = here .. "/../?.lua;" .. package.path

local command_line = require("command_line")
local uv = require("luv")

local options = command_line.parse({
    name = "drive",
    usage = "[--seconds S] [--connections C]",
    numbers = {
        seconds = { default = 10, most = 3600 },
        connections = { default = 64, most = 10000 },
    },
}, arg)

local function fail(...)
    io.stderr:write("drive: ", table.concat({ ... }), "\n")
    os.exit(1)
end

-- What wrk says is for people; these lines are there when something failed.
local function failures(report)
    return report:match("Socket errors:[^\n]*") or report:match("Non%-2xx or 3xx responses:[^\n]*")
        or not report:match("Requests/sec:%s*[%d.]*[1-9]") and "no requests"
end

local function spawn(program, arguments, environment, on_output, on_exit)
    local output = uv.new_pipe()
    local process, pid = uv.spawn(program,
        { args = arguments, stdio = { nil, output, 2 }, env = environment }, on_exit)
    if not process then
        fail("cannot start ", program, ": ", pid)
    end
    output:read_start(function(_, data) on_output(data) end)
    return process
end

local said, report, server = "", "", nil
local timer = uv.new_timer()

local function stop(_, signal)
    if signal ~= 0 then
        fail("wrk ended by signal ", tostring(signal))
    end
    server:kill("sigterm")
end

local function drive(url)
    local arguments = { "-t", "1", "-c", tostring(options.connections), "-d", options.seconds .. "s",
        "--latency", url }
    spawn("wrk", arguments, { "PATH=" .. os.getenv("PATH") }, function(data)
        report = report .. (data or "")
    end, stop)
    timer:start(options.seconds * 500, 0, function()
        server:kill("sighup")
        timer:close()
    end)
end

server = spawn(arg[-1], { here .. "/server.lua" }, nil, function(data)
    local was_listening = said:find("listening")
    said = said .. (data or "")
    local url = said:match("listening on (%S+)\n")
    if url and not was_listening then
        drive(url)
    end
end, function(code, signal)
    if code ~= 0 or signal ~= 0 then
        fail("the server ended with status ", code, ", signal ", signal)
    end
end)
uv.run()

io.write(said, report)
local failed = failures(report) or not said:find("\nreloaded\n") and "not reloaded"
    or not said:find("\nstopped\n") and "not stopped"
if failed then
    fail(failed)
end
