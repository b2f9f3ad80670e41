-- Counts the words of many files by luv threads with a pool of states, each of which keeps the counts of
-- the files that it was given, and checks the result against a plain count in one thread.
--
--     lua5.4 wordcount.lua [--threads N] [--states M] [--profile FILE] [FILE or FOLDER ...]
--
-- --profile writes where the time went inside the states, in the format that the file's name tells.
-- Needs mtstates and luv on package.cpath. Exit status 0: the counts agree.
local here = arg[0]:match("^(.*)/[^/]*$") or "."
package.path = here .. "/?.lua;" .. here .. "/../?.lua;" .. package.path

local command_line = require("command_line")
local mtstates = require("mtstates")
local uv = require("luv")
local words = require("words")

local DEFAULT_PATHS = { "/usr/share/common-licenses", "/usr/share/doc" }
local MOST_FREQUENT = 10

local PROGRAM = {
    name = "wordcount",
    usage = "[--threads N] [--states M] [--profile FILE] [FILE or FOLDER ...]",
    numbers = {
        threads = { default = uv.available_parallelism() + 1, most = 200 },
        states = { default = 16, most = 200 },
    },
    files = { profile = true },
}

local function parse(arguments)
    local options = command_line.parse(PROGRAM, arguments)
    if #options.paths == 0 then
        for _, path in ipairs(DEFAULT_PATHS) do
            if uv.fs_stat(path) then
                table.insert(options.paths, path)
            end
        end
    end
    return options
end

-- Appends the files at and below `path`; what cannot be listed goes to `unreadable`.
local function collect(path, files, unreadable)
    local stat, message = uv.fs_stat(path)
    if not stat then
        table.insert(unreadable, message)
    elseif stat.type == "directory" then
        local entries, why = uv.fs_scandir(path)
        if not entries then
            table.insert(unreadable, why)
            return
        end
        local names = {}
        for name in uv.fs_scandir_next, entries do
            table.insert(names, name)
        end
        table.sort(names)
        for _, name in ipairs(names) do
            local below = path:gsub("/$", "") .. "/" .. name
            local kind = uv.fs_lstat(below)
            if not (kind and kind.type == "link") then -- what a link names is counted where it is
                collect(below, files, unreadable)
            end
        end
    elseif stat.type == "file" and not path:match("%.gz$") then
        table.insert(files, path)
    end
end

-- A state that hands out the paths, one per call, and keeps what could not be read.
local function make_queue(files)
    return mtstates.newstate("wordcount queue", function(paths)
        local given, finished, unreadable = 0, 0, {}
        local commands = {}
        function commands.next(message)
            given = given + 1
            table.insert(unreadable, message)
            return paths[given]
        end
        function commands.finished()
            finished = finished + 1
        end
        function commands.progress()
            return math.min(given, #paths), finished
        end
        function commands.unreadable()
            return unreadable
        end
        return function(command, ...)
            return commands[command](...)
        end
    end, files)
end

-- States that count: called with a path each adds that file's words to what it has, and returns why it
-- could not be read; called without, it returns its counts.
local function make_pool(size)
    return mtstates.newpool({ name = "wordcount", size = size, min = 1 }, function()
        local words = require("words") -- luacheck: ignore
        local counts = {}
        return function(path)
            if not path then
                return counts
            end
            local text, message = words.read(path)
            words.count(text or "", counts)
            return message
        end
    end)
end

local function draw_progress(done, of)
    local width = 40
    local filled = of > 0 and done * width // of or width
    io.stderr:write(("\r[%s%s] %d of %d files"):format(("#"):rep(filled), (" "):rep(width - filled),
        done, of))
end

-- Runs the threads to their end, with a progress bar on a terminal. Returns the seconds it took.
local function run_threads(options, queue, pool, file_count)
    local threads = {}
    local start = uv.hrtime()
    for i = 1, options.threads do
        threads[i] = assert(uv.new_thread(function(path, cpath, queue_id, pool_id)
            package.path, package.cpath = path, cpath
            require("worker").run(queue_id, pool_id)
        end, package.path, package.cpath, queue:id(), pool:id()))
    end
    local shows_progress = uv.guess_handle(2) == "tty"
    repeat
        uv.sleep(20)
        local _, done, finished = queue:tcall(math.huge, "progress")
        if shows_progress then
            draw_progress(done, file_count)
        end
    until finished == options.threads
    for _, thread in ipairs(threads) do
        thread:join()
    end
    if shows_progress then
        io.stderr:write("\n")
    end
    return (uv.hrtime() - start) / 1e9
end

local function merged_index(pool)
    local index, total = {}, 0
    for place = 1, #pool do
        local member = pool:state(place)
        for word, count in pairs(member and member:call() or {}) do
            index[word] = (index[word] or 0) + count
            total = total + count
        end
    end
    return index, total
end

local function plain_index(files)
    local index, total = {}, 0
    for _, path in ipairs(files) do
        total = total + words.count(words.read(path) or "", index)
    end
    return index, total
end

local function count_keys(t)
    local count = 0
    for _ in pairs(t) do
        count = count + 1
    end
    return count
end

local function same_index(a, b)
    for word, count in pairs(a) do
        if b[word] ~= count then
            return false
        end
    end
    return count_keys(a) == count_keys(b)
end

local function print_most_frequent(index)
    local ranking = {}
    for word in pairs(index) do
        table.insert(ranking, word)
    end
    table.sort(ranking, function(a, b)
        return index[a] > index[b] or index[a] == index[b] and a < b
    end)
    for i = 1, math.min(MOST_FREQUENT, #ranking) do
        print(("%9d  %s"):format(index[ranking[i]], ranking[i]))
    end
end

local options = parse(arg)
local files, unreadable = {}, {}
for _, path in ipairs(options.paths) do
    collect(path, files, unreadable)
end
local queue, pool = make_queue(files), make_pool(options.states)
print(("%d files, %d threads, a pool of up to %d states"):format(#files, options.threads, #pool))
if options.profile then
    mtstates.profile.start({ interval = 0.001 })
end
local seconds = run_threads(options, queue, pool, #files)
if options.profile then
    mtstates.profile.stop():write(options.profile)
end
local not_read = queue:call("unreadable")
table.move(not_read, 1, #not_read, #unreadable + 1, unreadable)
for _, message in ipairs(unreadable) do
    print("skipped " .. message)
end
local index, total = merged_index(pool)
print_most_frequent(index)
print(("%d words, %d different, in %.2f s by %d states"):format(total, count_keys(index), seconds,
    pool:stats().made))

local plain, plain_total = plain_index(files)
if plain_total ~= total or not same_index(plain, index) then
    print("DIFFERENT from a plain count, which finds " .. plain_total .. " words")
    os.exit(1)
end
print("the same as a plain count in one thread")
