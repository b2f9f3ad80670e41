/*
 * Requests in quick succession at a state whose code catches every one and loops on: each takes
 * effect, whatever hooks the code has of its own, and none twice.
 */
#include "check.h"
#include "state/error.h"
#include "state/interpreter.h"
#include "state/stay.h"

#include <lauxlib.h>
#include <lualib.h>
#include <pthread.h>
#include <sched.h>
#include <string.h>

static _Atomic long struck;
static _Atomic(struct state *) made;

static int count(lua_State *L)
{
    (void)L;
    atomic_fetch_add(&struck, 1);
    return 0;
}

/* TSan delivers signals at calls of libc that it watches. */
static int breathe(lua_State *L)
{
    (void)L;
    usleep(0);
    return 0;
}

static const char code[] =
    "local hook, mask, hook_count, watched = ...\n"
    "local function nothing() end\n"
    "if hook then debug.sethook(nothing, mask, hook_count) end\n"
    "local function loop()\n"
    "  if watched then while true do breathe() end end\n"
    "  while true do end\n"
    "end\n"
    "while true do\n"
    "  local ok, message = pcall(loop)\n"
    "  assert(message == 'mtstates.error.interrupted')\n"
    "  local now, now_mask, now_count = debug.gethook()\n"
    "  assert(not hook or now == nothing and now_mask == mask and now_count == hook_count)\n"
    "  count()\n"
    "end\n";

static const struct own_hook {
    const char *mask;
    int count;
} own_hooks[] = {{NULL, 0}, {"l", 0}, {"", 1}, {"", 1000}, {"", 2000000000}, {"crl", 7}};

enum { OWN_HOOKS = sizeof own_hooks / sizeof *own_hooks };

static void *catch_and_loop(void *argument)
{
    const struct own_hook *own = argument;
    struct state_options options = {.libs = true, .memory_limit = ARENA_NO_LIMIT};
    struct state *s = state_new(thread_self(), &options);
    struct stay stay;
    CHECK(s != NULL);
    CHECK(stay_begin_setup(&stay, s, thread_self()));
    lua_State *L = s->main;
    interpreter_start(L);
    lua_register(L, "count", count);
    lua_register(L, "breathe", breathe);
    CHECK(luaL_loadstring(L, code) == LUA_OK);
    atomic_store(&made, s);
    for (;;) { /* a request may strike outside of the inner pcall, too */
        lua_settop(L, 1);
        lua_pushvalue(L, 1);
        lua_pushboolean(L, own->mask != NULL);
        lua_pushstring(L, own->mask);
        lua_pushinteger(L, own->count);
        lua_pushboolean(L, getenv("MTSTATES_TEST_TSAN") != NULL);
        CHECK(lua_pcall(L, 4, 0, 0) == LUA_ERRRUN);
        if (strcmp(lua_tostring(L, -1), ERROR_INTERRUPTED) != 0) {
            fprintf(stderr, "%s\n", lua_tostring(L, -1));
            exit(1);
        }
        count(L);
    }
    return NULL;
}

enum { PATIENCE = 10 }; /* seconds */

static void wait_for(long strikes)
{
    double deadline = test_clock() + PATIENCE;
    while (atomic_load(&struck) < strikes) {
        CHECK(test_clock() < deadline);
        sched_yield();
    }
}

static void every_request_strikes_once(const struct own_hook *own, uint64_t *random, double seconds)
{
    pthread_t thread;
    atomic_store(&struck, 0);
    atomic_store(&made, NULL);
    CHECK(pthread_create(&thread, NULL, catch_and_loop, (void *)own) == 0);
    while (atomic_load(&made) == NULL)
        sched_yield();
    struct state *s = atomic_load(&made);
    usleep(20000);
    double deadline = test_clock() + seconds, slowest = 0;
    long rounds = 0;
    while (test_clock() < deadline) {
        for (volatile uint64_t k = random_below(random, 1000); k > 0; k--)
            ;
        double start = test_clock();
        CHECK(interrupt_send(s, INTERRUPT_ONCE));
        wait_for(++rounds);
        double took = test_clock() - start;
        slowest = took > slowest ? took : slowest;
    }
    usleep(50000);
    CHECK(atomic_load(&struck) == rounds);
    printf("%ld rounds with mask '%s', count %d: none lost, the slowest after %.1f ms\n", rounds,
           own->mask ? own->mask : "none", own->count, slowest * 1e3);
    CHECK(rounds > 0);
}

int main(void)
{
    uint64_t random = test_seed();
    CHECK(registry_init());
    interrupt_prepare();
    for (int i = 0; i < OWN_HOOKS; i++)
        every_request_strikes_once(&own_hooks[i], &random, test_seconds() / OWN_HOOKS);
    return 0; /* the threads loop until the process ends */
}
