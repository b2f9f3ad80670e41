/*
 * What was counted, as Lua tables.
 */
#ifndef MTSTATES_STATS_H
#define MTSTATES_STATS_H

#include "state/counters.h"

#include <lua.h>

/* Sets a field of the table on top of the stack. [-0, +0, m] */
void stats_set(lua_State *L, const char *name, uint64_t count);

/* The same in seconds. */
void stats_set_seconds(lua_State *L, const char *name, uint64_t nanoseconds);

/* Pushes a table of what states and pools have in common. [-0, +1, m] */
void stats_push(lua_State *L, const struct stats *s);

#endif
