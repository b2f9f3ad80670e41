#include "options.h"

#include "state/error.h"

#include <float.h>
#include <lauxlib.h>
#include <string.h>

bool option_is(lua_State *L, const char *option)
{
    return lua_type(L, -2) == LUA_TSTRING && lua_rawlen(L, -2) == strlen(option) &&
           strcmp(lua_tostring(L, -2), option) == 0;
}

int option_raise_unknown(lua_State *L, const char *function)
{
    return error_argument(L, 1, function, "unknown option '%s'", luaL_tolstring(L, -2, NULL));
}

void option_check_type(lua_State *L, const char *option, int type, const char *function)
{
    if (lua_type(L, -1) != type)
        error_argument(L, 1, function, "option '%s': %s expected, got %s", option,
                       lua_typename(L, type), luaL_typename(L, -1));
}

bool option_check_flag(lua_State *L, const char *option, const char *function)
{
    option_check_type(L, option, LUA_TBOOLEAN, function);
    return lua_toboolean(L, -1);
}

double option_check_limit(lua_State *L, const char *option, const char *function)
{
    option_check_type(L, option, LUA_TNUMBER, function);
    double limit = lua_tonumber(L, -1);
    if (!(limit > 0) || limit > DBL_MAX)
        error_argument(L, 1, function,
                       "option '%s': %s is no limit: a positive number expected, or nil for none",
                       option, luaL_tolstring(L, -1, NULL));
    return limit;
}

uint64_t option_check_count(lua_State *L, const char *option, lua_Integer most,
                            const char *function)
{
    option_check_type(L, option, LUA_TNUMBER, function);
    int is_integer;
    lua_Integer count = lua_tointegerx(L, -1, &is_integer);
    if (!is_integer || count < 1 || count > most)
        error_argument(L, 1, function, "option '%s': an integer from 1 to %I expected, got %s",
                       option, (LUAI_UACINT)most, luaL_tolstring(L, -1, NULL));
    return (uint64_t)count;
}
