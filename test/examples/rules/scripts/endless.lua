-- Hostile: never ends, and catches what would end it.
function discount()
    while true do
        pcall(function()
            local _ <close> = setmetatable({}, { __close = function() while true do end end })
            coroutine.wrap(function() while true do end end)()
        end)
    end
end
