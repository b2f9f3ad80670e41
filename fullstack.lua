package.cpath="/tmp/rb/?.so"
local mt=require"mtstates"
for n=999900,1000000,1 do
local ok,e=pcall(mt.newstate, nil, function(n)
  local m=require"mtstates"
  keep=m.newstate("leak"..n, function() return function() return 42 end end)
  local t={}
  keep2=setmetatable({},{__gc=function() io.write("") end})
  local f=function() end
  return f, table.unpack(t,1,n)
end, n)
local l=pcall(mt.state,"leak"..n)
if l then print(n, tostring(e):sub(1,100), "LEAKED") end
if n%10==0 then print(n,ok, tostring(e):sub(1,150)) end
end
