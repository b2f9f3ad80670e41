-- Random values to send between states, and whether two of them are the same: graphs of tables with
-- sharing, cycles and all that can be a key.
local math, string, table = require("math"), require("string"), require("table")

local graphs = {}

local NUMBERS = { 0, 1, -1, 2, 3, 255, 1 << 31, 1 << 53, math.maxinteger, math.mininteger, 0.0, -0.0, 1.0,
    0.5, 2.0 ^ 53, 2.0 ^ 63, -2.0 ^ 63, 1e300, 5e-324, math.huge, -math.huge, 0 / 0 }
local LENGTHS = { 0, 1, 2, 7, 39, 40, 41, 254, 255, 256, 1000 }
local LONG = { 65536, 100000 }
local FUNCTIONS = 4

local function choose(list)
    return list[math.random(#list)]
end

local function random_string(is_long)
    local length = choose(is_long and math.random(50) == 1 and LONG or LENGTHS)
    return string.rep(string.char(math.random(0, 255)), length // 2)
        .. string.rep(choose({ "a", "b", "\0" }), length - length // 2)
end

local function random_scalar()
    local kind = math.random(8)
    if kind == 1 then
        return math.random(2) == 1
    elseif kind <= 3 then
        return math.random(-3, 12)
    elseif kind == 4 then
        return choose(NUMBERS)
    elseif kind == 5 then
        return math.random() * 100
    end
    return kind <= 7 and "key " .. math.random(20) or random_string(true)
end

-- A graph of at most `size` tables, drawn from math.random: the same after the same seed. `objects`,
-- a list: what else may be in it. A table that is a key somewhere has a field "label" of its own, so
-- that it can be told from others.
function graphs.random(size, objects)
    local tables, lengths, others = {}, {}, { table.unpack(objects or {}) }
    for i = 1, FUNCTIONS do
        others[#others + 1] = load(string.format("local n = %d return n, x, ...", i), "=graph")
    end
    for i = 1, math.random(size) do
        tables[i], lengths[i] = {}, 0
    end
    local function any()
        local kind = math.random(10)
        if kind <= 3 then
            return choose(tables)
        end
        return kind == 4 and choose(others) or random_scalar()
    end
    local function append(i, value)
        lengths[i] = lengths[i] + 1
        tables[i][lengths[i]] = value
    end
    local function set(t, key, value)
        if key == key and key ~= "label" then
            t[key] = value
            if type(key) == "table" then
                rawset(key, "label", rawget(key, "label") or math.random(0))
            end
        end
    end
    for i, t in ipairs(tables) do
        if i > 1 and math.random(3) > 1 then
            append(math.random(i - 1), t)
        end
        for _ = 1, math.random(3) == 1 and math.random(0, 20) or 0 do
            append(i, any())
        end
        for _ = 1, math.random(3) == 1 and math.random(0, 8) or 0 do
            set(t, any(), any())
        end
        for _ = 1, math.random(4) == 1 and math.random(4) or 0 do -- holes
            t[math.random(12)], t.n = nil, 12
        end
    end
    return tables[1]
end

-- A chain of `length` tables, each in the one before.
function graphs.chain(length)
    local last
    for i = length, 1, -1 do
        last = { i, next = last }
    end
    return last
end

local function mark_of(object)
    if type(object) == "table" then
        return object.label
    end
    return type(object) == "function" and string.dump(object) or tostring(object)
end

local function is_object(value)
    local kind = type(value)
    return kind == "table" or kind == "function" or kind == "userdata"
end

-- The keys of `t` that are objects, by what tells them apart.
local function object_keys(t)
    local found = {}
    for key in next, t do
        if is_object(key) then
            found[mark_of(key)] = key
        end
    end
    return found
end

local function same_scalar(a, b)
    if math.type(a) == "float" and math.type(b) == "float" then
        return string.pack("d", a) == string.pack("d", b)
    end
    return math.type(a) == math.type(b) and a == b
end

-- Whether two values are the same but for identity; if not, the kind of difference. One state has at most
-- one handle among the keys of a table.
function graphs.same(a, b)
    local partner, taken, pairs_left = {}, {}, {}

    local function meet(x, y)
        if type(x) ~= type(y) then
            return "types"
        elseif type(x) == "userdata" then
            return x ~= y and "userdata" or nil
        elseif type(x) ~= "table" and type(x) ~= "function" then
            return not same_scalar(x, y) and "scalars" or nil
        elseif partner[x] or taken[y] then
            return (partner[x] ~= y or taken[y] ~= x) and "sharing" or nil
        end
        partner[x], taken[y] = y, x
        if type(x) == "function" then
            return string.dump(x) ~= string.dump(y) and "functions" or nil
        end
        pairs_left[#pairs_left + 1] = x
    end

    local function entries(x, y)
        local objects, count = object_keys(y), 0
        for key, value in next, x do
            local other = key
            if is_object(key) then
                other = objects[mark_of(key)]
                local difference = meet(key, other)
                if difference then
                    return "keys: " .. difference
                end
            end
            local difference = meet(value, y[other])
            if difference then
                return difference
            end
            count = count + 1
        end
        for _ in next, y do
            count = count - 1
        end
        return count ~= 0 and "counts" or nil
    end

    local difference = meet(a, b)
    while not difference and #pairs_left > 0 do
        local x = table.remove(pairs_left)
        difference = entries(x, partner[x])
    end
    return difference == nil, difference
end

return graphs
