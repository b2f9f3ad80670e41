#include "parcel.h"

#include <lauxlib.h>
#include <string.h>

int parcel_find_refused(lua_State *L, int first, int last)
{
    for (int i = first; i <= last; i++)
        if (lua_type(L, i) > LUA_TSTRING)
            return i;
    return 0;
}

void parcel_copy(lua_State *from, int first, int last, lua_State *to)
{
    for (int i = first; i <= last; i++) {
        if (parcel_copy_plain(from, i, to) == CROSSING_NEEDS_MEMORY) {
            size_t length;
            const char *bytes = lua_tolstring(from, i, &length);
            lua_pushlstring(to, bytes, length);
        }
    }
}

struct copy {
    lua_State *from;
    int first, last;
};

/* (the copy) */
static int copy(lua_State *to)
{
    const struct copy *c = lua_touserdata(to, 1);
    int count = c->last - c->first + 1;
    luaL_checkstack(to, count, "too many results");
    parcel_copy(c->from, c->first, c->last, to);
    return count;
}

int parcel_copy_protected(lua_State *from, int first, int last, lua_State *to)
{
    struct copy c = {from, first, last};
    lua_pushcfunction(to, copy);
    lua_pushlightuserdata(to, &c);
    return lua_pcall(to, 1, LUA_MULTRET, 0);
}

/* The value is no string. */
static enum crossing pack_plain(struct parcel_value *v, lua_State *from, int index)
{
    switch (v->type) {
    case LUA_TNUMBER:
        v->is_integer = lua_isinteger(from, index);
        if (v->is_integer)
            v->integer = lua_tointeger(from, index);
        else
            v->number = lua_tonumber(from, index);
        return CROSSING_DONE;
    case LUA_TBOOLEAN:
        v->boolean = lua_toboolean(from, index);
        return CROSSING_DONE;
    case LUA_TLIGHTUSERDATA:
        v->pointer = lua_touserdata(from, index);
        return CROSSING_DONE;
    case LUA_TNIL:
        return CROSSING_DONE;
    default:
        return CROSSING_REFUSED;
    }
}

enum crossing parcel_pack(struct parcel *p, lua_State *from, int first, int last)
{
    unsigned used = 0;
    p->count = 0;
    if (last - first >= PARCEL_VALUES)
        return CROSSING_NEEDS_MEMORY;
    for (int i = first; i <= last; i++) {
        struct parcel_value *v = &p->values[p->count];
        v->type = lua_type(from, i);
        if (v->type == LUA_TSTRING) {
            const char *bytes = lua_tolstring(from, i, &v->length);
            if (v->length > PARCEL_BYTES - used)
                return CROSSING_NEEDS_MEMORY;
            v->bytes = memcpy(p->bytes + used, bytes, v->length);
            used += (unsigned)v->length;
        } else if (pack_plain(v, from, i) != CROSSING_DONE) {
            return CROSSING_REFUSED;
        }
        p->count++;
    }
    return CROSSING_DONE;
}

static void unpack_plain(const struct parcel_value *v, lua_State *to)
{
    switch (v->type) {
    case LUA_TNUMBER:
        if (v->is_integer)
            lua_pushinteger(to, v->integer);
        else
            lua_pushnumber(to, v->number);
        break;
    case LUA_TBOOLEAN:
        lua_pushboolean(to, v->boolean);
        break;
    case LUA_TLIGHTUSERDATA:
        lua_pushlightuserdata(to, v->pointer);
        break;
    default:
        lua_pushnil(to);
    }
}

void parcel_unpack(const struct parcel *p, lua_State *to)
{
    for (const struct parcel_value *v = p->values; v < p->values + p->count; v++) {
        if (v->type == LUA_TSTRING)
            lua_pushlstring(to, v->bytes, v->length);
        else
            unpack_plain(v, to);
    }
}
