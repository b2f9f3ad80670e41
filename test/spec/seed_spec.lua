-- The two examples that the first README of a module of this kind had: a thread adds to a state that the
-- main program made, and two threads that talk by queues take turns in one. With each library of threads
-- that is installed, and with mtmsg's buffers or with states as queues.
local mtstates = require("mtstates")

local function installed(name)
    local found, module = pcall(require, name)
    return found and module or nil
end

-- For each library: starts a thread that runs `body(...)`, a function without upvalues, with integers.
-- What it gives waits for the end.
local starters = {
    luv = function(luv, body, ...)
        local thread = luv.new_thread(function(code, ...)
            load(code, "=thread", "b")(math.tointeger((...)), math.tointeger((select(2, ...))))
        end, string.dump(body), ...)
        return function() assert(thread:join()) end
    end,
    ["cqueues.thread"] = function(cqueues, body, ...)
        local thread = cqueues.start(function(_, code, ...)
            load(code, "=thread", "b")(math.tointeger((...)), math.tointeger((select(2, ...))))
        end, string.dump(body), ...)
        return function() assert(thread:join()) end
    end,
    ["llthreads2.ex"] = function(llthreads, body, ...)
        local thread = llthreads.new(body, ...)
        thread:start()
        return function() assert(thread:join()) end
    end,
}

local function list_of_words(first)
    local list = { first }
    local commands = {
        add = function(word) list[#list + 1] = word end,
        get = function() return table.concat(list, " ") end,
    }
    return function(command, ...)
        return commands[command](...)
    end
end

-- A first-in, first-out queue as a state; takers try again.
local function queue()
    local messages = {}
    return function(command, ...)
        if command == "put" then
            messages[#messages + 1] = table.pack(...)
        elseif messages[1] then
            return true, table.unpack(table.remove(messages, 1))
        end
        return false
    end
end

local function add_in_thread(id)
    require("mtstates").state(id):call("add", "World")
end

-- Serves commands until it is told to finish. The queues are mtmsg's buffers, or states.
local function serve(input, output)
    local mt = require("mtstates")
    local found, mtmsg = pcall(require, "mtmsg")
    local function take()
        if found then return mtmsg.buffer(input):nextmsg() end
        local results
        repeat
            results = table.pack(select(2, mt.state(input):tcall(math.huge, "take")))
        until results[1]
        return table.unpack(results, 2, results.n)
    end
    local function put(...)
        if found then return mtmsg.buffer(output):addmsg(...) end
        mt.state(output):tcall(math.huge, "put", ...)
    end
    while true do
        local command, id, word = take()
        if command == "finish" then
            return put("finished")
        end
        mt.state(id):call(command, word)
        put("done")
    end
end

for name, start in pairs(starters) do
    local threads = installed(name)
    local check = threads and it or pending

    describe("with threads of " .. name, function()
        check("a thread adds to a state of the main program", function()
            local state = mtstates.newstate(list_of_words, "Hello")
            start(threads, add_in_thread, state:id())()
            assert.equal("Hello World", state:call("get"))
        end)

        check("threads that talk by queues take turns in a state", function()
            local mtmsg = installed("mtmsg")
            local state = mtstates.newstate(list_of_words)
            local input, output
            if mtmsg then
                input, output = mtmsg.newbuffer(), mtmsg.newbuffer()
            else
                input, output = mtstates.newstate(queue), mtstates.newstate(queue)
            end
            local function put(...)
                if mtmsg then return input:addmsg(...) end
                input:tcall(math.huge, "put", ...)
            end
            local function take()
                if mtmsg then return output:nextmsg() end
                local ok, message
                repeat
                    ok, message = select(2, output:tcall(math.huge, "take"))
                until ok
                return message
            end
            local wait = start(threads, serve, input:id(), output:id())
            put("add", state:id(), "Hello")
            put("add", state:id(), "World")
            assert.same({ "done", "done" }, { take(), take() })
            assert.equal("Hello World", state:call("get"))
            put("finish")
            assert.equal("finished", take())
            wait()
        end)
    end)
end
