-- What both counts need: how a text becomes counts.
local words = {}

-- Adds the words of `text` to `counts`, in lower case; returns how many there were.
function words.count(text, counts)
    local total = 0
    for word in text:gmatch("%a+") do
        word = word:lower()
        counts[word] = (counts[word] or 0) + 1
        total = total + 1
    end
    return total
end

-- The text of a file, or nil and why not.
function words.read(path)
    local file, message = io.open(path, "rb")
    if not file then
        return nil, message
    end
    local text
    text, message = file:read("a")
    file:close()
    return text, message
end

return words
