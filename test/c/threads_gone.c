/*
 * Thousands of threads that used the module at one time, and are gone, leave everything as fast as
 * it was: look-ups, calls, making and closing. Measured by the processor's time, in turn with what
 * Lua does alone: so that a machine that has slowed down, or a fast moment of it, is none of ours.
 */
#include "open_lua.h"

#include <pthread.h>

enum { THREADS = 5000, BATCHES = 30 };

/* Twice, so that nothing but a real slowing down fails. */
static const double MOST = 2;

static pthread_barrier_t barrier;

static int open_nothing(lua_State *L)
{
    lua_newtable(L);
    return 1;
}

static const struct operation {
    const char *name;
    int count; /* so many in one batch */
    const char *code;
} operations[] = {
    {"look-up by id", 2000, "for _ = 1, ... do mt.state(id) end"},
    {"look-up by name", 2000, "for _ = 1, ... do mt.state('shared') end"},
    {"look-up of nothing", 1000, "for _ = 1, ... do pcall(mt.state, 1) end"},
    {"call", 2000, "for _ = 1, ... do shared:call(1) end"},
    {"tcall", 2000, "for _ = 1, ... do shared:tcall(1, 1) end"},
    {"singleton", 1000, "for _ = 1, ... do mt.singleton('shared', ECHO) end"},
    {"make and close", 100, "for _ = 1, ... do mt.newstate(nil, false, ECHO):close() end"},
    {"make by name and close", 100, "for _ = 1, ... do mt.newstate('x', false, ECHO):close() end"},
    {"own it no more", 100,
     "for _ = 1, ... do local _ <close> = mt.newstate(nil, false, ECHO) end"},
    {"collection", 1, "for _ = 1, ... do collectgarbage() collectgarbage() end"},
};

enum { OPERATIONS = sizeof operations / sizeof operations[0] };

static const struct operation alone = {"Lua alone", 2000,
                                       "for _ = 1, ... do pcall(select, '#', {}, 'x' .. _) end"};

/* What one of a batch took, in seconds. */
static double batch(lua_State *L, const struct operation *o)
{
    check_lua(L, luaL_loadstring(L, o->code));
    lua_gc(L, LUA_GCCOLLECT);
    lua_pushinteger(L, o->count);
    double start = test_thread_clock();
    check_lua(L, lua_pcall(L, 1, 0, 0));
    return (test_thread_clock() - start) / o->count;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* How many times as long one of them takes as one of Lua alone: the median. */
static double cost(lua_State *L, const struct operation *o)
{
    double ratios[BATCHES];
    for (int i = 0; i < BATCHES; i++) {
        double before = batch(L, &alone), took = batch(L, o), after = batch(L, &alone);
        ratios[i] = 2 * took / (before + after);
    }
    qsort(ratios, BATCHES, sizeof *ratios, compare);
    return ratios[BATCHES / 2];
}

static void measure(lua_State *L, double costs[OPERATIONS])
{
    for (int i = 0; i < OPERATIONS; i++)
        costs[i] = cost(L, &operations[i]);
}

/* What each thread does once; `how` says what besides the look-ups. */
static void use(lua_State *L, const char *how)
{
    check_lua(L, luaL_loadstring(L, "local mt, how = ...\n"
                                    "local state = mt.state('shared')\n"
                                    "assert(mt.state(state:id()) == state)\n"
                                    "if how == 'call' then\n"
                                    "  state:tcall(100)\n"
                                    "elseif how == 'make' then\n"
                                    "  mt.newstate(nil, false, 'return function() end'):close()\n"
                                    "  mt.singleton('shared', 'return nil')\n"
                                    "end"));
    luaL_requiref(L, "mtstates", luaopen_mtstates, 0);
    lua_pushstring(L, how);
    check_lua(L, lua_pcall(L, 2, 0, 0));
}

static void *live_a_while(void *how)
{
    lua_State *L = luaL_newstate();
    CHECK(L != NULL);
    luaL_requiref(L, LUA_GNAME, luaopen_base, 1);
    luaL_requiref(L, LUA_LOADLIBNAME, luaopen_package, 1);
    lua_settop(L, 0);
    use(L, how);
    lua_close(L);
    pthread_barrier_wait(&barrier); /* until all have */
    return NULL;
}

static void many_threads(const char *how)
{
    static pthread_t threads[THREADS];
    char text[16];
    pthread_attr_t attributes;
    snprintf(text, sizeof text, "%s", how);
    CHECK(pthread_attr_init(&attributes) == 0);
    CHECK(pthread_attr_setstacksize(&attributes, 256 * 1024) == 0);
    CHECK(pthread_barrier_init(&barrier, NULL, THREADS) == 0);
    for (int i = 0; i < THREADS; i++)
        CHECK(pthread_create(&threads[i], &attributes, live_a_while, text) == 0);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    pthread_barrier_destroy(&barrier);
    pthread_attr_destroy(&attributes);
}

int main(void)
{
    static const char *const ways[] = {"look up", "call", "make"};
    lua_State *L = open_lua("nothing", open_nothing);
    double before[OPERATIONS], after[OPERATIONS];
    bool ok = true;
    check_lua(L, luaL_dostring(L, "mt = require('mtstates')\n"
                                  "ECHO = 'return function(...) return ... end'\n"
                                  "shared = mt.newstate('shared', ECHO)\n"
                                  "id = shared:id()\n"));
    measure(L, before);
    for (int way = 0; way < 3; way++) {
        many_threads(ways[way]);
        measure(L, after);
        printf("after %d threads more that did '%s':\n", THREADS, ways[way]);
        for (int i = 0; i < OPERATIONS; i++) {
            double ratio = after[i] / before[i];
            bool worse = ratio > MOST && (after[i] = cost(L, &operations[i])) > MOST * before[i];
            printf("%24s %8.3f x Lua alone, %8.3f before%s\n", operations[i].name, after[i],
                   before[i], worse ? "  MUCH SLOWER" : "");
            ok = ok && !worse;
        }
    }
    lua_close(L);
    return ok ? 0 : 1;
}
