/*
 * What a state with a memory limit does about it beyond what its arena does (arena.h): it has Lua
 * collect where Lua would not do so by itself.
 *
 * Lua lets the memory double before it begins a cycle, and so would reach the limit again and
 * again; what it does there, an emergency collection, runs no finalizers. So the collector's pause
 * is made shorter than the program's own where doubling would not fit.
 *
 * And Lua makes no emergency collection for the buffers of lauxlib, which call the allocator
 * themselves: string.rep, table.concat and the like would fail in a state full of garbage. So there
 * is one before the arena refuses a block that may be such a buffer.
 */
#ifndef MTSTATES_MEMORY_LIMIT_H
#define MTSTATES_MEMORY_LIMIT_H

#include "arena.h"

#include <lua.h>

struct memory_limit {
    int own_pause, given_pause; /* in percent: the program's, and the one that it has; 0: unknown */
    lua_State *collector;       /* a coroutine that only collects */
};

/* In a new state that has a limit, before any code of its own. [-0, +0, m] */
void memory_limit_open(lua_State *target);

/* The state is about to close. */
void memory_limit_close(struct arena *a);

#endif
