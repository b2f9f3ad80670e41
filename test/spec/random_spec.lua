local mtstates = require("mtstates")
local support = require("support")

-- Fails if a sequence was seen before.
local function all_different()
    local seen = {}
    return function(sequence)
        assert.is_nil(seen[sequence], sequence)
        seen[sequence] = true
    end
end

-- A setup whose callback gives the first random numbers that the state draws.
local function drawing()
    local math = require("math")
    local function draw()
        return ("%d %d %d"):format(math.random(0), math.random(0), math.random(0))
    end
    local string = require("string") -- for the method
    local drawn = string and draw()
    return function()
        return drawn
    end
end

describe("the random numbers of a state", function()
    for _, libs in ipairs({ true, false }) do
        it("repeat those of no state made before, libs=" .. tostring(libs), function()
            local check = all_different()
            local kept = {} -- some, so that some of the others have the address of an earlier one
            check(("%d %d %d"):format(math.random(0), math.random(0), math.random(0)))
            for i = 1, 200 do
                local state = mtstates.newstate({ libs = libs }, drawing)
                check(state:call())
                kept[i % 20 + 1] = state
            end
            assert.equal(20, #kept)
            for _ = 1, 200 do
                local state = mtstates.newstate({ libs = libs }, drawing)
                check(state:call())
                state:close()
            end
        end)
    end

    it("repeat those of no state that another thread makes", function()
        local check, threads = all_different(), {}
        for i = 1, 4 do
            threads[i] = support.thread(function(setup)
                local all = {}
                for _ = 1, 50 do
                    all[#all + 1] = require("mtstates").newstate(setup):call()
                end
                return table.concat(all, "\n")
            end, string.dump(drawing))
        end
        for _, thread in ipairs(threads) do
            local _, all = thread.join()
            for sequence in all:gmatch("[^\n]+") do
                check(sequence)
            end
        end
    end)

    it("repeat those of no other process", function()
        local child, check = require("child"), all_different()
        for _ = 1, 5 do
            check((child.run(([[
                io.write(require("mtstates").newstate(load(%q, "=drawing", "b")):call())
            ]]):format(string.dump(drawing)))))
        end
    end)

    it("are what a seed of the state's own says", function()
        local function seeded()
            math.randomseed(42)
            return function()
                return math.random(0), math.random(1, 1000000), math.random()
            end
        end
        assert.same({ mtstates.newstate(seeded):call() }, { mtstates.newstate(seeded):call() })
    end)
end)
