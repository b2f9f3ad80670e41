/*
 * A host program that opens Lua, loads the module, makes states, and closes Lua while its threads
 * are inside them; the threads run on and end later. Ten times over, in one process.
 */
#include "check.h"

#include <lauxlib.h>
#include <lualib.h>
#include <pthread.h>
#include <stdatomic.h>

enum { ROUNDS = 10, THREADS = 3 };

static _Atomic long long state_id;
static _Atomic int inside; /* threads that have called the state */

static lua_State *open_lua(void)
{
    lua_State *L = luaL_newstate();
    CHECK(L != NULL);
    luaL_openlibs(L);
    return L;
}

static void run(lua_State *L, const char *code)
{
    if (luaL_dostring(L, code) != LUA_OK) {
        fprintf(stderr, "%s\n", lua_tostring(L, -1));
        exit(1);
    }
}

static int note_inside(lua_State *L)
{
    (void)L;
    atomic_fetch_add(&inside, 1);
    return 0;
}

static void *call_until_closed(void *argument)
{
    (void)argument;
    lua_State *L = open_lua();
    lua_register(L, "note_inside", note_inside);
    lua_pushinteger(L, (lua_Integer)atomic_load(&state_id));
    lua_setglobal(L, "id");
    run(L, "local mt = require('mtstates')\n"
           "local ok, state = pcall(mt.state, id)\n"
           "own = mt.newstate(function() return function() end end)\n"
           "note_inside()\n"
           "while ok do\n"
           "  local message\n"
           "  ok, message = pcall(state.tcall, state, 0.01, 2000)\n"
           "  assert(ok or message:match(mt.error.object_closed), message)\n"
           "end\n"
           "own:call()\n");
    lua_close(L);
    return NULL;
}

int main(void)
{
    for (int round = 0; round < ROUNDS; round++) {
        pthread_t threads[THREADS];
        atomic_store(&inside, 0);
        lua_State *L = open_lua();
        run(L, "local mt = require('mtstates')\n"
               "state = mt.newstate('shared', function()\n"
               "  return function(n) local t = {} for i = 1, n do t[i] = {} end end\n"
               "end)\n"
               "dropped = mt.newstate(function() return function() end end)\n"
               "return state:id()");
        atomic_store(&state_id, lua_tointeger(L, -1));
        for (int i = 0; i < THREADS; i++)
            CHECK(pthread_create(&threads[i], NULL, call_until_closed, NULL) == 0);
        while (atomic_load(&inside) < THREADS)
            usleep(1000);
        usleep(20000);
        lua_close(L); /* the only owner goes; somebody is inside */
        for (int i = 0; i < THREADS; i++)
            pthread_join(threads[i], NULL);
    }
    printf("%d rounds\n", ROUNDS);
    return 0;
}
