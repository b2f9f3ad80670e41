local mtstates = require("mtstates")
local child = require("child")

-- Paths and types of all that can be reached from the libraries, one per line.
local function describe_all()
    local lines, seen = {}, {}
    local function visit(value, path)
        lines[#lines + 1] = path .. ": " .. (io.type(value) or math.type(value) or type(value))
        if type(value) == "string" and not path:match("path$") then
            lines[#lines] = lines[#lines] .. " " .. value
        end
        if type(value) == "table" and not seen[value] then
            seen[value] = true
            for k, v in next, value do
                visit(v, path .. "." .. tostring(k))
            end
        end
    end
    local names = { "_G", "package", "coroutine", "table", "io", "os", "string", "math", "utf8", "debug" }
    for _, name in ipairs(names) do
        seen[package.loaded[name]] = true
    end
    for _, name in ipairs(names) do
        seen[package.loaded[name]] = nil
        visit(package.loaded[name], name)
    end
    visit(getmetatable(io.stdout), "file")
    visit(getmetatable(""), "metatable of strings")
    table.sort(lines)
    return table.concat(lines, "\n")
end

describe("a new state", function()
    it("is made in the way that the build asks for", function()
        local way = os.getenv("MTSTATES_TEST_IMAGE") == "OFF" and "one by one" or "image"
        assert.matches("states from " .. way, mtstates._INFO)
    end)

    it("has what a Lua program has", function()
        local state = mtstates.newstate({ inherit = false }, function(describe)
            local description = describe() -- before the module is there
            return function() return description end
        end, describe_all)
        local output = child.call(function(describe)
            rawset(_G, "arg", nil)
            io.write(load(describe)())
        end, string.dump(describe_all))
        assert.equal(output:gsub("%[exit 0%]$", ""), (state:call()))
    end)

    it("has the paths of LUA_PATH, and open files", function()
        local output = child.call(function()
            local state = require("mtstates").newstate({ inherit = false }, function()
                return function()
                    io.stdout:write("written ")
                    io.stderr:write("", "")
                    return package.path, io.lines("LICENSE")()
                end
            end)
            print(state:call())
        end, "")
        assert.matches("^written .-;%./%?%.lua.-\tMIT License\n%[exit 0%]$", output)
    end)

    it("lies elsewhere in each process, if programs do", function()
        local function where(body)
            return child.call(body) == child.call(body)
        end
        assert.equal(where(function() print(_G) end), where(function()
            print(require("mtstates").newstate(function()
                local text = tostring(_G)
                return function() return text end
            end):call())
        end))
    end)
end)
