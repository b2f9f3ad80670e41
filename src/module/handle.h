/*
 * Handles: what Lua code holds of a state or a pool. Here is what they have in common; their
 * methods are in state_handle.c and pool_handle.c.
 *
 * Functions that make handles have upvalues: the metatables of handles of states and of pools, the
 * account, and its known handles. A handle is known by its seal, which tells what it is of, too;
 * once finalized, by another and its metatable.
 */
#ifndef MTSTATES_HANDLE_H
#define MTSTATES_HANDLE_H

#include "state/pool.h"

#include <lauxlib.h>

#define HANDLE_TYPE_STATE "mtstates.state"
#define HANDLE_TYPE_POOL "mtstates.pool"

struct account;

struct handle {
    uintptr_t seal;          /* tells a handle from all other objects */
    struct record *record;   /* has a reference; NULL: finalized, or none yet */
    struct account *account; /* of the host; stays as long as its handles */
    int kilobytes;           /* what the object weighs on the host through this handle */
    bool owns;               /* has an owner's share of the object */
    struct state *last;      /* of a pool: the member that it was used for last, with a reference */
};

enum { HANDLE_UPVALUES = 4 };

/*
 * Pushes these, made when the host does not have them yet. Raises an error if another copy of the
 * module serves this Lua state. [-0, +HANDLE_UPVALUES, e]
 */
void handle_push_upvalues(lua_State *L);

/* ---- in functions with these upvalues ---- */

/* Pushes a handle that refers to nothing of that kind yet; an object that the collector drops
 * safely at any time. [-0, +1, e] */
struct handle *handle_new(lua_State *L, const struct record_kind *kind);

/* Gives an empty handle an object with the caller's reference, and owner where there is one. */
static inline void handle_set(struct handle *h, struct record *r, bool owns)
{
    h->record = r;
    h->owns = owns;
}

/* The same for what came of a making, if anything did. */
static inline void handle_set_made(struct handle *h, const struct setup *s, bool owns)
{
    if (s->state != NULL)
        handle_set(h, &s->state->record, owns);
}

/* Pushes the handle that this host has of the living object of that kind and id, and does not own;
 * false: it has none. [-0, +(0|1), -] */
bool handle_push_known(lua_State *L, const struct record_kind *kind, int64_t id);

/* The same for the only living one of the name at `index`, a string. [-0, +(0|1), -] */
bool handle_push_known_name(lua_State *L, const struct record_kind *kind, int index);

/* The empty handle on top of the stack becomes the one that this host has of an object, with the
 * caller's reference. [-0, +0, -] */
void handle_make_known(lua_State *L, struct record *r);

/* The known handle on top of the stack was looked up by the name at `index`. [-0, +0, -] */
void handle_set_known_name(lua_State *L, int index);

/* Pushes the known handle, or a new one that becomes it, of an object that the caller has kept from
 * going. [-0, +1, e] */
void handle_push_for(lua_State *L, struct record *r);

/* Tells the host of the memory of what was made for the handle; it may collect garbage.
 * [-0, +0, -] */
void handle_weigh(lua_State *L, struct handle *h, int kilobytes);

/* It was closed. */
void handle_drop_weight(struct handle *h);

/* ---- handles as arguments, at index 1 ---- */

/*
 * The seal takes half the calls of Lua's API that a look at the metatable takes, and stays with a
 * handle whose metatable was changed by the debug library.
 */
static inline uintptr_t handle_seal(const struct handle *h, const struct record_kind *kind)
{
    return (uintptr_t)h ^ (uintptr_t)kind;
}

static inline bool handle_has_seal(lua_State *L, int index, const struct handle *h, uintptr_t seal)
{
    return h != NULL && lua_rawlen(L, index) == sizeof *h && h->seal == seal;
}

/* Where there is none in use: what finalizers may meet, or raises an argument error.
 * [-0, +0, v] */
struct handle *handle_check_finalized(lua_State *L, const struct record_kind *kind,
                                      const char *method);

/* Raises that it was finalized. [-0, +0, v] */
int handle_raise_finalized(lua_State *L);

/* The handle of that kind, which may be finalized. [-0, +0, v] */
static inline struct handle *handle_check_any(lua_State *L, const struct record_kind *kind,
                                              const char *method)
{
    struct handle *h = lua_touserdata(L, 1);
    if (__builtin_expect(!handle_has_seal(L, 1, h, handle_seal(h, kind)), 0))
        h = handle_check_finalized(L, kind, method);
    return h;
}

/* The same, in use; its record may be closed. [-0, +0, v] */
static inline struct handle *handle_check_used(lua_State *L, const struct record_kind *kind,
                                               const char *method)
{
    struct handle *h = handle_check_any(L, kind, method);
    if (__builtin_expect(h->record == NULL, 0))
        handle_raise_finalized(L);
    return h;
}

/* Its record. [-0, +0, v] */
static inline struct record *handle_check(lua_State *L, const struct record_kind *kind,
                                          const char *method)
{
    return handle_check_used(L, kind, method)->record;
}

/* Raises that it is closed. [-0, +0, v] */
int handle_raise_closed(lua_State *L, const struct record *r);

/*
 * Raises the refusal of what is busy: `format` is for lua_pushfstring, with what the record is and
 * which. The message is made once per handle and kept, since a worker pool meets refusals as often
 * as results. [-0, +0, v]
 */
int handle_raise_busy(lua_State *L, const struct record *r, const char *format);

/* Raises an error where the thread cannot be inside of one more state. [-0, +0, v] */
void handle_check_nesting(lua_State *L, const char *function);

/* ---- methods ---- */

/* The seconds at index 2. [-0, +0, v] */
double handle_check_timeout(lua_State *L, const char *method);

/* Until when to wait, for a timeout: NULL, for ever; else `t`, filled in. */
const struct timespec *handle_deadline(double timeout, struct timespec *t);

/* The flag at index 2. [-0, +0, v] */
enum interrupt_request handle_check_request(lua_State *L);

/* Puts `true` below the results of a call on top of the stack. Returns how many there are then.
 * [-n, +(n+1), e] */
int handle_return_true(lua_State *L, int results);

extern const luaL_Reg state_methods[], state_metamethods[];
extern const luaL_Reg pool_methods[], pool_metamethods[];

#endif
