package.cpath="/tmp/rb/?.so"
local mt=require"mtstates"
local s=mt.newstate(function()
  keep=setmetatable({}, {__gc=function()
     local m=require"mtstates"
     x=m.newstate("leaked", function() return function() return 42 end end)
  end})
  return function() end end)
s:close()
print(pcall(function() return mt.state("leaked"):call() end))
for i=1,3 do collectgarbage() end
print(pcall(function() return mt.state("leaked"):call() end))
