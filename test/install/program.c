/* A program that has the module and a Lua inside, linked against what is installed. */
#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>
#include <mtstates.h>
#include <stdio.h>
#include <stdlib.h>

/* A name of the module's own, which has to be free for programs. */
int pool_new(void);

int pool_new(void)
{
    return 42;
}

int main(void)
{
    lua_State *L = luaL_newstate();
    luaL_openlibs(L);
    luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_PRELOAD_TABLE);
    lua_pushcfunction(L, luaopen_mtstates);
    lua_setfield(L, -2, "mtstates");
    lua_pop(L, 1);
    if (luaL_dostring(L, "local state = require('mtstates').newstate(function()\n"
                         "  local mtstates = require('mtstates')\n"
                         "  return function(x) return x + 1, mtstates._VERSION end\n"
                         "end)\n"
                         "return state:call(41)") != LUA_OK) {
        fprintf(stderr, "%s\n", lua_tostring(L, -1));
        return EXIT_FAILURE;
    }
    int as_expected = lua_tointeger(L, 1) == pool_new();
    printf("mtstates %s inside of a program\n", lua_tostring(L, 2));
    lua_close(L);
    return as_expected ? EXIT_SUCCESS : EXIT_FAILURE;
}
