#include "push_text.h"

#include "state/error.h"

#include <stdlib.h>

static int push(lua_State *L)
{
    lua_pushlstring(L, lua_touserdata(L, 1), (size_t)lua_tointeger(L, 2));
    return 1;
}

void push_text_begin(lua_State *L)
{
    lua_pushcfunction(L, push);
}

int push_text_end(lua_State *L, char *text, size_t length, const char *function)
{
    if (text == NULL)
        return error_raise(L, ERROR_OUT_OF_MEMORY, "no memory for '%s'", function);
    lua_pushlightuserdata(L, text);
    lua_pushinteger(L, (lua_Integer)length);
    int status = lua_pcall(L, 2, 1, 0);
    free(text);
    return status == LUA_OK ? 1 : lua_error(L);
}
