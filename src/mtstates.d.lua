---@meta mtstates
-- The module's interface, for lua-language-server and for readers. Nothing here runs.
--
-- Values that cross between Lua states, by value and exactly:
--   nil, booleans, integers, floats, strings of any bytes, light userdata;
--   tables, by copy, raw (no metamethod runs), with any of these as keys and values, nested as deep as Lua's
--   stack takes; one with a metatable only if that has a name: see mtstates.class;
--   Lua functions without upvalues but _ENV, which becomes the receiver's globals;
--   handles: an owning one arrives as an owning one, any other as one that does not own.
-- A table, function or handle that occurs twice among all values of one call, or within itself, does so on
-- the other side; two calls make two copies.
-- What does not cross is an error that names the place, as in "in field 'a.b[3]'".

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
---@field invoking_state string setup or callback raised an error
---@field object_closed string a handle whose state is closed was used
---@field out_of_memory string memory or memory_limit ran out in making or calling a state; both stay usable
---@field state_result string setup gave no function, or a result cannot cross
---@field time_limit string raised inside a state when its time_limit was over
---@field unknown_object string no living state has that id or name

---What crosses; see above.
---@alias mtstates.Value nil|boolean|number|string|lightuserdata|table|function|mtstates.State

---@class mtstates.options
---@field name? string any bytes, at most 65535; several states may bear one name
---@field libs? boolean true (default): all standard libraries; false: base and package, others by require
---@field inherit? boolean true (default): package.path, package.cpath, and of package.preload the C functions
--- and the Lua functions without upvalues but _ENV
---@field memory_limit? number bytes that Lua may allocate in the state, libraries included; nil: no limit.
--- At the limit Lua collects; if that is not enough, the code inside gets Lua's memory error, and the
--- caller out_of_memory with the limit; the state stays usable. Holds in setup, calls, coroutines and
--- finalizers. The arena that the memory comes from is held to it: what it cannot use of what it has counts.
--- Not counted: what C modules allocate by themselves
---@field time_limit? number seconds, up to 49 days, that one outermost stay may last: setup, or a call with
--- all that it calls; nil: no limit. Then `time_limit` is raised inside, in whatever state the thread runs by
--- then; first once, so that pcall and `<close>` can clean up, and after as long again at every operation
--- until the stay ends. Never early; late by a quarter of the limit or 50 ms of Lua code running at most,
--- whichever is more. A C function is struck when it returns; finalizers and what runs inside of a debug hook
--- are not. In steps of 1 ms

---@class mtstates.singleton_options: mtstates.options
---@field name string

---Makes a state and runs `setup(...)` in it, in this thread; returns when setup has.
---Takes `newstate([name|options,] [libs,] setup [, ...])`.
---@param name? string|mtstates.options one lone string argument is code, not a name
---@param libs? boolean
---@param setup fun(...): function, ...|string no upvalues but _ENV; or code as `load` takes it. Its first
--- result is the callback, a Lua function
---@param ... mtstates.Value for setup; arrive before it runs, so no class can be among them
---@return mtstates.State handle owns the state
---@return mtstates.Value ... further results of setup
---Nobody finds the state before setup has returned, neither does setup.
---Raises invoking_state, state_result, out_of_memory, or an argument error.
function mtstates.newstate(name, libs, setup, ...) end

---A handle that does not own; the same one again while this Lua state has it. Takes no lock; the cost does
---not depend on how many states live, nor on how they are named.
---@param key integer|string id (a float with an integer value will do) or name
---@return mtstates.State handle
---Raises unknown_object, ambiguous_name, out_of_memory, or an argument error.
function mtstates.state(key) end

---The living state of that name, or makes it, like newstate; blocks while another thread makes it. Further
---results of setup are dropped.
---@param name string|mtstates.singleton_options
---@param libs? boolean
---@param setup fun(...): function|string
---@param ... mtstates.Value for setup; looked at only when it is made
---@return mtstates.State handle owns the state
---Raises ambiguous_name, what newstate raises, and an error when setup needs the same singleton.
function mtstates.singleton(name, libs, setup, ...) end

---@return integer|nil id of the state that this code runs in; nil in a host that mtstates did not make
function mtstates.id() end

---Like Lua's `type`, but gives a registered userdata's metatable name, here "mtstates.state".
---@param value any
---@return string
function mtstates.type(value) end

---Lets tables with that metatable cross: they arrive with the metatable that has the same name in the
---receiving Lua state. It is set last, so `__gc` sees whole tables; of both copies, so do not name one whose
---`__gc` gives back what exists once. No such name there is an error.
---For this Lua state only; each, also each thread's own, needs a call. A name that is given again stands for
---the new metatable; tables with the old one still leave under it. Of its two names a metatable leaves
---under the last.
---@param name string any bytes
---@param metatable table
---Raises out of memory, or an argument error.
function mtstates.class(name, metatable) end

---A handle. `h(...)` is `h:call(...)`; `h1 == h2` when both refer to one state, but they are two keys of a
---table; tostring shows name and id; `local h <close>` gives up what the handle owns at the end of the block.
---Every method but close raises object_closed when the state is closed.
---@class mtstates.State
---@overload fun(...): ...
local State = {}

---@return integer id unique in the process, never used again, below 2^53
function State:id() end

---@return string|nil
function State:name() end

---Runs the callback. Never waits: a state busy in another thread raises concurrent_access at once.
---From the thread that is inside already it nests.
---@param ... mtstates.Value
---@return mtstates.Value ...
---Raises concurrent_access, invoking_state (also for time_limit), state_result, out_of_memory, object_closed,
---or an argument error.
---The message may have names of inner errors further on: match at its beginning.
function State:call(...) end

---Like call, but waits for the state to be free. Sleeps meanwhile; who waits longest comes first.
---@param timeout number seconds on the monotonic clock; 0 or less: not at all; math.huge: for ever
---@param ... mtstates.Value
---@return boolean in_time false: the time was up
---@return mtstates.Value ...
---Raises what call does, but concurrent_access.
function State:tcall(timeout, ...) end

---Raises `interrupted` inside the state, within 50 ms of Lua code that runs there, or else at the next call.
---Does not wait for it. Any thread; also from inside.
---None is lost, whatever the code does with pcall, xpcall, coroutines, `<close>` and debug hooks; but
---finalizers and what runs inside of a debug hook are out of reach. A C function is interrupted when it
---returns.
---@param flag? boolean nil: once; true: at every operation from now on; false: no more
---Raises object_closed, or an argument error.
function State:interrupt(flag) end

---Closes the state; its finalizers run in this thread. A closed state: does nothing.
---Called by a finalizer of a state that is being closed: the finalizers run after those of that state.
---Raises concurrent_access when the state is busy, also from inside.
function State:close() end

---What Lua has in the state, also while another thread is inside.
---@return integer used bytes, now
---@return integer peak bytes, the most so far
---@return integer|nil limit bytes: its memory_limit
function State:memory() end

---@return boolean owns whether this handle keeps the state alive
function State:isowner() end

return mtstates
