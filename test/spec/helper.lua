-- busted runs this first. MTSTATES_TEST_GC=stress: the host collects all the time, too.
if os.getenv("MTSTATES_TEST_GC") == "stress" then
    collectgarbage("setpause", 0)
    collectgarbage("setstepmul", 1000)
end
package.path = "test/spec/?.lua;" .. package.path
