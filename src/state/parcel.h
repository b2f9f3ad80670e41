/*
 * Values on their way from one Lua state to another, by copy and exactly. This is the one place
 * that knows what crosses, and how:
 *
 *   plain values   nil, booleans, integers, floats, strings, light userdata
 *   objects        tables, Lua functions, handles, arrays of C numbers (carray.h); they keep their
 *                  identity: what occurs twice, or contains itself, does so on the other side
 *
 * Plain values but strings need no memory and are pushed at once. Strings do, and an error for lack
 * of it must not jump over frames of the other Lua state: so either the memory is reserved
 * beforehand, or they are packed and unpacked when the other state has been left, or they are
 * copied in a protected call of the state that they go to.
 *
 * Objects go into a parcel. Packing reads the sender only, and runs no code of it; unpacking writes
 * the receiver only. So no finalizer or error of one side meets anything half done on the other.
 */
#ifndef MTSTATES_PARCEL_H
#define MTSTATES_PARCEL_H

#include "refusal.h"

#include <lua.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum crossing {
    CROSSING_DONE,
    CROSSING_NEEDS_MEMORY, /* a string; or there is none */
    CROSSING_REFUSED,      /* an object; or what does not cross */
    CROSSING_ERROR         /* of the receiver, not for a value's sake */
};

/* ---- plain values ---- */

/* Copies the value at `index` if that takes no memory of `to`, which has a free slot.
 * [-0, +(0|1), -] on `to`, nothing on `from` */
static inline enum crossing parcel_copy_plain(lua_State *from, int index, lua_State *to)
{
    switch (lua_type(from, index)) {
    case LUA_TNUMBER:
        if (lua_isinteger(from, index))
            lua_pushinteger(to, lua_tointeger(from, index));
        else
            lua_pushnumber(to, lua_tonumber(from, index));
        return CROSSING_DONE;
    case LUA_TSTRING:
        return CROSSING_NEEDS_MEMORY;
    case LUA_TBOOLEAN:
        lua_pushboolean(to, lua_toboolean(from, index));
        return CROSSING_DONE;
    case LUA_TNIL:
        lua_pushnil(to);
        return CROSSING_DONE;
    case LUA_TLIGHTUSERDATA:
        lua_pushlightuserdata(to, lua_touserdata(from, index));
        return CROSSING_DONE;
    default:
        return CROSSING_REFUSED;
    }
}

/* Whether the values from `first` to `last` are plain. [-0, +0, -] */
bool parcel_are_plain(lua_State *L, int first, int last);

/*
 * Copies the values from `first` to `last`, which are plain, in a protected call of `to`, which
 * checks its stack as well. LUA_OK, or what went wrong with its error object pushed. Not between
 * coroutines of one Lua state. [-0, +(n|1), -] on `to`
 */
int parcel_copy_protected(lua_State *from, int first, int last, lua_State *to);

/* A few small plain values that have left one Lua state and not reached the other. */
struct parcel_small {
    const char *end;
    char bytes[1280];
};

/* Packs the values from `first` to `last`. CROSSING_NEEDS_MEMORY: it is more than fits.
 * CROSSING_REFUSED: they are not all plain. [-0, +0, -] */
enum crossing parcel_pack_small(struct parcel_small *p, lua_State *from, int first, int last);

/* Pushes all that was packed; `to` has the slots. [-0, +n, m] */
void parcel_unpack_small(const struct parcel_small *p, lua_State *to);

/* ---- any values ---- */

struct parcel_memory;

struct parcel {
    struct parcel_memory *memory; /* NULL: there was none */
    int count;                    /* values in it */
    unsigned keys;                /* strings that are keys, as far as they are noted; */
    unsigned kept_keys;           /* and of these, that occur more than once */
    uint32_t numbered;            /* objects that occur more than once */
    uint32_t classed;             /* tables with a metatable */
    size_t depth;                 /* tables in tables, */
    int deepest;                  /* and the number of the value that has so many */
    size_t last_held;             /* handle or array; where it is; 0: none */
};

/* An empty parcel in the calling thread's memory for it. Others may be begun before it ends. */
void parcel_begin(struct parcel *p);

/*
 * Adds the values from `first` to `last`. Sharing goes over all that is in the parcel. After a
 * failure it can only be ended. CROSSING_REFUSED: `r` says why, and its number in the parcel. Runs
 * no code, and raises nothing. [-0, +0, -] on `from`
 */
enum crossing parcel_pack(struct parcel *p, lua_State *from, int first, int last,
                          struct refusal *r);

/*
 * Pushes all values, in a protected call of `to`, whose message handler is at index `handler`, or
 * 0. CROSSING_REFUSED: `r` says why. CROSSING_ERROR: the error object is pushed. The parcel stays
 * as it was, and can be unpacked again, also by several threads at once. [-0, +(n|1|0), -] on `to`,
 * which has two free slots
 */
enum crossing parcel_unpack(const struct parcel *p, lua_State *to, int handler, struct refusal *r);

/* So many slots of a stack, or a few times as many, packing or unpacking takes. */
static inline size_t parcel_slots(const struct parcel *p)
{
    return p->kept_keys + p->depth + (size_t)p->count;
}

/* Gives up what is in it. It may close states. The second time it does nothing. */
void parcel_end(struct parcel *p);

/*
 * The name of an upvalue that keeps the Lua function at `index` from crossing, or NULL: all may
 * have _ENV, which becomes the receiver's globals. Without debug information an upvalue has no
 * name; the first one is _ENV if it has the globals. [-0, +0, -]
 */
const char *parcel_find_captured(lua_State *L, int index);

/* ---- what the room above adds: handles, which it defines ---- */

struct record;

/* What a parcel knows of a handle. */
struct parcel_handle {
    struct record *record; /* with a reference, and an owner's share if it owns: the parcel's */
    int kilobytes;         /* what it weighs on its host */
    bool owns;
    bool is_another; /* the parcel has another one, too, of the same record that does not own */
};

/* Fills in `h` without what is the parcel's if the full userdata at `index` is a handle in use.
 * [-0, +0, -] */
bool parcel_handle_at(lua_State *L, int index, struct parcel_handle *h);

/* Pushes a handle of the same kind, with a reference and a share of its own. [-0, +1, e] */
void parcel_push_handle(lua_State *L, const struct parcel_handle *h);

#endif
