/* Lua states for tests whose states need a C module of the test's. */
#ifndef MTSTATES_TEST_OPEN_LUA_H
#define MTSTATES_TEST_OPEN_LUA_H

#include "check.h"
#include "mtstates.h"

#include <lauxlib.h>
#include <lualib.h>

/* Opens all libraries; `require` gives mtstates and the test's module, also in states made here. */
static inline void open_libraries(lua_State *L, const char *module, lua_CFunction open)
{
    luaL_openlibs(L);
    luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_PRELOAD_TABLE); /* states inherit these */
    lua_pushcfunction(L, luaopen_mtstates);
    lua_setfield(L, -2, "mtstates");
    lua_pushcfunction(L, open);
    lua_setfield(L, -2, module);
    lua_settop(L, 0);
}

/* Ends the test with the error on top of the stack, unless `status` is LUA_OK. */
static inline void check_lua(lua_State *L, int status)
{
    if (status != LUA_OK) {
        fprintf(stderr, "%s\n", lua_tostring(L, -1));
        exit(1);
    }
}

static inline lua_State *open_lua(const char *module, lua_CFunction open)
{
    lua_State *L = luaL_newstate();
    CHECK(L != NULL);
    open_libraries(L, module, open);
    return L;
}

#endif
