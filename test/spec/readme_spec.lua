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

    it("has C code that test/c/native.c runs", function()
        local file <close> = assert(io.open("test/c/native.c"))
        local test = file:read("a"):gsub("%s+", " ")
        local found = 0
        for block in blocks("README.md", "c") do
            found = found + 1
            assert.is_truthy(test:find(block:gsub("%s+", " "), 1, true), block)
        end
        assert.equal(1, found)
    end)

    it("links to files that are there, and so do the others", function()
        local readmes = { "README.md", "CONTRIBUTING.md", "SECURITY.md", "bench/README.md", "bench/notes.md" }
        for _, readme in ipairs(readmes) do
            local folder = readme:match("^(.*/)") or ""
            local file = assert(io.open(readme))
            for link in file:read("a"):gmatch("%]%(([^)#]+)%)") do
                assert.is_truthy(exists(folder .. link), link)
            end
            file:close()
        end
    end)
end)

describe("CONTRIBUTING.md", function()
    it("says what each file of src is for", function()
        local file <close> = assert(io.open("CONTRIBUTING.md"))
        local text = file:read("a")
        local list <close> = assert(io.popen("ls src/*/*.h src/*/*.c"))
        for path in list:lines() do
            local base = path:match("[^/]+$")
            local header = path:gsub("c$", "h")
            local is_below = base:find("_inside.h", 1, true) -- of the header without that
                or exists(header) and base:sub(-1) == "c"
                or base:find("_") and exists((path:gsub("_[^_]*$", ".h"))) -- profile_text.c
            assert.is_truthy(is_below or text:find("`" .. base .. "`", 1, true), path)
        end
    end)
end)
