/*
 * Values that cross from one Lua state to another, by copy and exactly: nil, booleans, integers,
 * floats, strings, light userdata.
 */
#ifndef MTSTATES_VALUE_H
#define MTSTATES_VALUE_H

#include <lua.h>
#include <stdbool.h>

enum crossing {
    CROSSING_DONE,
    CROSSING_ALLOCATES, /* a string: pushing it can raise out of memory */
    CROSSING_REFUSED    /* a type that does not cross */
};

/* Copies the value at `index` if that takes no memory of `to`, which has a free slot.
 * [-0, +(0|1), -] on `to`, nothing on `from` */
static inline enum crossing value_copy_plain(lua_State *from, int index, lua_State *to)
{
    switch (lua_type(from, index)) {
    case LUA_TNUMBER:
        if (lua_isinteger(from, index))
            lua_pushinteger(to, lua_tointeger(from, index));
        else
            lua_pushnumber(to, lua_tonumber(from, index));
        return CROSSING_DONE;
    case LUA_TSTRING:
        return CROSSING_ALLOCATES;
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

/* Copies the value at `index`; false if its type does not cross. [-0, +(0|1), m] on `to` */
static inline bool value_copy(lua_State *from, int index, lua_State *to)
{
    enum crossing crossing = value_copy_plain(from, index, to);
    if (crossing == CROSSING_ALLOCATES) {
        size_t length;
        const char *bytes = lua_tolstring(from, index, &length);
        lua_pushlstring(to, bytes, length);
    }
    return crossing != CROSSING_REFUSED;
}

/* First index from `first` to `last` whose value does not cross, or 0. [-0, +0, -] */
static inline int value_find_refused(lua_State *L, int first, int last)
{
    for (int i = first; i <= last; i++) {
        int type = lua_type(L, i);
        if (type > LUA_TSTRING)
            return i;
    }
    return 0;
}

#endif
