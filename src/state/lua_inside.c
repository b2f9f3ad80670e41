#include "lua_inside.h"

#include <pthread.h>
#include <string.h>

/* What the trial saw. */
struct trial {
    int in_hook;      /* allowhook inside of a hook */
    bool counts_left; /* operations until the hook comes */
    int finalizers;   /* so many have run */
    int guard_was_at; /* the first object's was that one */
};

static struct trial *trial_of(lua_State *L)
{
    return *(struct trial **)lua_getextraspace(L);
}

enum { FIRST = 12345 }; /* a count that will not come */

static void on_hook(lua_State *L, lua_Debug *ar)
{
    (void)ar;
    trial_of(L)->in_hook = *lua_inside_allowhook(L);
    lua_sethook(L, NULL, 0, 0);
}

static int on_finalizer(lua_State *L)
{
    struct trial *t = trial_of(L);
    t->finalizers++;
    if (lua_tointeger(L, lua_upvalueindex(1)) == 0)
        t->guard_was_at = t->finalizers;
    return 0;
}

enum { OBJECTS = 3 };

static int try_all(lua_State *L)
{
    for (int i = 0; i < OBJECTS; i++) {
        lua_newuserdatauv(L, 0, 0);
        lua_createtable(L, 0, 1);
        lua_pushinteger(L, i);
        lua_pushcclosure(L, on_finalizer, 1);
        lua_setfield(L, -2, "__gc");
        lua_setmetatable(L, -2);
    }
    int before = *lua_inside_allowhook(L);
    lua_sethook(L, on_hook, LUA_MASKCOUNT, FIRST);
    trial_of(L)->counts_left = *lua_inside_hook_left(L) == FIRST;
    *lua_inside_hook_left(L) = 1;
    if (luaL_loadstring(L, "return 1") != LUA_OK)
        return lua_error(L);
    lua_call(L, 0, 0);
    lua_pushboolean(L, before == 1 && trial_of(L)->counts_left && trial_of(L)->in_hook == 0 &&
                           *lua_inside_allowhook(L) == 1);
    return 1;
}

static enum lua_inside check(void)
{
    struct trial t = {.in_hook = -1};
    lua_State *L = luaL_newstate();
    if (L == NULL)
        return LUA_INSIDE_NO_MEMORY;
    *(struct trial **)lua_getextraspace(L) = &t;
    lua_pushcfunction(L, try_all);
    int status = lua_pcall(L, 0, 1, 0);
    bool hooks = lua_toboolean(L, -1);
    lua_close(L);
    if (status != LUA_OK)
        return LUA_INSIDE_NO_MEMORY;
    bool last = t.finalizers == OBJECTS && t.guard_was_at == OBJECTS;
    return hooks && last ? LUA_INSIDE_AS_ASSUMED : LUA_INSIDE_OTHER;
}

enum lua_inside lua_inside_check(void)
{
    static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
    static enum lua_inside result = LUA_INSIDE_NO_MEMORY;
    pthread_mutex_lock(&mutex);
    if (result == LUA_INSIDE_NO_MEMORY)
        result = check();
    enum lua_inside found = result;
    pthread_mutex_unlock(&mutex);
    return found;
}

bool lua_inside_is_tested(void)
{
    const char *release = strstr(lua_ident, LUA_RELEASE);
    return LUA_VERSION_RELEASE_NUM >= 50404 && LUA_VERSION_RELEASE_NUM <= 50408 &&
           release != NULL && release[strlen(LUA_RELEASE)] == ' ';
}
