/*
 * The account of a host, a Lua state that uses the module: what the module knows of it, in one
 * userdata in its registry.
 *
 * Known handles. A host that looks up a state again gets the handle that it has. The last ones that
 * look-ups made stand in a weak table, each at a place that follows from its state's id, and when
 * it was looked up by name, at one that follows from the address of that string.
 *
 * Strays. When a Lua state closes, Lua calls the finalizers of objects that were there before, but
 * not of those that these finalizers make. A handle made in a finalizer would then keep its state
 * for ever. So such handles are noted, and the account's own finalizer, which was there first and
 * therefore comes last, finalizes those that are left. They are keys of a weak table, and not in a
 * list through the handles, since a finalizer does not always run: Lua drops one that meets a stack
 * overflow.
 *
 * Weight. A state weighs on the host's collector as a few bytes of handle, so the host is told of
 * its memory.
 */
#ifndef MTSTATES_ACCOUNT_H
#define MTSTATES_ACCOUNT_H

#include <lua.h>
#include <stdbool.h>
#include <stdint.h>

struct handle;

struct account {
    void (*finalize)(struct handle *);
    bool closed;        /* it closes, and the last chance to finalize strays has passed */
    int64_t untold;     /* kilobytes of new states that its collector has not been told of */
    int64_t held;       /* kilobytes of states that its owning handles made and still hold */
    int64_t collect_at; /* what `held` has to reach for a whole collection */
};

/* Pushes the account of `L` and its known handles, made when there are none yet. `finalize` is for
 * strays. [-0, +2, e] */
void account_push(lua_State *L, void (*finalize)(struct handle *));

/* Notes the handle on top of the stack as a stray, if it is one. `account`: its index.
 * [-0, +0, m] */
void account_note_stray(lua_State *L, int account);

/* In these, `known` is the index of the known handles, and `place` one of those below. */

lua_Integer account_place_of_id(int64_t id);

/* Of the string at an index. Lua has short ones once each; another one is not found there. */
lua_Integer account_place_of_name(lua_State *L, int index);

/* Pushes the one at the place, or false. [-0, +1, -] */
static inline void account_push_known(lua_State *L, int known, lua_Integer place)
{
    lua_rawgeti(L, known, place);
}

/* Puts the handle on top of the stack there; takes no memory. [-0, +0, -] */
void account_set_known(lua_State *L, int known, lua_Integer place);

/* A state of so many kilobytes was made. The host may collect garbage. [-0, +0, -] */
void account_add_weight(lua_State *L, struct account *a, int kilobytes);

/* It was closed, or given up. */
static inline void account_remove_weight(struct account *a, int kilobytes)
{
    a->held -= kilobytes;
}

#endif
