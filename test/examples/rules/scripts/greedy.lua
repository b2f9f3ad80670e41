-- Hostile: takes all the memory that it can get.
local hoard = {}

function discount()
    while true do
        hoard[#hoard + 1] = ("x"):rep(1000) .. #hoard
    end
end
