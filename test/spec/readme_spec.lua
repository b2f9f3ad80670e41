-- The code blocks and links of the README and what belongs to it.
local function blocks(path, language)
    local file = assert(io.open(path))
    local text = file:read("a")
    file:close()
    return text:gmatch("```" .. language .. "\n(.-)```")
end

local function exists(path)
    local file = io.open(path)
    return file ~= nil and file:close()
end

local function runs_each_block_of(path)
    local number = 0
    for block in blocks(path, "lua") do
        number = number + 1
        it("has Lua code that runs (block " .. number .. ")", function()
            local script = os.tmpname()
            local file = assert(io.open(script, "w"))
            if os.getenv("MTSTATES_TEST_TSAN") then -- see CMakeLists.txt
                block = block:gsub("while true do end", "while true do os.time() end")
            end
            file:write(block)
            file:close()
            local ok = os.execute("lua5.4 " .. script .. " >/dev/null")
            os.remove(script)
            assert.is_true(ok)
        end)
    end
    return number
end

describe("SECURITY.md", function()
    runs_each_block_of("SECURITY.md")
end)

describe("the README", function()
    local number = runs_each_block_of("README.md")

    it("has Lua code in its first screen", function()
        assert.is_true(number >= 1)
    end)

    it("has commands whose scripts are there and parse", function()
        local commands = 0
        for block in blocks("README.md", "sh") do
            for script in block:gmatch("sh ([%w/_]+)") do
                commands = commands + 1
                assert.is_truthy(exists(script), script)
                assert.is_true(os.execute("sh -n " .. script))
            end
        end
        assert.equal(2, commands)
    end)

    it("links to files that are there", function()
        for _, readme in ipairs({ "README.md", "SECURITY.md", "bench/README.md", "bench/notes.md" }) do
            local folder = readme:match("^(.*/)") or ""
            local file = assert(io.open(readme))
            for link in file:read("a"):gmatch("%]%(([^)#]+)%)") do
                assert.is_truthy(exists(folder .. link), link)
            end
            file:close()
        end
    end)
end)
