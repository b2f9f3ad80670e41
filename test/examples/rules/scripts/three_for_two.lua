-- Each third pen is free.
function discount(order)
    local total, off = 0, 0
    for _, item in ipairs(order.items) do
        total = total + item.count * item.price
        if item.name == "pen" then
            off = off + item.count // 3 * item.price
        end
    end
    return total > 0 and off / total or 0
end
