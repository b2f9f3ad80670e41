/*
 * Values on their way from one Lua state to another, by copy and exactly: nil, booleans, integers,
 * floats, strings, light userdata. This is the one place that knows what crosses, and how.
 *
 * Plain values need no memory and are pushed at once. Strings do, and an error for lack of it must
 * not jump over frames of the other Lua state: so either the memory is reserved beforehand, or they
 * are packed into a parcel and unpacked when the other state has been left, or they are copied in a
 * protected call of the state that they go to.
 */
#ifndef MTSTATES_PARCEL_H
#define MTSTATES_PARCEL_H

#include <lua.h>
#include <stdbool.h>

enum crossing {
    CROSSING_DONE,
    CROSSING_NEEDS_MEMORY, /* a string */
    CROSSING_REFUSED       /* a type that does not cross */
};

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

/* First index from `first` to `last` whose value does not cross, or 0. [-0, +0, -] */
int parcel_find_refused(lua_State *L, int first, int last);

/* Copies the values from `first` to `last`, which all cross; `to` has the slots for them.
 * [-0, +n, m] on `to`, which is protected; nothing on `from` */
void parcel_copy(lua_State *from, int first, int last, lua_State *to);

/*
 * The same in a protected call of `to`, which checks its stack as well. LUA_OK, or what went wrong
 * with its error object pushed. Not between coroutines of one Lua state. [-0, +(n|1), -] on `to`
 */
int parcel_copy_protected(lua_State *from, int first, int last, lua_State *to);

/* Values that have left one Lua state and not reached the other. For a few small ones. */
enum { PARCEL_VALUES = 16, PARCEL_BYTES = 1024 };

struct parcel {
    unsigned count;
    struct parcel_value {
        int type; /* Lua's */
        bool is_integer;
        union {
            lua_Integer integer;
            lua_Number number;
            void *pointer;
            int boolean;
            const char *bytes; /* a string's, in the parcel */
        };
        size_t length;
    } values[PARCEL_VALUES];
    char bytes[PARCEL_BYTES];
};

/*
 * Packs the values from `first` to `last`. CROSSING_NEEDS_MEMORY: it is more than fits.
 * CROSSING_REFUSED: the one at `first` + p->count does not cross. [-0, +0, -]
 */
enum crossing parcel_pack(struct parcel *p, lua_State *from, int first, int last);

/* Pushes all that was packed; `to` has the slots. [-0, +n, m] */
void parcel_unpack(const struct parcel *p, lua_State *to);

#endif
