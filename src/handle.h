/*
 * Handles: what Lua code holds of a state.
 *
 * Functions that make handles, and all methods, have the metatable of handles as their first
 * upvalue: comparing with it is how a handle is known, at a third of what luaL_checkudata costs.
 */
#ifndef MTSTATES_HANDLE_H
#define MTSTATES_HANDLE_H

#include "state.h"

#define HANDLE_TYPE "mtstates.state"

struct handle {
    struct state *state; /* with a reference, and an owner if `owns`; NULL: given up, or none yet */
    bool owns;
};

/* Pushes the metatable, made and filled in when it does not exist yet. [-0, +1, m] */
void handle_push_metatable(lua_State *L);

/* Pushes a handle that refers to no state yet; an object that the collector drops safely at any
 * time. Only in a function with the upvalue. [-0, +1, m] */
struct handle *handle_new(lua_State *L, bool owns);

#endif
