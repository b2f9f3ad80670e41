-- That a state with a memory limit does not make the process grow by more. Each case is a process of its own.
local child = require("child")

-- For children: what the process had more at most, in bytes, while `eat` ran in a state with that limit, was
-- caught, and ran again; and what it keeps once the state is closed.
local function grow(limit, eat)
    local mtstates = require("mtstates")
    local function kilobytes(what)
        for line in io.lines("/proc/self/status") do
            local number = line:match("^" .. what .. ":%s+(%d+)")
            if number then
                return tonumber(number)
            end
        end
    end
    for _, warm in ipairs({ true, false }) do
        collectgarbage()
        collectgarbage()
        local before = kilobytes("VmRSS")
        local file <close> = assert(io.open("/proc/self/clear_refs", "w"))
        assert(file:write("5")) -- the peak begins anew
        file:flush()
        local state <close> = mtstates.newstate({ memory_limit = warm and limit // 2 or limit },
            "local eat = load(...) return function() return eat() end", eat)
        for _ = 1, 3 do
            local ok, message = pcall(state.call, state)
            assert(not ok and message:find("^" .. mtstates.error.out_of_memory), message)
        end
        local most = kilobytes("VmHWM") - before
        state:close()
        if not warm then
            print(most * 1024, (kilobytes("VmRSS") - before) * 1024)
        end
    end
end

describe("a state with a memory limit", function()
    local eaters = {
        ["strings that double"] = "local s = 'x' while true do s = s:rep(2) end",
        ["table.concat"] = "local t = {} for i = 1, 300 do t[i] = ('x'):rep(1000) end "
            .. "while true do t[#t + 1] = table.concat(t) end",
        ["a growing table"] = "local t = {} while true do t[#t + 1] = #t end",
        ["small tables"] = "local t = {} while true do t = { t } end",
        ["strings of 300 bytes"] = "local t, i = {}, 0 "
            .. "while true do i = i + 1 t[i] = ('x'):rep(300) .. i end",
        ["coroutines"] = "local t = {} while true do t[#t + 1] = coroutine.create(function() "
            .. "coroutine.yield() end) coroutine.resume(t[#t]) end",
        ["deep recursion"] = "local function f(n) return 1 + f(n + 1) end return f(1)",
    }
    for name, eat in pairs(eaters) do
        for _, limit in ipairs({ 1000000, 10000000 }) do
            local what = ("of %d bytes that it fills by %s"):format(limit, name)
            it(what .. " makes the process grow by no more", function()
                local text = child.call(grow, limit, eat)
                local most, kept = text:match("^(%-?%d+)%s+(%-?%d+)\n%[exit 0%]$")
                assert(most, text)
                assert.is_true(tonumber(most) <= limit + 65536, most)
                assert.is_true(tonumber(kept) <= limit, kept)
            end)
        end
    end
end)
