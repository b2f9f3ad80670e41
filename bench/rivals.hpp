// What mtstates is measured against: two Lua modules with the part of its interface that is
// measured.
//
// floor     The same Lua API calls and nothing else: luaL_checkudata, the callback at a fixed stack
//           slot, values copied by a type switch, lua_call. No ownership, no protection, so nothing
//           that calls into another Lua state can be expected to be faster.
// baseline  What one would write first: a global mutex round the table of states, a mutex and a
//           condition per state, the callback in Lua's registry, and a protected call each for
//           arguments, callback (with a handler that adds the traceback) and results.
//
// Both have newstate([name,] [libs,] setup) and state(id|name) and handles with call, tcall, id and
// close. The baseline has newpool({ size = n }, setup) and pool(id) as well: a mutex and a
// condition per pool, round a list of those that are idle; its tcall waits for ever. The floor's
// tcall always refuses. Errors of callbacks are not handled as mtstates does; no benchmark raises
// any.
#ifndef MTSTATES_BENCH_RIVALS_HPP
#define MTSTATES_BENCH_RIVALS_HPP

#include <lua.hpp>

int luaopen_floor(lua_State *L);
int luaopen_baseline(lua_State *L);

#endif
