/*
 * Handles: what Lua code holds of a state.
 *
 * Functions that make handles have two upvalues: the metatable of handles, and what the module
 * knows of the host. A handle is known by its seal; once finalized, by another and its metatable.
 *
 * Strays. When a Lua state closes, Lua calls the finalizers of objects that were there before, but
 * not of those that these finalizers make. A handle made in a finalizer would then keep its state
 * for ever. So such handles are noted, and an object that was there first, and whose finalizer
 * therefore comes last, gives up those that are left. They are keys of a weak table, and not in a
 * list through the handles, since a finalizer does not always run: Lua drops one that meets a stack
 * overflow.
 */
#ifndef MTSTATES_HANDLE_H
#define MTSTATES_HANDLE_H

#include "state.h"

#define HANDLE_TYPE "mtstates.state"

struct host;

struct handle {
    uintptr_t seal;      /* tells a handle from all other objects */
    struct state *state; /* NULL: given up, or none yet */
    struct state *held; /* has a reference, until the collector takes the handle: a method that runs
                           may meet its own handle given up, and still needs the record */
    struct host *host;  /* stays as long as its handles */
    int kilobytes;      /* what the state weighed when this handle's function made it */
    bool owns;          /* has an owner's share of `state` */
    bool shares;        /* has its reference together with other handles of its host */
};

/* Gives an empty handle its state, with the caller's reference, and owner if it owns. */
static inline void handle_set(struct handle *h, struct state *s)
{
    h->state = h->held = s;
}

/* Pushes the two upvalues, made when the host does not have them yet. [-0, +2, m] */
void handle_push_upvalues(lua_State *L);

/*
 * Pushes a handle that refers to no state yet; an object that the collector drops safely at any
 * time. Only in a function with both upvalues. [-0, +1, e]
 */
struct handle *handle_new(lua_State *L, bool owns);

/*
 * Gives an empty handle the state of that id, if the host has a handle already that it can share
 * the reference with. False: the registry has to be asked, and handle_set_found called with what it
 * finds and the caller's reference.
 */
bool handle_find_again(struct handle *h, int64_t id);
void handle_set_found(struct handle *h, struct state *s);

/*
 * Tells the host's collector of the memory behind a handle whose state was just made. Finalizers of
 * the host may run. [-0, +0, -]
 */
void handle_tell_weight(lua_State *L, const struct handle *h);

#endif
