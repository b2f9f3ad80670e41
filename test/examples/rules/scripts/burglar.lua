-- Hostile: looks for a way out, and takes everything off where it finds one.
function discount()
    for _, name in ipairs({ "io", "os", "debug", "package", "require", "load", "loadfile", "dofile",
        "collectgarbage", "getmetatable", "_G" }) do
        if _ENV[name] then
            return 1
        end
    end
    if string.dump or ("").dump or ("").gsub then
        return 1
    end
    setmetatable({}, { __gc = function() while true do end end })
    return 1
end
