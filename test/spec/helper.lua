-- busted runs this first. MTSTATES_TEST_GC says how the host collects: "generational", as the program
-- lua5.4 does by default, "incremental", or "stress", without a pause.
local how = os.getenv("MTSTATES_TEST_GC") or "generational"
collectgarbage(how == "stress" and "incremental" or how)
if how == "stress" then
    collectgarbage("setpause", 0)
    collectgarbage("setstepmul", 1000)
end
package.path = "test/spec/?.lua;" .. package.path
