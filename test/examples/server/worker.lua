-- One thread of the server: an event loop that takes connections from the socket that all threads
-- share, and has requests answered by whichever member of the pool is idle.
local http = require("http")
local mtstates = require("mtstates")
local uv = require("luv")

local worker = {}

-- What an operator asks for needs no member.
local function metrics(request)
    return http.response(200, mtstates.metrics(), request.keep_alive, request.method == "HEAD",
        "text/plain; version=0.0.4; charset=utf-8")
end

-- Never waits: when all members are busy, or the pool is closed, the client gets to know at once.
local function answer(pool, request)
    if request.target == "/metrics" then
        return metrics(request)
    end
    local ok, status, body = pcall(pool.call, pool, request.method, request.target, request.body)
    if not ok then
        local refused = status:find("^" .. mtstates.error.concurrent_access)
            or status:find("^" .. mtstates.error.object_closed)
        if not refused then
            io.stderr:write(request.method, " ", request.target, ": ", status, "\n")
        end
        status = refused and 503 or 500
        body = http.reason(status) .. "\n"
    end
    return http.response(status, body, request.keep_alive, request.method == "HEAD")
end

-- The responses to all requests that `text` has whole, the rest of the text, and whether to go on.
local function answer_all(pool, text)
    local responses, from = {}, 1
    while true do
        local request, next = http.parse(text, from)
        if not request and next then
            table.insert(responses, http.response(next, http.reason(next) .. "\n", false))
            return table.concat(responses), "", false
        elseif not request then
            return table.concat(responses), text:sub(from), true
        end
        table.insert(responses, answer(pool, request))
        from = next
        if not request.keep_alive then
            return table.concat(responses), "", false
        end
    end
end

local function close(handle)
    if not handle:is_closing() then
        handle:close()
    end
end

-- Reads no more of a client that does not take its responses.
local function serve(pool, client)
    local text, read = "", nil
    local function written(message, goes_on)
        if message or not goes_on then
            close(client)
        elseif not client:is_closing() then
            client:read_start(read)
        end
    end
    function read(message, data)
        if message or not data then
            return close(client)
        end
        local responses, goes_on
        responses, text, goes_on = answer_all(pool, text .. data)
        if responses == "" then
            return
        end
        client:write(responses, function(failed) written(failed, goes_on) end)
        if not goes_on or client:get_write_queue_size() > 0 then
            client:read_stop()
        end
    end
    client:nodelay(true)
    client:read_start(read)
end

local function listen(pool, listener)
    listener:simultaneous_accepts(false) -- leaves some for the other threads
    assert(listener:listen(1024, function(message)
        local client = uv.new_tcp()
        if message or not listener:accept(client) then
            return close(client)
        end
        serve(pool, client)
    end))
end

-- The other end of the socket `fd` sends the listening socket, and gets a byte when this thread listens
-- there; when that end is closed this thread ends.
function worker.run(pool_id, fd)
    local pool = mtstates.pool(pool_id)
    local pipe = uv.new_pipe(true)
    assert(pipe:open(fd))
    pipe:read_start(function(message, data)
        if message or not data then
            uv.walk(close)
        elseif pipe:pending_count() > 0 then
            local listener = uv.new_tcp()
            assert(pipe:accept(listener))
            listen(pool, listener)
            pipe:write("l")
        end
    end)
    uv.run()
end

return worker
