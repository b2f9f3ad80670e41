/*
 * The coroutine library of states: Lua's own, but resume, wrap and close tell the state's interrupt
 * which coroutine runs (interrupt.h).
 */
#ifndef MTSTATES_COROUTINE_H
#define MTSTATES_COROUTINE_H

#include <lua.h>

/* Opens the library in a state that the module made. A lua_CFunction like luaopen_coroutine. */
int coroutine_open(lua_State *L);

#endif
