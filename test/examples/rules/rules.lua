-- A shop where strangers' scripts give discounts: each script of a folder lives in a state of its own, with
-- little memory, little time, and nothing to reach for. Some are hostile; the others do not notice.
--
--     lua5.4 rules.lua [--threads N] [--orders N] [FOLDER]
--
-- Needs mtstates and luv on package.cpath. Prints what became of each script, and what it used; seconds are
-- those of all its calls, with waiting. Exit status 0: each order got an answer from each script that was not
-- switched off.
local here = arg[0]:match("^(.*)/[^/]*$") or "."
package.path = here .. "/?.lua;" .. here .. "/../?.lua;" .. package.path

local command_line = require("command_line")
local mtstates = require("mtstates")
local uv = require("luv")

local MEMORY_LIMIT = 1000000 -- bytes
local TIME_LIMIT = 0.1 -- seconds
local STRIKES = 3 -- a script that ran into its limits so often is switched off

local PROGRAM = {
    name = "rules",
    usage = "[--threads N] [--orders N] [FOLDER]",
    numbers = {
        threads = { default = uv.available_parallelism() + 1, most = 1000000 },
        orders = { default = 1000, most = 1000000 },
    },
}

-- The setup of each script's state. The script is text, never a binary chunk, and defines discount(order).
local function setup(code, name, open_sandbox)
    local environment = open_sandbox()
    assert(load(code, "=" .. name, "t", environment))()
    return function(order)
        local part = environment.discount(order)
        if type(part) ~= "number" or part < 0 or part > 1 then
            error("discount gave " .. tostring(part) .. ", not a number from 0 to 1", 0)
        end
        return part
    end
end

-- The states by the scripts' names; what cannot be loaded is told, and left out.
local function open_scripts(folder)
    local sandbox = dofile(here .. "/sandbox.lua")
    local scripts, names = {}, {}
    local entries = uv.fs_scandir(folder) or command_line.refuse(PROGRAM, "cannot read " .. folder)
    for name in uv.fs_scandir_next, entries do
        if name:match("%.lua$") then
            names[#names + 1] = name
        end
    end
    table.sort(names)
    for _, name in ipairs(names) do
        local file <close> = assert(io.open(folder .. "/" .. name))
        local options = { name = name, libs = false, inherit = false,
            memory_limit = MEMORY_LIMIT, time_limit = TIME_LIMIT }
        local ok, state = pcall(mtstates.newstate, options, setup, file:read("a"), name, sandbox)
        if ok then
            scripts[#scripts + 1] = state
        else
            print(name .. " is left out: " .. state:match("[^\n]*"))
        end
    end
    return scripts
end

-- A state that hands out numbers of orders, and keeps what became of each script's calls.
local function open_ledger(orders, strikes_allowed)
    return mtstates.newstate("ledger", function(count, most_strikes)
        local next_order, records = 0, {}
        local command = {}
        function command.order()
            next_order = next_order + 1
            return next_order <= count and next_order or nil
        end
        function command.note(name, outcome, seconds, why)
            local r = records[name] or { strikes = 0, seconds = 0, discounted = 0, error = 0, time_limit = 0,
                out_of_memory = 0 }
            records[name] = r
            r.why = r.why or why
            r[outcome] = r[outcome] + 1
            r.seconds = r.seconds + seconds
            if outcome == "time_limit" or outcome == "out_of_memory" then
                r.strikes = r.strikes + 1
            end
            return r.strikes >= most_strikes
        end
        function command.records()
            return records
        end
        return function(what, ...)
            return command[what](...)
        end
    end, orders, strikes_allowed)
end

-- A thread: gives each of its orders to each script that is not switched off. A script that another thread
-- is using is waited for: at most twice its time limit for each thread in front.
local function work(ledger_id, names)
    local mt, luv = require("mtstates"), require("luv")
    local ledger, off = mt.state(ledger_id), {}

    local function order_of(number)
        local things = { "pen", "ink", "paper" }
        local order = { customer = "customer " .. number % 7, items = {} }
        for i = 1, 1 + number % 3 do
            order.items[i] = { name = things[i], count = number % (4 * i) + 1, price = 1.5 * i }
        end
        return order
    end

    local function outcome_of(ok, message)
        return ok and "discounted"
            or message:find(mt.error.time_limit, 1, true) and "time_limit"
            or message:find(mt.error.out_of_memory, 1, true) and "out_of_memory"
            or "error"
    end

    while true do
        local _, number = ledger:tcall(math.huge, "order")
        if not number then
            return
        end
        local order = order_of(number)
        for name in names:gmatch("[^\n]+") do
            if not off[name] then
                local script = mt.state(name)
                local begun = luv.hrtime()
                local ok, message = pcall(script.tcall, script, math.huge, order)
                local seconds = (luv.hrtime() - begun) / 1e9
                local outcome, why = outcome_of(ok, message), not ok and message:match("[^\n]*") or nil
                _, off[name] = ledger:tcall(math.huge, "note", name, outcome, seconds, why)
            end
        end
    end
end

local function report(scripts, records, options)
    print(("%-20s%12s%8s%12s%15s%12s%10s"):format("script", "discounted", "errors", "time_limit",
        "out_of_memory", "peak bytes", "seconds"))
    local is_complete, reasons = true, {}
    for _, script in ipairs(scripts) do
        local r = records[script:name()]
        local _, peak = script:memory()
        local is_off = r.strikes >= STRIKES
        print(("%-20s%12d%8d%12d%15d%12d%10.3f%s"):format(script:name(), r.discounted, r.error, r.time_limit,
            r.out_of_memory, peak, r.seconds, is_off and "  switched off" or ""))
        is_complete = is_complete and peak <= MEMORY_LIMIT
            and (is_off or r.discounted + r.error + r.strikes == options.orders)
        reasons[#reasons + 1] = r.why
    end
    print("\nThe first error of each:\n" .. table.concat(reasons, "\n") .. "\n")
    return is_complete
end

local options = command_line.parse(PROGRAM, arg)
local scripts = open_scripts(options.paths[#options.paths] or here .. "/scripts")
local ledger = open_ledger(options.orders, STRIKES)
local names, threads = {}, {}
for i, script in ipairs(scripts) do
    names[i] = script:name()
end
for i = 1, options.threads do
    threads[i] = uv.new_thread(work, ledger:id(), table.concat(names, "\n"))
end
for _, thread in ipairs(threads) do
    thread:join()
end
local is_complete = report(scripts, ledger:call("records"), options)
print(is_complete and "each order got its answers" or "ANSWERS ARE MISSING")
os.exit(is_complete, true)
