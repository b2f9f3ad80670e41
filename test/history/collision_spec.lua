-- Names come from users: no choice of them makes states slow to find or to make.
local child = require("child")

-- Defines colliding(low, count): 2^count names, of 12 * count bytes each, that have one and the same
-- 64-bit FNV-1a hash from each start value whose low byte is `low`. A byte of a name changes only the
-- low byte of the value, which is then known; all else is multiplication by the prime, so that the
-- values of two names differ by a sum over their bytes, whatever the high bits. DIFFERENCES, found by
-- reduction of a lattice, is such a sum that is zero for 12 bytes; any two bytes that leave the low
-- bytes apart by what it says will do.
local GENERATOR = [=[
    local PRIME = 0x100000001b3
    local DIFFERENCES = { -1, -8, 2, 4, 10, 6, -14, -2, -18, -13, 15, -17 }

    local function pair_of_blocks(low)
        local first, second, a, b = {}, {}, low, low
        for i, difference in ipairs(DIFFERENCES) do
            local apart = difference + a - b
            if apart < -255 or apart > 255 then
                return pair_of_blocks(low) -- another choice of bytes will do
            end
            local x = math.random(math.max(0, apart), math.min(255, 255 + apart))
            first[i], second[i] = string.char(x ~ a), string.char(x - apart ~ b)
            a, b = x * PRIME & 255, (x - apart) * PRIME & 255
        end
        assert(a == b)
        return table.concat(first), table.concat(second), a
    end

    local function fnv(text, hash)
        for i = 1, #text do
            hash = (hash ~ text:byte(i)) * PRIME
        end
        return hash
    end

    local function colliding(low, count)
        local names, at = { "" }, low
        for _ = 1, count do
            local first, second, longer = nil, nil, {}
            first, second, at = pair_of_blocks(at)
            for _, name in ipairs(names) do
                longer[#longer + 1] = name .. first
                longer[#longer + 1] = name .. second
            end
            names = longer
        end
        local start = math.random(0) & ~255 | low
        for i = 1, #names, 97 do
            assert(fnv(names[i], start) == fnv(names[1], start))
        end
        return names
    end
]=]

describe("names that collide in 64-bit FNV-1a, whatever its seed,", function()
    it("are found and taken as fast as others", function()
        local output = child.run(GENERATOR .. ([=[
            local mt = require("mtstates")
            local COUNT = %d
            collectgarbage("incremental")

            -- Seconds for one making and one look-up, with states of all these names alive.
            local function costs(names)
                local states = {}
                collectgarbage()
                collectgarbage("stop")
                local start = os.clock()
                for i, name in ipairs(names) do
                    states[i] = mt.newstate(name, false, "return function() end")
                end
                local made = os.clock()
                for _, name in ipairs(names) do
                    mt.state(name)
                end
                local found = os.clock()
                for _, state in ipairs(states) do
                    state:close()
                end
                collectgarbage("restart")
                return (made - start) / #names, (found - made) / #names
            end

            local ordinary = {}
            for i = 1, 1 << COUNT do
                ordinary[i] = ("x"):rep(12 * COUNT - 6) .. ("%%06d"):format(i)
            end
            costs(ordinary)
            local make, find = costs(ordinary)

            -- The seed was an address; whichever of 8 bytes it stands at, one of these has its low byte.
            local slowest_make, slowest_find = 0, 0
            for low = 0, 255, 8 do
                local names = colliding(0x25 ~ low, COUNT)
                local makes, finds = costs(names)
                if makes > 3 * make or finds > 3 * find then
                    local more_makes, more_finds = costs(names)
                    makes, finds = math.min(makes, more_makes), math.min(finds, more_finds)
                end
                slowest_make, slowest_find = math.max(slowest_make, makes), math.max(slowest_find, finds)
            end
            print(("make: %%.2f us, at worst %%.2f us; look-up: %%.2f us, at worst %%.2f us"):format(
                1e6 * make, 1e6 * slowest_make, 1e6 * find, 1e6 * slowest_find))
            print((slowest_make > 3 * make or slowest_find > 3 * find) and "SLOWER" or "as fast")
        ]=]):format(os.getenv("MTSTATES_TEST_SECONDS") and 14 or 12))
        assert.matches("as fast\n%[exit 0%]$", output)
    end)
end)

describe("tables that are kept for their addresses", function()
    -- For a quarter of the places of the table that packing finds them in, if it hashes by Knuth's
    -- multiplier: such took 6 s.
    it("cross as fast as others", function()
        local output = child.run([=[
            local mt = require("mtstates")
            local state = mt.newstate(function()
                local PLACES = 1 << 18
                local alike, others = {}, {}
                while #alike < PLACES // 2 - 2 do
                    local t = {}
                    local address = tonumber(tostring(t):match("0x%x+"))
                    local place = address * 0x9E3779B97F4A7C15 >> 32 & PLACES - 1
                    local list = place < PLACES // 4 and alike or others
                    list[#list + 1] = t
                end
                table.move(others, 1, #alike, 1, others)
                for i = #alike + 1, #others do
                    others[i] = nil
                end
                return function(wants_alike)
                    return wants_alike and alike or others
                end
            end)
            local function least_seconds(wants_alike)
                local least = math.huge
                for _ = 1, 5 do
                    collectgarbage()
                    local start = os.clock()
                    state:call(wants_alike)
                    least = math.min(least, os.clock() - start)
                end
                return least
            end
            local alike, others = least_seconds(true), least_seconds(false)
            print(("%.3f s, others %.3f s"):format(alike, others))
            print(alike > 3 * others and "SLOWER" or "as fast")
        ]=])
        assert.matches("as fast\n%[exit 0%]$", output)
    end)
end)
