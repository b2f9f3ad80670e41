/*
 * Requests in quick succession at a state whose code catches every one and loops on: each takes
 * effect.
 */
#include "check.h"
#include "state.h"

#include <lauxlib.h>
#include <lualib.h>
#include <pthread.h>
#include <sched.h>

static void *catch_and_loop(void *argument)
{
    lua_State *target = argument;
    luaL_requiref(target, LUA_GNAME, luaopen_base, 1);
    CHECK(luaL_loadstring(target, "while true do pcall(function() while true do end end) end") ==
          LUA_OK);
    for (;;) { /* a request may strike outside of the inner pcall, too */
        lua_pushvalue(target, -1);
        CHECK(lua_pcall(target, 0, 0, 0) == LUA_ERRRUN);
        lua_pop(target, 1);
    }
    return NULL;
}

/* Waits until the last request has struck. */
static void await_strike(struct interrupt *i)
{
    double deadline = test_clock() + 10;
    while (interrupt_is_pending(i)) {
        CHECK(test_clock() < deadline); /* lost: pending, and nobody looks */
        sched_yield();
    }
}

int main(void)
{
    uint64_t random = test_seed();
    struct state *s = state_new(thread_self(), NULL, 0);
    CHECK(s != NULL);
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, catch_and_loop, s->target) == 0);
    usleep(50000);
    double deadline = test_clock() + test_seconds();
    long rounds = 0;
    while (test_clock() < deadline) {
        bool always = random_below(&random, 2);
        CHECK(interrupt_send(&s->interrupt, always ? INTERRUPT_ALWAYS : INTERRUPT_ONCE));
        if (always)
            CHECK(interrupt_send(&s->interrupt, INTERRUPT_NONE));
        for (volatile uint64_t k = random_below(&random, 1000); k > 0; k--)
            ;
        CHECK(interrupt_send(&s->interrupt, INTERRUPT_ONCE));
        await_strike(&s->interrupt);
        rounds++;
    }
    printf("%ld rounds\n", rounds);
    CHECK(rounds > 0);
    return 0; /* the thread loops until the process ends */
}
