/*
 * Handles: what Lua code holds of a state.
 *
 * Functions that make handles have three upvalues: the metatable of handles, the account, and its
 * known handles. A handle is known by its seal; once finalized, by another and its metatable.
 */
#ifndef MTSTATES_HANDLE_H
#define MTSTATES_HANDLE_H

#include "state/state.h"

#define HANDLE_TYPE "mtstates.state"

struct account;

struct handle {
    uintptr_t seal;          /* tells a handle from all other objects */
    struct state *state;     /* has a reference; NULL: finalized, or none yet */
    struct account *account; /* of the host; stays as long as its handles */
    int kilobytes;           /* what the state weighs on the host through this handle */
    bool owns;               /* has an owner's share of `state` */
};

enum { HANDLE_UPVALUES = 3 };

/*
 * Pushes these, made when the host does not have them yet. Raises an error if another copy of the
 * module serves this Lua state. [-0, +HANDLE_UPVALUES, e]
 */
void handle_push_upvalues(lua_State *L);

/* In functions with these upvalues: */

/* Pushes a handle that refers to no state yet; an object that the collector drops safely at any
 * time. [-0, +1, e] */
struct handle *handle_new(lua_State *L);

/* Gives an empty handle a state with the caller's reference, and owner where there is one. */
static inline void handle_set(struct handle *h, struct state *s, bool owns)
{
    h->state = s;
    h->owns = owns;
}

/* Pushes the handle that this host has of the living state of that id, and does not own; false: it
 * has none. [-0, +(0|1), -] */
bool handle_push_known(lua_State *L, int64_t id);

/* The same for the only living state of the name at `index`, a string. [-0, +(0|1), -] */
bool handle_push_known_name(lua_State *L, int index);

/* The empty handle on top of the stack becomes the one that this host has of a state, with the
 * caller's reference. [-0, +0, -] */
void handle_make_known(lua_State *L, struct state *s);

/* The known handle on top of the stack was looked up by the name at `index`. [-0, +0, -] */
void handle_set_known_name(lua_State *L, int index);

/* Tells the host of the memory of the state that was made for the handle; it may collect garbage.
 * [-0, +0, -] */
void handle_weigh(lua_State *L, struct handle *h, int kilobytes);

#endif
