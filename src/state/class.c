#include "class.h"

#include <lauxlib.h>

/* Keys into a Lua state's registry: the addresses. */
static const char names_key = 0;      /* metatable to name; does not keep the metatable */
static const char metatables_key = 0; /* name to metatable */

/* [-0, +1, m] */
static void push_names(lua_State *L)
{
    if (lua_rawgetp(L, LUA_REGISTRYINDEX, &names_key) == LUA_TTABLE)
        return;
    lua_pop(L, 1);
    lua_newtable(L);
    lua_createtable(L, 0, 1); /* its metatable */
    lua_pushliteral(L, "k");
    lua_setfield(L, -2, "__mode");
    lua_setmetatable(L, -2);
    lua_pushvalue(L, -1);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &names_key);
}

/* [-0, +1, m] */
static void push_metatables(lua_State *L)
{
    if (lua_rawgetp(L, LUA_REGISTRYINDEX, &metatables_key) == LUA_TTABLE)
        return;
    lua_pop(L, 1);
    lua_newtable(L);
    lua_pushvalue(L, -1);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &metatables_key);
}

void class_define(lua_State *L)
{
    push_metatables(L); /* name, metatable, metatables */
    push_names(L);
    lua_pushvalue(L, -3);
    lua_pushvalue(L, -5);
    lua_rawset(L, -3); /* names[metatable] = name */
    lua_pop(L, 1);
    lua_insert(L, -3);
    lua_rawset(L, -3); /* metatables[name] = metatable */
    lua_pop(L, 1);
}

/* Replaces the key on top by what a table of the registry's has for it, or by nil. [-1, +1, -] */
static void get(lua_State *L, const char *table)
{
    if (lua_rawgetp(L, LUA_REGISTRYINDEX, table) == LUA_TTABLE) {
        lua_insert(L, -2);
        lua_rawget(L, -2);
        lua_remove(L, -2);
    } else { /* nil */
        lua_remove(L, -2);
    }
}

void class_get_name(lua_State *L)
{
    get(L, &names_key);
}

void class_get_metatable(lua_State *L)
{
    get(L, &metatables_key);
}
