-- What the jobs do. Runs in the members of the pool.
local tasks = {}

local function integer(text)
    return math.tointeger(tonumber(text)) or error("no integer: " .. text, 0)
end

-- The prime factors, by division: up to as many steps as the root of the number.
function tasks.factor(text)
    local rest, divisor, factors = integer(text), 2, {}
    while divisor * divisor <= rest do
        if rest % divisor == 0 then
            factors[#factors + 1] = divisor
            rest = rest // divisor
        else
            divisor = divisor + 1
        end
    end
    factors[#factors + 1] = rest
    return table.concat(factors, " ")
end

-- How many primes there are up to that number, by a sieve, which takes memory.
function tasks.primes(text)
    local last, composite, count = integer(text), {}, 0
    for i = 1, last do
        composite[i] = false
    end
    for i = 2, last do
        if not composite[i] then
            count = count + 1
            for multiple = i * i, last, i do
                composite[multiple] = true
            end
        end
    end
    return tostring(count)
end

return function(task)
    local name, argument = task:match("^(%a+) (.*)$")
    local run = tasks[name] or error("no such task: " .. task, 0)
    return run(argument)
end
