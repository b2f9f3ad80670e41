-- As much of HTTP/1.1 as clients like wrk and curl need: requests with or without a body of known
-- length, one after the other on one connection, and responses. (Debian has one HTTP library for Lua,
-- lua-http, which is bound to the event loop of cqueues.)
local http = {}

local MOST_HEAD = 16384 -- bytes
local MOST_BODY = 1 << 20 -- bytes

local REASONS = {
    [200] = "OK",
    [400] = "Bad Request",
    [404] = "Not Found",
    [405] = "Method Not Allowed",
    [411] = "Length Required",
    [413] = "Content Too Large",
    [431] = "Request Header Fields Too Large",
    [500] = "Internal Server Error",
    [503] = "Service Unavailable",
    [505] = "HTTP Version Not Supported",
}

-- Names in lower case; false: a line is none, or a name that decides on the length comes twice.
local function parse_headers(text)
    local headers = {}
    for line in text:gmatch("([^\r\n]*)\r?\n") do
        local name, value = line:match("^([%w!#$%%&'*+.^_`|~-]+):[ \t]*(.-)[ \t]*$")
        name = name and name:lower()
        if not name or (headers[name] and (name == "content-length" or name == "transfer-encoding")) then
            return false
        end
        headers[name] = value
    end
    return headers
end

local function keeps_alive(minor, headers)
    local connection = (headers.connection or ""):lower()
    if minor == "0" then
        return connection:find("keep-alive", 1, true) ~= nil
    end
    return not connection:find("close", 1, true)
end

-- The request that `text` begins with, from `from` on: `request, next` with request.method, .target,
-- .headers, .body and .keep_alive; nil: more has to come; or nil and the status to refuse with, after
-- which nothing on the connection makes sense.
function http.parse(text, from)
    local start = text:find("[^\r\n]", from) -- empty lines before a request are allowed
    if not start then
        return nil
    end
    local _, head_end = text:find("\r?\n\r?\n", start)
    if (head_end or #text) - start >= MOST_HEAD then
        return nil, 431
    elseif not head_end then
        return nil
    end
    local method, target, major, minor, lines =
        text:sub(start, head_end):match("^(%u+) (%g+) HTTP/(%d)%.(%d)\r?\n(.-)\r?\n?$")
    local headers = method and parse_headers(lines)
    if not headers then
        return nil, 400
    elseif major ~= "1" then
        return nil, 505
    elseif headers["transfer-encoding"] then
        return nil, 411
    end
    local length = headers["content-length"] or "0"
    if not length:match("^%d+$") then
        return nil, 400
    elseif #length > 9 or tonumber(length) > MOST_BODY then
        return nil, 413
    end
    local last = head_end + tonumber(length)
    if last > #text then
        return nil
    end
    return {
        method = method,
        target = target,
        headers = headers,
        body = text:sub(head_end + 1, last),
        keep_alive = keeps_alive(minor, headers),
    }, last + 1
end

-- The bytes to send. `without_body`: the answer to HEAD, whose length is told all the same. `kind`: the
-- media type, plain text if nil.
function http.response(status, body, keep_alive, without_body, kind)
    return ("HTTP/1.1 %d %s\r\nContent-Type: %s\r\nContent-Length: %d\r\n%s\r\n%s"):format(status,
        REASONS[status], kind or "text/plain", #body, keep_alive and "" or "Connection: close\r\n",
        without_body and "" or body)
end

function http.reason(status)
    return REASONS[status]
end

return http
