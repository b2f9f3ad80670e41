/*
 * The coroutine library of states: Lua's own (lcorolib.c), but resume, wrap and close tell the
 * state's interrupt which coroutine runs (interrupt.c), and those that are made have no hook of
 * ours. And where Lua counts C calls from zero in a
 * coroutine that is closed, these ask whether there is C stack for that.
 */
#ifndef MTSTATES_COROUTINE_H
#define MTSTATES_COROUTINE_H

#include "interrupt.h"

/* Opens the library in a state that the module made. [-0, +1, m] */
int coroutine_open(lua_State *L, struct interrupt *i);

#endif
