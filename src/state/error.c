#include "error.h"

#include "sync/registry.h"

#include <lauxlib.h>
#include <stdarg.h>
#include <stdbool.h>
#include <string.h>

static const char *const names[] = {
    "ambiguous_name", "concurrent_access", "interrupted", "invoking_state", "object_closed",
    "out_of_memory",  "state_result",      "time_limit",  "unknown_object",
};

void error_push_names(lua_State *L)
{
    int count = (int)(sizeof names / sizeof *names);
    lua_createtable(L, 0, count);
    for (int i = 0; i < count; i++) {
        lua_pushfstring(L, ERROR_NAME("%s"), names[i]);
        lua_setfield(L, -2, names[i]);
    }
}

void error_push_quoted(lua_State *L, const char *text, size_t length)
{
    luaL_Buffer b;
    luaL_buffinit(L, &b);
    luaL_addchar(&b, '"');
    for (size_t i = 0; i < length; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c < ' ' || c == 127) {
            luaL_addchar(&b, '\\');
            luaL_addchar(&b, (char)('0' + c / 100));
            luaL_addchar(&b, (char)('0' + c / 10 % 10));
            luaL_addchar(&b, (char)('0' + c % 10));
            continue;
        }
        if (c == '"' || c == '\\')
            luaL_addchar(&b, '\\');
        luaL_addchar(&b, (char)c);
    }
    luaL_addchar(&b, '"');
    luaL_pushresult(&b);
}

void error_push_record(lua_State *L, const struct record *r)
{
    if (r->name == NULL) {
        lua_pushfstring(L, "(id=%I)", (LUAI_UACINT)r->id);
        return;
    }
    lua_pushliteral(L, "(name=");
    error_push_quoted(L, r->name, r->name_length);
    lua_pushfstring(L, ",id=%I)", (LUAI_UACINT)r->id);
    lua_concat(L, 3);
}

int error_raise(lua_State *L, const char *name, const char *format, ...)
{
    va_list arguments;
    lua_pushfstring(L, "%s: ", name);
    va_start(arguments, format);
    lua_pushvfstring(L, format, arguments);
    va_end(arguments);
    lua_concat(L, 2);
    return lua_error(L);
}

int error_raise_for(lua_State *L, const char *name, const struct record *r, const char *detail)
{
    error_push_record(L, r);
    return error_raise(L, name, "%s %s %s", r->kind->what, lua_tostring(L, -1), detail);
}

/* Whether users do not count the value at index 1. [-0, +0, m] */
static bool is_uncounted(lua_State *L)
{
    lua_Debug ar;
    if (!lua_getstack(L, 0, &ar))
        return false;
    lua_getinfo(L, "nf", &ar); /* pushes the function */
    bool is = strcmp(ar.namewhat, "method") == 0 || strcmp(ar.namewhat, "metamethod") == 0;
    if (!is && luaL_getmetafield(L, 1, "__call") != LUA_TNIL) {
        is = lua_rawequal(L, -1, -2);
        lua_pop(L, 1);
    }
    lua_pop(L, 1);
    return is;
}

int error_argument(lua_State *L, int index, const char *function, const char *format, ...)
{
    va_list arguments;
    luaL_checkstack(L, LUA_MINSTACK, NULL);
    int number = is_uncounted(L) ? index - 1 : index;
    luaL_where(L, 1);
    if (number == 0)
        lua_pushfstring(L, "calling '%s' on bad self (", function);
    else
        lua_pushfstring(L, "bad argument #%d to '%s' (", number, function);
    va_start(arguments, format);
    lua_pushvfstring(L, format, arguments);
    va_end(arguments);
    lua_pushliteral(L, ")");
    lua_concat(L, 4);
    return lua_error(L);
}

int error_argument_type(lua_State *L, int index, const char *function, const char *expected)
{
    luaL_checkstack(L, LUA_MINSTACK, NULL);
    const char *actual = luaL_typename(L, index);
    if (luaL_getmetafield(L, index, "__name") == LUA_TSTRING)
        actual = lua_tostring(L, -1);
    else if (lua_type(L, index) == LUA_TLIGHTUSERDATA)
        actual = "light userdata";
    else if (lua_isnone(L, index))
        actual = "no value";
    return error_argument(L, index, function, "%s expected, got %s", expected, actual);
}
