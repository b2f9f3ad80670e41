-- The example of a server: its parser, and the server as its clients see it.
local support = require("support")
local uv = require("luv")

local here = "test/examples/server/"
local http = dofile(here .. "http.lua")

-- What parse makes of `text`: the request and what follows it, nil, or the status to refuse with.
local function parse(text)
    local request, next = http.parse(text, 1)
    if request then
        return request, text:sub(next)
    end
    return next
end

describe("the server's parser", function()
    it("takes requests one by one, with and without a body", function()
        local get = "GET /a?b HTTP/1.1\r\nHost: x\r\n\r\n"
        local post = "POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc"
        local request, rest = parse(get .. post .. get)
        assert.same({ "GET", "/a?b", "x", "", true },
            { request.method, request.target, request.headers.host, request.body, request.keep_alive })
        request, rest = parse(rest)
        assert.same({ "POST", "abc" }, { request.method, request.body })
        assert.equal(get, rest)
        assert.equal("/", (parse("\r\nGET / HTTP/1.1\n\n")).target)
        assert.same({}, (parse("GET / HTTP/1.1\r\n\r\n")).headers)
    end)

    it("waits for the rest of a request, wherever it was cut", function()
        local text = "POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc"
        for length = 0, #text - 1 do
            assert.is_nil(parse(text:sub(1, length)))
        end
        assert.equal("abc", (parse(text)).body)
    end)

    it("knows whether the connection stays", function()
        for _, case in ipairs({
            { "1.1", "", true }, { "1.1", "Connection: close\r\n", false },
            { "1.1", "connection: Keep-Alive\r\n", true }, { "1.0", "", false },
            { "1.0", "Connection: keep-alive\r\n", true },
        }) do
            assert.equal(case[3], (parse("GET / HTTP/" .. case[1] .. "\r\n" .. case[2] .. "\r\n")).keep_alive)
        end
    end)

    for _, case in ipairs({
        { 400, "nonsense\r\n\r\n" },
        { 400, "get / HTTP/1.1\r\n\r\n" },
        { 400, "GET  / HTTP/1.1\r\n\r\n" },
        { 400, "GET / HTTP/1.1\r\nno colon\r\n\r\n" },
        { 400, "GET / HTTP/1.1\r\nfield : x\r\n\r\n" },
        { 400, "GET / HTTP/1.1\r\nfield: x\r\n folded\r\n\r\n" },
        { 400, "GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n" },
        { 400, "GET / HTTP/1.1\r\nContent-Length: 1, 1\r\n\r\n" },
        { 400, "GET / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n" },
        { 505, "GET / HTTP/2.0\r\n\r\n" },
        { 411, "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" },
        { 413, "POST / HTTP/1.1\r\nContent-Length: 1048577\r\n\r\n" },
        { 413, "POST / HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n" },
        { 431, "GET / HTTP/1.1\r\nfield: " .. ("x"):rep(16384) },
        { 431, "GET /" .. ("x"):rep(16384) .. " HTTP/1.1\r\n\r\n" },
    }) do
        local status, text = table.unpack(case)
        it(("refuses with %d: %s"):format(status, text:sub(1, 60):gsub("\r?\n", " / ")), function()
            assert.equal(status, parse(text))
        end)
    end
end)

-- Runs the loop until `condition()`, for so many seconds at most; ten where none are given.
local function run_until(condition, seconds)
    local waker = uv.new_timer()
    waker:start(10, 10, function() end)
    local deadline = uv.hrtime() + (seconds or 10) * 1e9 * support.slowness
    local met = condition()
    while not met and uv.hrtime() < deadline do
        uv.run("once")
        met = condition()
    end
    waker:close()
    if not met then error("waited in vain", 3) end
end

-- Where its threads are.
local function stacks(process)
    local gdb <close> = io.popen(("LD_PRELOAD= gdb -p %d -batch -ex 'thread apply all backtrace' 2>&1")
        :format(process:get_pid()))
    return gdb:read("a")
end

-- Processes that are to be killed if their test fails. busted keeps the last `finally` of a test only.
local running = {}

local function kill_in_the_end(process)
    running[#running + 1] = process
    finally(function()
        for _, any in ipairs(running) do
            any:kill("sigkill")
        end
        running = {}
    end)
end

local function start_server(...)
    local output, said, ended = uv.new_pipe(), "", nil
    local process = assert(uv.spawn("lua5.4",
        { args = { here .. "server.lua", ... }, stdio = { nil, output, 2 } },
        function(code, signal) ended = code == 0 and signal == 0 end))
    kill_in_the_end(process)
    output:read_start(function(_, data) said = said .. (data or "") end)
    local server = {}
    function server.waits_for(text)
        run_until(function() return said:find(text, 1, true) end)
    end
    server.waits_for("\n")
    server.port = math.tointeger(tonumber(said:match("listening on http://127%.0%.0%.1:(%d+)/\n")))
    server.url = ("http://127.0.0.1:%d/"):format(server.port)
    function server.kill(signal) process:kill(signal) end
    function server.stop()
        process:kill("sigterm")
        if not pcall(run_until, function() return ended ~= nil end) then
            error(("the server does not end; it said: %s\n%s"):format(said, stacks(process)))
        end
        output:close()
        process:close()
        uv.run() -- luv does not stand handles that are just closing when its Lua state ends
        assert(ended)
        return said
    end
    return server
end

-- A connection; send(...) sends each piece by itself.
local function connect(server)
    local client, received, open = uv.new_tcp(), "", nil
    client:connect("127.0.0.1", server.port, function(message)
        assert(not message, message)
        open = true
        client:read_start(function(failed, data)
            received = received .. (data or "")
            open = not failed and data ~= nil
        end)
    end)
    run_until(function() return open end)
    local connection = {}
    function connection.send(...)
        for _, piece in ipairs({ ... }) do
            local written
            client:write(piece, function() written = true end)
            run_until(function() return written end)
        end
    end
    function connection.received() return received end
    -- Until so many responses have come.
    function connection.responses(count)
        run_until(function() return select(2, received:gsub("HTTP/1.1 %d+", "")) >= count end)
        return received
    end
    function connection.until_closed()
        run_until(function() return not open end)
        return received
    end
    function connection.close()
        client:close()
    end
    return connection
end

-- A program of the system's, without the sanitizers that a test may have.
local function spawn(program, arguments)
    local ended
    local process = assert(uv.spawn(program, { args = arguments, env = { "PATH=" .. os.getenv("PATH") } },
        function() ended = true end))
    local spawned = {}
    kill_in_the_end(process)
    function spawned.has_ended() return ended end
    function spawned.kill()
        process:kill("sigkill")
        spawned.wait()
    end
    function spawned.wait()
        run_until(function() return ended end)
        process:close()
    end
    return spawned
end

local function free_port()
    local socket = uv.new_tcp()
    socket:bind("127.0.0.1", 0)
    local port = socket:getsockname().port
    socket:close()
    return port
end

-- One that asks the server at that port twice a second.
local function start_prometheus(port)
    local folder, own = os.tmpname(), { port = free_port() }
    os.remove(folder)
    assert(uv.fs_mkdir(folder, 448))
    local config = io.open(folder .. "/config.yml", "w")
    config:write(([[
scrape_configs:
  - job_name: server
    scrape_interval: 500ms
    scrape_timeout: 500ms
    static_configs: [{ targets: ["127.0.0.1:%d"] }]
]]):format(port))
    config:close()
    local process = spawn("prometheus", { "--config.file=" .. folder .. "/config.yml",
        "--storage.tsdb.path=" .. folder .. "/data", "--web.listen-address=127.0.0.1:" .. own.port })
    local prometheus = {}
    -- The first value of what a query gives; nil: there is none, or nobody answers yet.
    function prometheus.ask(query)
        local escaped = query:gsub("[^%w]", function(c) return ("%%%02X"):format(c:byte()) end)
        local curl = io.popen(("LD_PRELOAD= curl -m 5 -s 'http://127.0.0.1:%d/api/v1/query?query=%s'")
            :format(own.port, escaped))
        local answer = curl:read("a")
        curl:close()
        return tonumber(answer:match('"value":%[[%d.]+,"([^"]*)"%]'))
    end
    function prometheus.stop()
        process.kill()
        os.execute("rm -r " .. folder)
    end
    return prometheus
end

describe("the server", function()
    it("answers requests that come in pieces, several at once, or one after the other", function()
        local server = start_server("--threads", "2")
        local client = connect(server)
        client.send("GE", "T / HT", "TP/1.1\r\n\r", "\n")
        assert.matches("^HTTP/1.1 200 OK\r\nContent%-Type: text/plain\r\nContent%-Length: %d+\r\n\r\nhello",
            client.responses(1))
        client.send("GET /none HTTP/1.1\r\n\r\nDELETE / HTTP/1.1\r\n\r\nHEAD / HTTP/1.1\r\n\r\n"
            .. "POST / HTTP/1.1\r\nContent-Length: 4\r\nConnection: close\r\n\r\nbody")
        local received = client.until_closed()
        local status = {}
        for code in received:gmatch("HTTP/1.1 (%d+)") do
            status[#status + 1] = code
        end
        assert.same({ "200", "404", "405", "200", "200" }, status)
        assert.matches("Connection: close\r\n\r\nhello number %d\nbody$", received)
        client.close()
        assert.matches("stopped\n$", server.stop())
    end)

    it("refuses what it cannot read, and closes that connection only", function()
        local server = start_server("--threads", "1")
        local good, bad = connect(server), connect(server)
        bad.send("nonsense\r\n\r\nGET / HTTP/1.1\r\n\r\n")
        assert.matches("^HTTP/1.1 400 Bad Request\r\n.*Connection: close\r\n\r\nBad Request\n$",
            bad.until_closed())
        good.send("GET / HTTP/1.1\r\n\r\n")
        assert.matches("^HTTP/1.1 200 OK", good.responses(1))
        good.close()
        bad.close()
        server.stop()
    end)

    it("answers with 503 at once while all members are busy", function()
        local server = start_server("--threads", "2", "--members", "1")
        local slow, others = connect(server), {}
        slow.send("GET /slow HTTP/1.1\r\n\r\n")
        local function refused()
            for _, other in ipairs(others) do
                if other.received():find("^HTTP/1.1 503 Service Unavailable\r\n") then
                    return true
                end
            end
        end
        run_until(function() -- as soon as one of these goes to the other thread
            others[#others + 1] = connect(server)
            others[#others].send("GET /slow HTTP/1.1\r\n\r\n")
            return refused()
        end)
        slow.responses(1)
        slow.close()
        for _, other in ipairs(others) do
            other.close()
        end
        server.stop()
    end)

    it("stops when who is inside is done, whatever else has been asked for", function()
        local server, clients = start_server("--threads", "1"), {}
        for i = 1, 50 do
            clients[i] = connect(server)
            clients[i].send("GET /slow HTTP/1.1\r\n\r\n")
        end
        local begun = uv.hrtime()
        assert.matches("stopped\n$", server.stop())
        assert.is_true(uv.hrtime() - begun < 2e9 * support.slowness) -- one takes 0.2 s
        for _, client in ipairs(clients) do
            client.close()
        end
    end)

    it("reloads at SIGHUP, with its connections open", function()
        local server = start_server("--threads", "1")
        local client = connect(server)
        client.send("GET / HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n\r\n")
        assert.matches("hello number 2\n$", client.responses(2))
        server.kill("sighup")
        server.waits_for("reloaded\n")
        client.send("GET / HTTP/1.1\r\n\r\n")
        assert.matches("hello number 1\n$", client.responses(3))
        client.close()
        server.stop()
    end)

    it("gives its metrics", function()
        local server = start_server("--threads", "1")
        local client = connect(server)
        client.send("GET / HTTP/1.1\r\n\r\nGET /metrics HTTP/1.1\r\n\r\n")
        local received = client.responses(2)
        assert.matches("Content%-Type: text/plain; version=0%.0%.4; charset=utf%-8\r\n",
            received)
        assert.matches('\nmtstates_pool_calls_total{pool="pages"} 1\n', received)
        assert.matches("\n# EOF\n$", received)
        client.close()
        server.stop()
    end)

    it("is watched by a Prometheus", function()
        local server = start_server("--threads", "2", "--members", "1")
        local prometheus = start_prometheus(server.port)
        local function above_zero(query)
            return (prometheus.ask(query) or 0) > 0
        end
        run_until(function() return above_zero("up") end, 60) -- it begins after five seconds
        -- One after the other, since one thread may accept all connections, and alone it is never refused.
        local wrk
        local function keep_busy()
            if wrk and wrk.has_ended() then
                wrk.wait()
                wrk = nil
            end
            wrk = wrk or spawn("wrk", { "-t", "1", "-c", "16", "-d", "2s", server.url })
        end
        run_until(function()
            keep_busy()
            return above_zero('rate(mtstates_pool_calls_total{pool="pages"}[5s])')
                and above_zero('rate(mtstates_pool_refused_total{pool="pages"}[5s])')
                and above_zero("histogram_quantile(0.9, rate(mtstates_pool_inside_seconds_bucket[5s]))")
        end, 60)
        assert.equal(1, prometheus.ask("mtstates_pool_size"))
        wrk.wait()
        prometheus.stop()
        server.stop()
    end)

    it("writes where the time went when it ends", function()
        local path = os.tmpname()
        local server = start_server("--profile", path .. ".folded")
        spawn("wrk", { "-t", "1", "-c", "16", "-d", "1s", server.url }).wait()
        server.stop()
        local file <close> = assert(io.open(path .. ".folded"))
        assert.matches("^pool pages", file:read("a"))
        os.remove(path)
        os.remove(path .. ".folded")
    end)

    it("does what curl wants", function()
        local server = start_server()
        local command = "LD_PRELOAD= curl -m 20 -s -d data -w '%%{http_code} %%{num_connects}\n' %s %s"
        local curl = io.popen(command:format(server.url, server.url))
        assert.matches("^hello number %d\ndata200 1\nhello number %d\ndata200 0\n$", curl:read("a"))
        curl:close()
        server.stop()
    end)
end)
