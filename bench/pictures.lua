-- Draws bench/pictures/*.svg from the results of the whole suite.
--
--     lua5.4 bench/pictures.lua results.json
package.path = arg[0]:gsub("[^/]*$", "?.lua;") .. package.path

local folder = arg[0]:gsub("[^/]*$", "pictures/")
local find, context = require("json").load(arg[1])

local COLORS = { mtstates = "#0072b2", baseline = "#d55e00", floor = "#999999" }

-- A curve: its title, its color, and its points as "x y" lines.
local function curve(title, color, points)
    return { title = title, color = color, points = table.concat(points, "\n") }
end

local function scaling_curve(family, module)
    local points = {}
    for _, threads in ipairs({ 1, 2, 4, 8, 16 }) do
        points[#points + 1] = ("%d %g"):format(threads, find(family .. "/" .. module, threads) / 1e6)
    end
    return curve(module, COLORS[module], points)
end

local function size_curve(title, color, family, most)
    local points, count = {}, 1
    while count <= most do
        points[#points + 1] = ("%d %g"):format(count, 1e9 / find(family .. "/" .. count))
        count = count * 10
    end
    return curve(title, color, points)
end

local function draw(name, options, curves)
    local gnuplot = assert(io.popen("gnuplot", "w"))
    gnuplot:write(([[
set terminal svg size 480,320 font "sans-serif,12" background "white"
set output "%s%s.svg"
set key outside bottom center horizontal
set pointsize 0.6
set grid linecolor "#dddddd"
set yrange [0:*]
%s
]]):format(folder, name, options))
    local plots = {}
    for i, c in ipairs(curves) do
        gnuplot:write(("$curve%d << end\n%s\nend\n"):format(i, c.points))
        plots[i] = ('$curve%d with linespoints linewidth 2 pointtype 7 linecolor "%s" title "%s"')
            :format(i, c.color, c.title)
    end
    gnuplot:write("plot " .. table.concat(plots, ", ") .. "\n")
    assert(gnuplot:close())
    print(folder .. name .. ".svg")
end

local THREADS = ([[
set title "%%s (%d cores)"
set xlabel "threads"
set ylabel "millions per second"
set logscale x 2
set xrange [0.9:18]
]]):format(context.num_cpus)

assert(os.execute("mkdir -p " .. folder))
for name, picture in pairs({
    calls = { "call (), each thread a state of its own", "call, own states", "floor" },
    ["look-ups"] = { "look-up by id, all threads the same state", "look-up, same state", "floor" },
    refusals = { "refused call, in a pcall", "refused call" },
}) do
    local title, family, floor = table.unpack(picture)
    draw(name, THREADS:format(title), {
        scaling_curve(family, "mtstates"), scaling_curve(family, "baseline"),
        floor and scaling_curve(family, floor),
    })
end
draw("registry", [[
set title "registry: a look-up by id, without Lua"
set xlabel "registered ids"
set ylabel "nanoseconds"
set logscale x
set format x "%.0s%c"
set xrange [0.9:1100000]
]], {
    size_curve("one id", COLORS.mtstates, "registry, one id", 1000000),
    size_curve("random ids", COLORS.baseline, "registry, random ids", 1000000),
})
draw("states", [[
set title "look-ups from Lua, all states in turn"
set xlabel "living states"
set ylabel "nanoseconds"
set logscale xy
set format x "%.0s%c"
set yrange [100:*]
set xrange [0.9:110000]
]], {
    size_curve("by id", COLORS.mtstates, "look-up by id among/mtstates", 100000),
    size_curve("by name", "#009e73", "look-up by name among/mtstates", 100000),
    size_curve("baseline, by id", COLORS.baseline, "look-up by id among/baseline", 1000),
    size_curve("baseline, by name", "#cc79a7", "look-up by name among/baseline", 1000),
})
