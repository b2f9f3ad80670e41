-- What the server says. Runs in the members of the pool: each has its own variables, which nobody else
-- touches, and reads this file anew when the server reloads.
local uv = require("luv") -- for its clock and to sleep

local pages = {}
local answered = 0

pages["/"] = function(_, body)
    return 200, ("hello number %d\n%s"):format(answered, body)
end

pages["/slow"] = function()
    uv.sleep(200)
    return 200, "slept\n"
end

pages["/error"] = function()
    error("this page is broken")
end

-- `method, target, body` -> `status, body`
return function(method, target, body)
    answered = answered + 1
    local page = pages[target:match("^[^?]*")]
    if not page then
        return 404, "no such page\n"
    elseif method ~= "GET" and method ~= "HEAD" and method ~= "POST" then
        return 405, "GET, HEAD or POST\n"
    end
    return page(method, body)
end
