-- What the tests with random programs share: a parent that runs children, each a process with a seed
-- of its own, until the time is up, and the errors that such a child may meet. For dofile.
--
-- MTSTATES_TEST_SECONDS is the time, MTSTATES_TEST_SEED the seed of the only child to run.
local mtstates = require("mtstates")

local children = {}

function children.choose(list)
    return list[math.random(#list)]
end

local KNOWN = { "payload", "bad argument #%d+ to", "calling '.-' on bad self", "attempt to ",
    "stack overflow", "this Lua state is closing", "needs itself to be made", "not enough memory",
    "error in error handling", "too many results to unpack", "'__tostring' must return a string",
    "got a non%-closable value", "table index is n", "profile is being taken", "the profile is finalized",
    "a profile cannot be ended in a finalizer",
    "cannot write " }

-- Whether Lua, the module or the bad value itself is known to raise `message`, or `more` patterns fit.
function children.is_known(message, more)
    if type(message) ~= "string" or message:find("(null)", 1, true) then
        return false
    end
    message = message:gsub("^test/%a+%.lua:%d+: ", "") -- which coroutine.wrap puts in front
    for name in pairs(mtstates.error) do
        if message:find("^mtstates%.error%." .. name .. "%f[^%w_]") then
            return true
        end
    end
    for _, patterns in ipairs({ KNOWN, more }) do
        for _, pattern in ipairs(patterns) do
            if message:find(pattern) then
                return true
            end
        end
    end
    return false
end

-- The last `count` lines, or fewer: none before the last one that begins with `start`.
local function last_lines(path, count, start)
    local lines, first = {}, 1
    for line in io.lines(path) do
        lines[#lines + 1] = line
        if start and line:sub(1, #start) == start then
            first = #lines
        end
    end
    return table.concat(lines, "\n", math.max(first, #lines - count + 1))
end

-- `script SEED` is a child. It says on stderr what it is about to do, and ends within `options.seconds`,
-- or it is taken for hung. What is shown of a child that fails are `options.lines` at most, from the
-- last that begins with `options.start`.
function children.run(script, options)
    local given = os.getenv("MTSTATES_TEST_SEED")
    local seconds = tonumber(os.getenv("MTSTATES_TEST_SECONDS") or 10)
    local seed = given and math.tointeger(tonumber(given)) or os.time() * 1000
    local deadline = os.time() + seconds
    local log = os.tmpname()
    local count = 0
    repeat
        local ok, how, status = os.execute(("timeout -s ABRT %d lua5.4 %s %d 2>%s"):format(
            options.seconds, script, seed, log))
        if not ok then
            print(last_lines(log, options.lines, options.start))
            print(("%s %d (124 is a hang). MTSTATES_TEST_SEED=%d"):format(how, status, seed))
            os.exit(1)
        end
        seed = seed + 10
        count = count + 1
    until given or os.time() >= deadline
    os.remove(log)
    print(("%d children, seeds up to %d"):format(count, seed - 10))
end

return children
