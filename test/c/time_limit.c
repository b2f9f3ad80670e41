/*
 * Time limits on a loaded machine: none strikes early, none strikes later than it may, none hits
 * the next caller.
 *
 * A thread that is ready may get no processor for long, so lateness is counted in the thread's own
 * processor time from when its limit was over on the clock.
 */
#include "open_lua.h"

#include <pthread.h>
#include <string.h>

/* Of the stay that the thread is in. */
static _Thread_local struct {
    double over;        /* when its limit is, on the clock */
    double ran_at_over; /* the thread's time when it first ran after that; 0: it did not yet */
} stay;

/* Called by the loop in the state all the time. */
static int look(lua_State *L)
{
    (void)L;
    bool is_over = test_clock() >= stay.over; /* in any case: TSan delivers signals at such calls */
    if (is_over && stay.ran_at_over == 0)
        stay.ran_at_over = test_thread_clock();
    return 0;
}

static int open_look(lua_State *L)
{
    lua_pushcfunction(L, look);
    return 1;
}

static const char make_loop[] =
    "local seconds = ...\n"
    "return require('mtstates').newstate({ time_limit = seconds }, function()\n"
    "  local look = require('look')\n"
    "  return function(how, turns)\n"
    "    if how == 'innocent' then return turns end\n"
    "    if how == 'loop' then while true do look() end end\n"
    "    if how == 'swallow' then while true do pcall(function() while true do look() end end) end "
    "end\n"
    "    for _ = 1, turns do look() end\n" /* about as long as the limit */
    "    return turns\n"
    "  end\n"
    "end)\n";

struct tries {
    pthread_t thread;
    uint64_t random;
    int count;
    double latest; /* in the thread's time, of what is allowed */
};

/* Of index 1, the handle. The error, or the result, on top. */
static int call(lua_State *L, const char *how, lua_Integer turns)
{
    lua_settop(L, 1);
    lua_pushvalue(L, 1);
    lua_pushstring(L, how);
    lua_pushinteger(L, turns);
    return lua_pcall(L, 2, 1, 0);
}

static bool is_struck(lua_State *L)
{
    return lua_type(L, -1) == LUA_TSTRING &&
           strstr(lua_tostring(L, -1), "mtstates.error.time_limit") != NULL;
}

/* A stay that ends by itself, unless its limit is over by then: also one for which a strike comes
 * too late does not have it handed on to the next. */
static void end_by_itself(lua_State *L, const char *how, lua_Integer turns, double limit)
{
    double begun = test_clock();
    if (call(L, how, turns) == LUA_OK) {
        CHECK(lua_tointeger(L, -1) == turns);
        return;
    }
    double lasted = test_clock() - begun;
    if (!is_struck(L) || lasted < limit)
        fprintf(stderr, "%f s of %f: %s\n", lasted, limit, lua_tostring(L, -1));
    CHECK(is_struck(L) && lasted >= limit);
}

static void be_innocent(lua_State *L, double limit)
{
    for (int i = 1; i <= 20; i++)
        end_by_itself(L, "innocent", i, limit);
}

/* One stay that its limit ends, after `lasts` times as long at most: where the first strike may be
 * caught. */
static void try_one(lua_State *L, struct tries *t, const char *how, double limit, int lasts)
{
    double allowed = limit / 4 > 0.05 ? limit / 4 : 0.05, begun = test_clock();
    stay.over = begun + lasts * limit;
    stay.ran_at_over = 0;
    CHECK(call(L, how, 0) != LUA_OK && is_struck(L));
    CHECK(test_clock() - begun >= limit);
    double late = stay.ran_at_over == 0 ? 0 : test_thread_clock() - stay.ran_at_over;
    if (late / allowed > t->latest)
        t->latest = late / allowed;
    be_innocent(L, limit);
}

/* Stays that last about as long as their limit. */
static void try_close_ones(lua_State *L, struct tries *t, double limit)
{
    lua_Integer turns = 0;
    stay.over = 1e18;
    for (double end = test_clock() + limit; test_clock() < end; turns += 1000)
        end_by_itself(L, "turns", 1000, limit);
    for (int i = 0; i < 10; i++)
        end_by_itself(L, "turns", turns / 10 * (lua_Integer)(5 + random_below(&t->random, 10)),
                      limit);
    be_innocent(L, limit);
}

/* Again where the limit strikes in setup. */
static void make_state(lua_State *L, double limit)
{
    int status;
    do {
        lua_settop(L, 0);
        check_lua(L, luaL_loadstring(L, make_loop));
        lua_pushnumber(L, limit);
        status = lua_pcall(L, 1, 1, 0);
    } while (status != LUA_OK && is_struck(L));
    check_lua(L, status);
}

static void *try_many(void *argument)
{
    struct tries *t = argument;
    lua_State *L = open_lua("look", open_look);
    for (int i = 0; i < t->count; i++) {
        double limit = (double)(10 + random_below(&t->random, 90)) / 1000;
        bool is_long = random_below(&t->random, 20) == 0;
        limit = is_long ? limit * 10 : limit;
        make_state(L, limit);
        if (random_below(&t->random, 3) == 0)
            try_one(L, t, "swallow", limit, 2);
        else
            try_one(L, t, "loop", limit, 1);
        if (!is_long && i % 8 == 0)
            try_close_ones(L, t, limit);
    }
    lua_close(L);
    return NULL;
}

static void limits_strike_in_time(uint64_t random, int tries)
{
    enum { THREADS = 16 };
    struct tries t[THREADS];
    double latest = 0;
    for (int i = 0; i < THREADS; i++) {
        t[i] = (struct tries){.random = random + (uint64_t)i, .count = tries / THREADS + 1};
        CHECK(pthread_create(&t[i].thread, NULL, try_many, &t[i]) == 0);
    }
    for (int i = 0; i < THREADS; i++) {
        CHECK(pthread_join(t[i].thread, NULL) == 0);
        latest = t[i].latest > latest ? t[i].latest : latest;
    }
    printf("%d tries, the latest after %.2f of what is allowed\n", tries, latest);
    CHECK(latest <= 1);
}

int main(void)
{
    uint64_t random = test_seed();
    limits_strike_in_time(random, test_seconds() >= 30 ? 1000 : 100);
    return 0;
}
