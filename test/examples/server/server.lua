-- An HTTP server: threads with an event loop each, and a pool of states that answer the requests.
--
--     lua5.4 server.lua [--threads N] [--members M] [--port P] [--profile FILE]
--
-- Listens on 127.0.0.1 and says so; without --port, where there is room. A request that finds all
-- members busy is answered with 503 at once; with as many members as threads there is none. SIGHUP
-- reloads the pages. SIGTERM or SIGINT ends it as soon as what it is answering is answered; then --profile
-- writes where the time went inside the members, in the format that the file's name tells. Needs mtstates
-- and luv on package.cpath.
local here = arg[0]:match("^(.*)/[^/]*$") or "."
package.path = here .. "/?.lua;" .. here .. "/../?.lua;" .. package.path

local command_line = require("command_line")
local mtstates = require("mtstates")
local uv = require("luv")

local THREADS = uv.available_parallelism()

local options = command_line.parse({
    name = "server",
    usage = "[--threads N] [--members M] [--port P] [--profile FILE]",
    numbers = {
        threads = { default = THREADS, most = 200 },
        members = { default = nil, most = 4096 },
        port = { default = 0, most = 65535 },
    },
    files = { profile = true },
}, arg)

local function say(...)
    print(...)
    io.stdout:flush()
end

-- Starts a thread, and calls `on_listening` when it listens. What closes this end of the pipe ends it.
local function start_thread(pool, listener, on_listening)
    local ends = assert(uv.socketpair())
    local pipe = uv.new_pipe(true)
    assert(pipe:open(ends[1]))
    assert(pipe:write2("l", listener))
    pipe:read_start(function(message, data)
        assert(data, message or "a thread has ended")
        on_listening()
    end)
    return assert(uv.new_thread(function(path, cpath, ...)
        package.path, package.cpath = path, cpath
        require("worker").run(...)
    end, package.path, package.cpath, pool:id(), ends[2]))
end

local pool = mtstates.newpool({ name = "pages", size = options.members or options.threads, timing = true },
    function() return require("pages") end)
local listener = uv.new_tcp()
assert(listener:bind("127.0.0.1", options.port))
local port = listener:getsockname().port

local threads, listening = {}, 0
for i = 1, options.threads do
    threads[i] = start_thread(pool, listener, function()
        listening = listening + 1
        if listening == options.threads then
            say(("listening on http://127.0.0.1:%d/"):format(port))
        end
    end)
end

local function reload()
    local ok, message = pcall(pool.reload, pool)
    say(ok and "reloaded" or message)
end

-- Requests that came and were not begun are refused, so it takes no longer than those that are inside.
local function stop()
    pool:close()
    uv.walk(function(handle) handle:close() end)
end

if options.profile then
    mtstates.profile.start({ interval = 0.001 })
end
uv.new_signal():start("sighup", reload)
uv.new_signal():start("sigterm", stop)
uv.new_signal():start("sigint", stop)
uv.run()
if options.profile then
    mtstates.profile.stop():write(options.profile)
end

for _, thread in ipairs(threads) do
    thread:join()
end
assert(pool:close(10))
say("stopped")
