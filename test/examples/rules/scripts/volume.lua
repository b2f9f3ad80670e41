-- Ten percent off where somebody orders much.
function discount(order)
    local pieces = 0
    for _, item in ipairs(order.items) do
        pieces = pieces + item.count
    end
    return pieces >= 10 and 0.10 or 0
end
