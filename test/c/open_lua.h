/* Lua states for tests whose states need a C module of the test's. */
#ifndef MTSTATES_TEST_OPEN_LUA_H
#define MTSTATES_TEST_OPEN_LUA_H

#include "check.h"
#include "mtstates.h"

#include <lauxlib.h>
#include <lualib.h>

/* `require` gives that module, also in states made here, which inherit it. */
static inline void preload(lua_State *L, const char *module, lua_CFunction open)
{
    luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_PRELOAD_TABLE);
    lua_pushcfunction(L, open);
    lua_setfield(L, -2, module);
    lua_pop(L, 1);
}

/* Opens all libraries; and mtstates and the test's module are there to be required. */
static inline void open_libraries(lua_State *L, const char *module, lua_CFunction open)
{
    luaL_openlibs(L);
    preload(L, "mtstates", luaopen_mtstates);
    preload(L, module, open);
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
