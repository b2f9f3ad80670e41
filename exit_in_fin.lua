package.cpath="/tmp/rb/?.so"
local mt=require"mtstates"
local how = arg[1]
if how=="close" then
 local s=mt.newstate(function() keep=setmetatable({}, {__gc=function() print"fin" os.exit(7,true) end}) return function() end end)
 s:close()
elseif how=="false" then
 local s=mt.newstate(function() keep=setmetatable({}, {__gc=function() print"fin" os.exit(7,false) end}) return function() end end)
 s:close()
elseif how=="two" then
 local s=mt.newstate(function() a=setmetatable({}, {__gc=function() print"first made" end})
   keep=setmetatable({}, {__gc=function() print"fin" os.exit(7,true) end})
   b=setmetatable({}, {__gc=function() print"last made" end})
   return function() end end)
 s:close()
end
print("still here after os.exit")
