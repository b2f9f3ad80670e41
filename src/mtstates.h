/*
 * The C interface of the module, for programs that link it in instead of loading it.
 */
#ifndef MTSTATES_H
#define MTSTATES_H

#include "mtstates_inside.h"

#include <lua.h>

#if defined(__cplusplus)
extern "C" {
#endif

/*
 * A lua_CFunction: pushes the module table, as require("mtstates") does. Any number of Lua states
 * may open the module, each from any thread. Raises out_of_memory, an error when another copy of
 * the module serves the Lua state already, or when this Lua is not one that the module knows. Put
 * it into package.preload for states to inherit it.
 *
 * Threads that use the module let SIGURG through, by which they are interrupted, and the process
 * has a handler for it from the first interrupt on. The extra space of states' coroutines
 * (lua_getextraspace) is the program's.
 */
__attribute__((visibility("default"))) int luaopen_mtstates(lua_State *L);

#if defined(__cplusplus)
}
#endif

#endif
