-- Not hostile, only wrong: some orders have no third item.
function discount(order)
    return order.items[3].price > 5 and 0.05 or 0
end
