-- Scripts in processes of their own: a crash there is a failed assertion here.
local child = {}

local function read_and_remove(path)
    local file = assert(io.open(path))
    local text = file:read("a")
    file:close()
    os.remove(path)
    return text
end

-- Runs `script` by lua5.4. `before` are commands of the shell for that process alone (ulimit, export).
-- Returns what it printed on both streams and how it ended, as in "survived\n[exit 0]", and apart
-- from that its stderr. What still runs when a process ends has not been freed, and is no leak.
function child.run(script, before)
    local path = os.tmpname()
    local file = assert(io.open(path, "w"))
    file:write(script)
    file:close()
    local _, how, status = os.execute(
        ("{ %s; }; export ASAN_OPTIONS=detect_leaks=0; exec timeout -s KILL 120 lua5.4 %s >%s.out 2>%s.err")
        :format(before or ":", path, path, path))
    os.remove(path)
    local output, errors = read_and_remove(path .. ".out"), read_and_remove(path .. ".err")
    return ("%s%s[%s %s]"):format(output, errors, how, status), errors
end

-- The same with body(...), a function without upvalues; the arguments are strings and numbers.
function child.call(body, ...)
    local arguments = {}
    for i, argument in ipairs({ ... }) do
        arguments[i] = ("%q"):format(argument)
    end
    return child.run(([[
        package.path = "test/spec/?.lua;" .. package.path
        load(%q, "=child", "b")(%s)
    ]]):format(string.dump(body), table.concat(arguments, ", ")))
end

return child
