---@meta mtstates
-- The module's interface, for lua-language-server and for readers. Nothing here runs.
--
-- Values that cross between Lua states, by value and exactly:
--   nil, booleans, integers, floats, strings of any bytes, light userdata;
--   tables, by copy, raw (no metamethod runs), with any of these as keys and values, nested as deep as Lua's
--   stack allows; a table with a metatable only if that has a name: see mtstates.class;
--   Lua functions without upvalues but _ENV, which becomes the receiver's globals;
--   handles: an owning one arrives as an owning one, any other as one that does not own;
--   arrays of C numbers, of the module carray: by reference, the elements are the same; what reads and writes
--   them in several threads orders that, and no array's length or capacity changes while another one, perhaps
--   garbage by now, has its elements.
-- A table, function, handle or array that occurs twice among all values of one call, or within itself, does
-- so on the other side too; two calls make two copies.
-- A value that cannot cross is an error that names the place, as in "in field 'a.b[3]'".

---Lua states that any thread of the process can call.
---Every function may be called from any thread, each with its own host state.
---@class mtstates
---@field error mtstates.errors
---@field _VERSION string the version of the build, "major.minor.patch"
---@field _INFO string how it was built (Lua, ck, allocator, probes), and how states are made
local mtstates = {}

---Each field's value is its own full name, which is what errors of that kind begin with.
---@class mtstates.errors
---@field ambiguous_name string a look-up by name met two living states
---@field concurrent_access string call or close met a state busy in another thread, or close came from inside
---@field interrupted string raised inside a state by State:interrupt
---@field invoking_state string setup or callback raised an error: with the tracebacks inside and outside. If
--- values being closed raise more errors in one call, those from the eleventh on have none inside; nor has
--- the second where an interrupt(true) or a time limit ends the call
---@field object_closed string a handle whose state or pool is closed was used
---@field out_of_memory string memory or memory_limit ran out in making or calling a state; both stay usable
---@field state_result string setup gave no function, or a result cannot cross
---@field time_limit string raised inside a state when its time_limit was over
---@field unknown_object string no living state, or pool, has that id or name

---What crosses; see above.
---@alias mtstates.Value nil|boolean|number|string|lightuserdata|table|function|mtstates.State|mtstates.Pool
---|userdata

---A function with no upvalue but _ENV, or code as `load` takes it. Its first result is the callback, a Lua
---function.
---@alias mtstates.Setup string|fun(...): function, ...

---A name alone, or all options.
---@alias mtstates.Name string|mtstates.options

---@class mtstates.options
---@field name? string any bytes, at most 65535; several states may bear one name
---@field libs? boolean true (default): all standard libraries; false: base and package, others by require
---@field inherit? boolean true (default): package.path, package.cpath, and of package.preload the C functions
--- and the Lua functions with no upvalue but _ENV
---@field memory_limit? number bytes that Lua may allocate in the state, libraries included; nil: no limit.
--- At the limit Lua collects; if that is not enough, the code inside gets Lua's memory error, and the
--- caller out_of_memory with the limit; the state stays usable. Holds in setup, calls, coroutines and
--- finalizers. The limit is the arena's, which the memory comes from: what it has but cannot use counts too.
--- Not counted: what C modules allocate by themselves
---@field timing? boolean true: measure stays and waits, see mtstates.Counts; two readings of the clock a call
---@field time_limit? number seconds, up to 49 days, that one outermost stay may last: setup, or a call with
--- all that it calls; nil: no limit. Then `time_limit` is raised inside, in whatever state the thread is
--- running by then: once at first, so that pcall and `<close>` can clean up, and after as long again at every
--- operation until the stay ends. Never early; late by at most a quarter of the limit or 50 ms of Lua code
--- running, whichever is more. A C function is struck when it returns; finalizers and what runs inside a
--- debug hook are not struck. In steps of 1 ms

---@class mtstates.singleton_options: mtstates.options
---@field name string

---Makes a state and runs `setup(...)` in it, in this thread; returns when setup has.
---Takes `newstate([name|options,] [libs,] setup [, ...])`.
---@param name? mtstates.Name one lone string argument is code, not a name
---@param libs? boolean
---@param setup mtstates.Setup
---@param ... mtstates.Value for setup; they arrive before it runs, so no class can be among them
---@return mtstates.State handle owns the state
---@return mtstates.Value ... further results of setup
---Nobody, not even setup, finds the state before setup has returned.
---Raises invoking_state, state_result, out_of_memory, or an argument error.
---@overload fun(setup: mtstates.Setup, ...: mtstates.Value): mtstates.State, ...
---@overload fun(libs: boolean, setup: mtstates.Setup, ...: mtstates.Value): mtstates.State, ...
---@overload fun(name: mtstates.Name, setup: mtstates.Setup, ...: mtstates.Value): mtstates.State, ...
function mtstates.newstate(name, libs, setup, ...) end

---A handle that does not own; the same one again while this Lua state has it. Takes no lock; the cost depends
---neither on how many states live nor on how they are named.
---@param key integer|string id (a float with an integer value will do) or name
---@return mtstates.State handle
---Raises unknown_object, ambiguous_name, out_of_memory, or an argument error.
function mtstates.state(key) end

---Gives the living state of that name, or makes it as newstate does; blocks while another thread makes it.
---Further results of setup are dropped.
---@param name string|mtstates.singleton_options
---@param libs? boolean
---@param setup mtstates.Setup
---@param ... mtstates.Value for setup; looked at only when the state is made
---@return mtstates.State handle owns the state
---Raises ambiguous_name, what newstate raises, and an error when setup needs the same singleton.
---@overload fun(name: mtstates.Name, setup: mtstates.Setup, ...: mtstates.Value): mtstates.State
function mtstates.singleton(name, libs, setup, ...) end

---@class mtstates.recycle
---@field calls? integer 1 or more: calls that are not nested, through any handle
---@field seconds? number more than 0: its age when a thread leaves it
---@field bytes? integer 1 or more: what Lua has allocated in it when a thread leaves it

---@class mtstates.pool_options: mtstates.options
---@field size? integer most members, 1 to 4096; by default the number of CPUs that this process may use
---@field min? integer members made at once, 1 to `size`, which is the default
---@field recycle? mtstates.recycle when members are replaced; the last place at three quarters of these
--- calls and seconds, the first at all of them, the others in between, so that they do not go together

---Makes a pool of states, its members, each by `setup(...)` in the calling thread. The name is the pool's.
---@param options mtstates.pool_options
---@param setup mtstates.Setup as for newstate; results after the callback are dropped
---@param ... mtstates.Value for each setup
---@return mtstates.Pool handle owns the pool, which owns its members
---Raises what newstate raises, and then leaves nothing behind.
function mtstates.newpool(options, setup, ...) end

---A handle of a pool that does not own, like mtstates.state; names of pools and of states do not meet.
---Without an argument: the pool and the place of the member that this code runs in; nil elsewhere.
---@param key? integer|string
---@return mtstates.Pool|nil handle
---@return integer|nil place
---Raises unknown_object, ambiguous_name, out_of_memory, or an argument error.
function mtstates.pool(key) end

---@return integer|nil id of the state that this code runs in; nil in a host that mtstates did not make
function mtstates.id() end

---Like Lua's `type`, but gives a registered userdata's metatable name, here "mtstates.state".
---@param value any
---@return string
function mtstates.type(value) end

---Lets tables with that metatable cross: they arrive with the metatable that has the same name in the
---receiving Lua state. It is set last, so `__gc` sees whole tables. `__gc` runs for both copies, so do not
---name a metatable whose `__gc` gives back something that exists once. If the receiver has no such name, that
---is an error. For this Lua state only; each one, also each thread's own, needs a call. A name that is given
---again stands for the new metatable; tables with the old one still leave under it. A metatable that has two
---names leaves under the last.
---@param name string any bytes
---@param metatable table
---Raises Lua's memory error, or an argument error.
function mtstates.class(name, metatable) end

---Handles that do not own, of all states that live, in the order in which they were made.
---@return mtstates.State[]
function mtstates.states() end

---The same for pools.
---@return mtstates.Pool[]
function mtstates.pools() end

---Counts of the whole process. Holds a lock for about 0.1 us a state; threads that make or close states take
---it too, callers never do.
---@return mtstates.ProcessStats
function mtstates.stats() end

---All counts as text in Prometheus' format 0.0.4, for it to scrape: states in no pool together, each pool
---under its name, unnamed pools together. The last line is `# EOF`. Bytes in names that are not UTF-8 are
---written as `\xNN`. Any thread; takes the lock as mtstates.stats() does.
---@param options? {names?: boolean} names: true: each state in no pool under its name as well
---@return string text
function mtstates.metrics(options) end

---A sampling profiler of the Lua code that runs in states, in all threads of the process at once. Only one
---profile is taken at a time. While none is, the profiler costs nothing.
---
---Every `interval` seconds each thread that is inside a state is sent the signal that interrupts use, and at
---its next operation copies its stack: the coroutine that runs, those that resumed it, and the states around
---it, down to the host, whose own stack is not seen. If the thread leaves the state before there is an
---operation, the sample shows states only. What signals cannot stop, a C function or a finalizer, gets its
---time when it returns. All time counts, including waits in such a function, but not time outside states, nor
---finalizers of a state that is being closed.
---
---Not seen: a thread that blocks the signal, and code in coroutines that a C module resumes by itself, as
---cqueues' loop does: that counts as the C function's time. A C function that waits in poll, select, epoll or
---nanosleep may return early with EINTR, as after any signal; other waits are restarted. A count hook of the
---code's own may come an operation late, about once a sample.
---@class mtstates.profile
mtstates.profile = {}

---Begins a profile. Any thread, also from inside a state. A forked child has none.
---@param options? {interval?: number, depth?: integer, states?: (mtstates.State|mtstates.Pool)[]}
---interval: seconds from sample to sample, 0.001 to 1, 0.01 by default; depth: how many functions of a stack
---are shown, innermost first, 1 to 200, 64 by default; states: only what runs in these, and what that calls
---Raises an error when a profile is being taken already, out_of_memory, or an argument error.
function mtstates.profile.start(options) end

---Ends the profile. Any thread; waits for no other.
---@return mtstates.Profile
---Raises an error when no profile is being taken, and in a finalizer.
function mtstates.profile.stop() end

---A finished profile: for each thread, its distinct stacks and how long it was in each. Their order is not
---kept, so memory does not grow with time.
---@class mtstates.Profile
local Profile = {}

---A line for each stack, with microseconds, as flamegraph.pl and many others read it: states or pools, then
---functions, outermost first, with semicolons between.
---@return string
function Profile:folded() end

---JSON for speedscope.app, with a profile for each thread.
---@return string
function Profile:speedscope() end

---A protocol buffer for Google's pprof, not compressed; the thread is a label.
---@return string
function Profile:pprof() end

---A table, for a terminal, of the functions with the most time: their own, and with what they called.
---@param rows? integer 20 by default
---@return string
function Profile:top(rows) end

---Writes a file: folded stacks if its name ends in .folded or .txt, .json for speedscope, .pb for pprof.
---@param path string
---Raises the reason if it could not be written, or an argument error for any other name.
function Profile:write(path) end

---@return mtstates.ProfileStats
function Profile:stats() end

---@class mtstates.ProfileStats
---@field samples integer how many were taken
---@field lost integer samples for which there was no memory
---@field threads integer how many were seen inside states
---@field seconds number from start to stop
---@field interval number
---@field depth integer

---A handle. `h(...)` is `h:call(...)`. `h1 == h2` when both refer to one state, but they are two different
---keys of a table. tostring shows name and id. `local h <close>` gives up what the handle owns at the end of
---the block.
---Every method but close raises object_closed when the state is closed.
---@class mtstates.State
---@overload fun(...): ...
local State = {}

---@return integer id unique in the process, never used again, below 2^53
function State:id() end

---@return string|nil
function State:name() end

---Runs the callback. Never waits: a state busy in another thread raises concurrent_access at once.
---A call from the thread that is already inside nests.
---@param ... mtstates.Value
---@return mtstates.Value ...
---Raises concurrent_access, invoking_state (also for time_limit), state_result, out_of_memory, object_closed,
---or an argument error.
---Names of inner errors may follow in the message: match at its beginning.
function State:call(...) end

---Like call, but waits for the state to be free. It sleeps meanwhile; whoever has waited longest is first.
---@param timeout number seconds on the monotonic clock; 0 or less: not at all; math.huge: for ever
---@param ... mtstates.Value
---@return boolean in_time false: the time was up
---@return mtstates.Value ...
---Raises what call does, except concurrent_access.
function State:tcall(timeout, ...) end

---Raises `interrupted` inside the state, within 50 ms of Lua code that runs there, or else at the next call.
---Does not wait for that. Any thread, also from inside.
---None is lost, whatever the code does with pcall, xpcall, coroutines, `<close>` and debug hooks; but
---finalizers and what runs inside a debug hook are out of reach. A C function is interrupted when it
---returns.
---@param flag? boolean nil: once; true: at every operation from now on, and no C function begins but one that
--- closes a userdata, such as a file; false: no more
---Raises object_closed, or an argument error.
function State:interrupt(flag) end

---Closes the state; its finalizers run in this thread. Does nothing to a closed state.
---If a finalizer of a state that is being closed calls this, the finalizers run after those of that state.
---Raises concurrent_access when the state is busy, also when called from inside.
function State:close() end

---What Lua has allocated in the state, also while another thread is inside.
---@return integer used bytes, now
---@return integer peak bytes, the most so far
---@return integer|nil limit bytes: its memory_limit
function State:memory() end

---@return boolean owns whether this handle keeps the state alive
function State:isowner() end

---From any thread, also when busy; stops nobody.
---@return mtstates.StateStats
function State:stats() end

---A handle of a pool. `p(...)` is `p:call(...)`, `#p` is its size; `==`, tostring and `<close>` as for
---handles of states. When the last owning handle goes, the pool is closed. Every method but close raises
---object_closed when the pool is closed.
---@class mtstates.Pool
---@overload fun(...): ...
local Pool = {}

---@return integer id unique in the process, also among states
function Pool:id() end

---@return string|nil
function Pool:name() end

---Runs the callback of an idle member: the one that this handle last used, if that is idle. If all are busy,
---makes one more in this thread where `size` allows it; else nests in a member that this thread is inside;
---else raises concurrent_access at once. An idle member takes no lock and no wait.
---@param ... mtstates.Value
---@return mtstates.Value ...
---Raises what calls of states raise, and what a setup that ran for this call raises.
function Pool:call(...) end

---The same, but waits up to `timeout` seconds for a member; no waiter starves.
---@param timeout number seconds; 0 or less: not at all; math.huge: for ever
---@param ... mtstates.Value
---@return boolean had_one false: the time was up
---@return mtstates.Value ...
function Pool:tcall(timeout, ...) end

---Runs the callback once in every member that there is: idle ones first, then the others as threads leave
---them, up to `timeout` seconds in all. An error in one does not stop the others, and is raised at the end.
---@param timeout number
---@param ... mtstates.Value
---@return integer reached
---@return integer missed
function Pool:broadcast(timeout, ...) end

---A handle, not owning, of the member in a place: for callers who always send a key to the same member.
---@param place integer 1 to `#p`
---@return mtstates.State|nil nil: there is none now
function Pool:state(place) end

---Replaces all members: idle ones before this returns, busy ones by the thread that leaves them. An idle one
---answers until its successor is ready, so no call is refused because of a reload. The first new one is made
---at once: if its setup fails, that is raised, and all stays as it was. If that of a later one fails, the old
---one answers once more before it is replaced.
---@param setup? mtstates.Setup nil: the setup and the arguments that the pool has
---@param ... mtstates.Value
function Pool:reload(setup, ...) end

---Interrupts members, as State:interrupt does. nil: those that are busy; true or false: all that there are.
---@param flag? boolean
function Pool:interrupt(flag) end

---Takes no new callers, closes idle members, and leaves busy ones to be closed by the threads inside. From
---inside a member it does not wait.
---@param timeout? number seconds to wait for busy ones; 0 by default, math.huge: for ever
---@return boolean none_is_left
function Pool:close(timeout) end

---Counts of a state, of a pool's members and calls, or of the process. None of the counts falls.
---@class mtstates.Counts
---@field calls integer that ran a callback and have ended, including a state's calls of itself
---@field errors integer calls that ended in an error
---@field refused integer calls that found it busy and did not wait
---@field waited integer calls that found it busy and waited
---@field timed_out integer of these, those that waited in vain
---@field wait_seconds number that calls have waited, except those still waiting
---@field interrupted integer times that an interrupt has struck
---@field bytes integer that Lua has in it now
---@field peak_bytes integer the most so far; of several states, the sum
---@field inside_seconds? number with the option `timing`: of outermost stays that have ended
---@field inside_histogram? integer[] of these stays: item i counts those of at most 2^(i-1) microseconds and
---more than half of that; item 33 counts all longer ones
---@field wait_histogram? integer[] the same for waits

---@class mtstates.StateStats: mtstates.Counts
---@field busy boolean

---@class mtstates.ProcessStats: mtstates.Counts with the counts of states and pools that are gone
---@field states integer that live, members of pools included
---@field busy integer of these
---@field pools integer that live
---@field made integer states, ever

---@class mtstates.PoolStats: mtstates.Counts with the counts of members that are gone
---@field size integer
---@field members integer
---@field idle integer
---@field busy integer
---@field waiting integer callers that wait
---@field made integer members, since the pool was made
---@field retired table<string, integer> by cause: calls, seconds, bytes, limit, reload, closed

---@return mtstates.PoolStats
function Pool:stats() end

---@return boolean
function Pool:isowner() end

return mtstates
