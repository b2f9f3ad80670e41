-- The command lines of the examples: numbers by name, and paths.
local command_line = {}

-- Says what is wrong with how `program` was called, and ends it.
function command_line.refuse(program, message)
    local name = program.name
    io.stderr:write(name, ": ", message, "\nusage: lua5.4 ", name, ".lua ", program.usage, "\n")
    os.exit(2)
end

-- program.numbers has for each name the default and the most; options in program.files, if there are
-- any, take a path. Gives the numbers and these paths by name, and all others as `paths`.
function command_line.parse(program, arguments)
    local parsed = { paths = {} }
    for name, number in pairs(program.numbers) do
        parsed[name] = number.default
    end
    local i = 1
    while i <= #arguments do
        local name = arguments[i]:match("^%-%-(%a+)$")
        local number = program.numbers[name]
        if not name then
            table.insert(parsed.paths, arguments[i])
            i = i + 1
        elseif number then
            local value = math.tointeger(tonumber(arguments[i + 1]))
            if not value or value < 1 or value > number.most then
                command_line.refuse(program, ("--%s takes a number from 1 to %d"):format(name, number.most))
            end
            parsed[name] = value
            i = i + 2
        elseif program.files and program.files[name] then
            parsed[name] = arguments[i + 1] or command_line.refuse(program, "--" .. name .. " takes a file")
            i = i + 2
        else
            command_line.refuse(program, "unknown option --" .. name)
        end
    end
    return parsed
end

return command_line
