-- gdb's command of src/mtstates-gdb.py on a real process that stands still inside of states, in two threads,
-- and on its core.
--
--     lua5.4 test/gdb.lua           runs gdb on this file, twice
--     lua5.4 test/gdb.lua inside    is the program that gdb looks at; raises SIGUSR1 when it is there
local SCRIPT = "test/gdb.lua"

-- ---- the program ----

local function setup()
    local mt, uv = require("mtstates"), require("luv") -- luacheck: ignore
    local function wait_inside() -- line 12
        uv.sleep(200) -- for the other thread
        uv.kill(uv.getpid(), "sigusr1")
        uv.sleep(20000)
    end
    return function(inner)
        if inner then
            mt.state(inner):call()
        else
            local resume = coroutine.wrap(function()
                wait_inside()
                return 1
            end)
            resume()
        end
        return 1
    end
end

local function be_inside()
    local mt, uv = require("mtstates"), require("luv")
    local inner = mt.newstate('the "inner"', setup)
    local outer = mt.newstate("outer", setup)
    local other = mt.newstate("of the other thread", function()
        return load("require('luv').sleep(20000)\n", "=(a chunk)")
    end)
    uv.new_thread(function(id) require("mtstates").state(id):call() end, other:id())
    outer:call(inner:id())
end

-- ---- the test ----

local function run_gdb(arguments)
    local pipe = assert(io.popen("LC_ALL=C timeout 100 gdb -nx -batch -iex 'set debuginfod enabled off' " ..
        "-ex 'handle SIGUSR1 stop nopass' " .. arguments .. " 2>&1"))
    local output = pipe:read("a")
    pipe:close()
    return output
end

local function check(condition, output)
    if not condition then
        print(output)
        error("not what was expected", 2)
    end
end

-- From the innermost function on.
local EXPECTED = {
    'Thread %d+ %(LWP %d+%)\n  state "of the other thread" %(id %d+%)\n    lua_State 0x%x+\n',
    "\n      %(a chunk%):1: in main chunk\n",
    'Thread 1 %(LWP %d+%)\n  state "the "inner"" %(id %d+%)\n    coroutine 0x%x+\n',
    "\n      test/gdb.lua:1[45]: in function <test/gdb.lua:12>\n", -- the line of the call, or the next
    "\n      test/gdb.lua:22: in function <test/gdb.lua:21>\n    coroutine 0x%x+\n      %[C%]: in [^\n]+\n" ..
        "      test/gdb.lua:25: in function <test/gdb.lua:17>\n",
    '\n  state "outer" %(id %d+%)\n    lua_State 0x%x+\n      %[C%]: in [^\n]+\n' ..
        "      test/gdb.lua:19: in function <test/gdb.lua:17>\n",
}

local function check_states(output)
    for _, pattern in ipairs(EXPECTED) do
        if not output:find(pattern) then
            print("not found: " .. pattern)
            check(false, output)
        end
    end
    local inner, outer = output:find('"the "inner""', 1, true), output:find('"outer"', 1, true)
    check(inner < outer, output)
end

if ... == "inside" then
    return be_inside()
end
local core = os.tmpname()
local show = "-ex 'source src/mtstates-gdb.py' -ex mtstates "
check_states(run_gdb(("-ex run %s -ex 'generate-core-file %s' -ex kill --args lua5.4 %s inside"):format(
    show, core, SCRIPT)))
check_states(run_gdb(("%s \"$(command -v lua5.4)\" %s"):format(show, core)))
os.remove(core)

local stop_at_end = "-ex 'break lua_close' -ex run " .. show
local output = run_gdb(stop_at_end .. "--args lua5.4 -l mtstates -e ''")
check(output:find("No thread is inside of a state."), output)
output = run_gdb(stop_at_end .. "--args lua5.4 -e ''")
check(output:find("this process does not use mtstates"), output)
print("two processes and a core")
