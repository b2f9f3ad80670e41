#!/usr/bin/env lua5.4
-- Runs a Lua program, and tells where the time went inside of its states when it ends: by its end, by an
-- error, or by its os.exit. See mtstates.profile in mtstates.d.lua.
--
--     mtstates-profile [-o FILE] [-i SECONDS] PROGRAM [ARGUMENT ...]
--
-- -o   a file for the profile: .folded or .txt, .json for speedscope, .pb for pprof; without it a table
--      goes to stderr
-- -i   seconds from sample to sample, 0.001 to 1; 0.01 without it
local mtstates = require("mtstates")

local function refuse(message)
    io.stderr:write("mtstates-profile: ", message,
        "\nusage: mtstates-profile [-o FILE] [-i SECONDS] PROGRAM [ARGUMENT ...]\n")
    os.exit(2)
end

local path, interval
local first = 1
while arg[first] and arg[first]:match("^%-.") do
    local value = arg[first + 1] or refuse(arg[first] .. " takes a value")
    if arg[first] == "-o" then
        path = value
    elseif arg[first] == "-i" then
        interval = tonumber(value) or refuse("no number of seconds: " .. value)
    else
        refuse("unknown option " .. arg[first])
    end
    first = first + 2
end
local program = arg[first] or refuse("which program?")
local chunk, message = loadfile(program)
if not chunk then
    refuse(message)
end

local function start()
    mtstates.profile.start({ interval = interval })
    if path then -- there is no second try after the program
        mtstates.profile.stop():write(path)
        mtstates.profile.start({ interval = interval })
    end
end
local started, why = pcall(start)
if not started then
    refuse(why)
end

-- The first time, unless the program has ended the profile itself.
local function finish()
    local running, profile = pcall(mtstates.profile.stop)
    if not running then
        return
    elseif not path then
        io.stderr:write(profile:top())
        return
    end
    local written, problem = pcall(profile.write, profile, path)
    if not written then
        io.stderr:write("mtstates-profile: ", problem, "\n")
    end
end

local exit = os.exit
function os.exit(...) -- luacheck: ignore
    finish()
    exit(...)
end

local arguments = table.move(arg, first + 1, #arg, 1, {})
arguments[0] = program
arg = arguments -- luacheck: ignore
local ok, err = xpcall(chunk, debug.traceback, table.unpack(arguments))
finish()
if not ok then
    io.stderr:write("mtstates-profile: ", tostring(err), "\n")
end
exit(ok, true)
