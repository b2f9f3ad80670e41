/*
 * Processes that fork while their other threads are at work in the module: the child makes, looks
 * up, calls, waits for, interrupts and closes states of its own. MTSTATES_TEST_SECONDS forks for
 * longer.
 */
#include "open_lua.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/wait.h>

enum { FORKS = 200, CHILD_SECONDS = 20 };

static _Atomic bool stop;

static int nap(lua_State *L)
{
    usleep((useconds_t)luaL_checkinteger(L, 1));
    return 0;
}

static int open_nap(lua_State *L)
{
    lua_pushcfunction(L, nap);
    return 1;
}

static void run(lua_State *L, const char *code)
{
    check_lua(L, luaL_dostring(L, code));
}

/* Makes, looks up and closes all the time, so that a fork finds locks held and tables half changed.
 */
static void *keep_busy(void *argument)
{
    lua_State *L = open_lua("nap", open_nap);
    (void)argument;
    run(L, "mt = require('mtstates')\n"
           "function step()\n"
           "  local states = {}\n"
           "  for i = 1, 20 do\n"
           "    states[i] = mt.newstate('parent ' .. i % 3, false, 'return function() end')\n"
           "    mt.state(states[i]:id()):call()\n"
           "    pcall(mt.state, 'parent 1')\n"
           "    local one = mt.singleton('only', false, 'return function() end')\n"
           "    pcall(one.tcall, one, 0.001)\n"
           "    pcall(i % 4 == 0 and mt.profile.stop or mt.profile.start)\n"
           "  end\n"
           "  for i = 1, 20 do states[i]:close() end\n"
           "end\n");
    while (!atomic_load(&stop))
        run(L, "step()");
    lua_close(L);
    return NULL;
}

static void *interrupt(void *argument)
{
    (void)argument;
    lua_State *L = open_lua("nap", open_nap);
    run(L, "local mt = require('mtstates')\n"
           "local state = mt.state('own, looping')\n"
           "repeat\n"
           "  require('nap')(2000)\n"
           "until not pcall(state.interrupt, state)\n");
    lua_close(L);
    return NULL;
}

static void *stay_inside(void *argument)
{
    (void)argument;
    lua_State *L = open_lua("nap", open_nap);
    run(L, "require('mtstates').state('own, waited for'):tcall(10, true)");
    lua_close(L);
    return NULL;
}

/* In a Lua state of the child's own, which may have been opened before the fork. */
static void work(lua_State *L)
{
    run(L,
        "mt = require('mtstates')\n"
        "local ids = {}\n"
        "for i = 1, 10 do\n"
        "  local state = mt.newstate('own', function() return function(...) return ... end end)\n"
        "  assert(mt.state('own') == state and mt.state(state:id()):call(i) == i)\n"
        "  assert(not ids[state:id()])\n"
        "  ids[state:id()] = true\n"
        "  local same = mt.singleton('own', 'return nil')\n"
        "  assert(same == state)\n"
        "  state:close()\n"
        "  assert(not pcall(mt.state, 'own'))\n"
        "end\n"
        "local single = mt.singleton('own, single', 'return function() return 1 end')\n"
        "assert(single:call() == 1)\n"
        /* The parent's profile, if there is one, does not go on here; and the ticker may have to
         * wait for a processor. */
        "local state = mt.newstate(nil, 'return function() for _ = 1, 1000000 do end end')\n"
        "local seconds = 0.01\n"
        "repeat\n"
        "  seconds = 2 * seconds\n"
        "  assert(seconds < 10)\n"
        "  mt.profile.start({ interval = 0.001 })\n"
        "  local before = os.clock()\n"
        "  repeat state:call() until os.clock() - before > seconds\n"
        "until mt.profile.stop():stats().samples > 0\n"
        "state:close()\n"
        "assert(not pcall(mt.profile.stop))\n");
}

/* A thread of the child's own interrupts one state, and has to be waited for in another. */
static void work_with_threads(lua_State *L)
{
    pthread_t thread;
    run(L, "mt = require('mtstates')\n"
           "looping = mt.newstate('own, looping', 'return function() while true do os.time() end "
           "end')\n"
           "waited = mt.newstate('own, waited for', [[\n"
           "  local inside\n"
           "  return function(wait)\n"
           "    inside = true\n"
           "    if wait then require('nap')(10000) end\n"
           "    return inside\n"
           "  end]])\n");
    CHECK(pthread_create(&thread, NULL, interrupt, NULL) == 0);
    run(L, "local ok, message = pcall(looping.call, looping)\n"
           "assert(not ok and message:match(mt.error.interrupted), message)\n"
           "looping:close()\n");
    pthread_join(thread, NULL);
    CHECK(pthread_create(&thread, NULL, stay_inside, NULL) == 0);
    run(L, "for _ = 1, 3 do\n"
           "  local in_time, inside = waited:tcall(10)\n"
           "  assert(in_time and inside)\n"
           "end\n");
    pthread_join(thread, NULL);
    run(L, "waited:close()");
}

static void work_anew(bool threads)
{
    lua_State *L = open_lua("nap", open_nap);
    work(L);
    if (threads)
        work_with_threads(L);
    lua_close(L);
}

/* Ends the test if the child does not end well, and soon. */
static void wait_for(pid_t child, int number)
{
    int status;
    double deadline = test_clock() + CHILD_SECONDS;
    pid_t ended;
    while ((ended = waitpid(child, &status, WNOHANG)) == 0 && test_clock() < deadline)
        usleep(500);
    if (ended == 0) {
        kill(child, SIGKILL);
        waitpid(child, &status, 0);
        fprintf(stderr, "the child of fork %d hangs\n", number);
        exit(1);
    }
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
        fprintf(stderr, "the child of fork %d ended with status 0x%x\n", number, (unsigned)status);
        exit(1);
    }
}

/* Every other child works in the parent's Lua state. */
static void fork_often(lua_State *L, uint64_t *random)
{
    double end = test_clock() + (getenv("MTSTATES_TEST_SECONDS") != NULL ? test_seconds() : 0);
    for (int i = 1; i <= FORKS || test_clock() < end; i++) {
        usleep((useconds_t)random_below(random, 2000));
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            if (i % 2 == 0)
                work(L);
            else
                work_anew(i % 11 == 0);
            _exit(0);
        }
        wait_for(child, i);
    }
}

static void children_with_busy_parents_have_states_of_their_own(lua_State *L)
{
    pthread_t thread;
    uint64_t random = test_seed();
    CHECK(pthread_create(&thread, NULL, keep_busy, NULL) == 0);
    run(L, "kept = require('mtstates').newstate('parent', 'return function(n) return n end')");
    fork_often(L, &random);
    atomic_store(&stop, true);
    pthread_join(thread, NULL);
    run(L, "assert(kept:call(1) == 1)");
}

static void the_parent_goes_on_where_its_child_closed_all(lua_State *L)
{
    run(L, "mt = require('mtstates')\n"
           "kept = mt.newstate('kept', 'local n = 0 return function() n = n + 1 return n end')\n"
           "assert(kept:call() == 1)\n");
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        work(L);
        work_with_threads(L);
        lua_close(L);
        _exit(0);
    }
    wait_for(child, 0);
    run(L, "assert(kept:call() == 2 and mt.state('kept'):call() == 3)\n"
           "kept:close()\n");
}

/* The child of a child, and a child whose parent had never used the module. */
static void children_of_children_have_states_of_their_own(void)
{
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        work_anew(true);
        pid_t grandchild = fork();
        CHECK(grandchild >= 0);
        if (grandchild == 0) {
            work_anew(true);
            _exit(0);
        }
        wait_for(grandchild, 0);
        work_anew(true);
        _exit(0);
    }
    wait_for(child, 0);
}

int main(void)
{
    children_of_children_have_states_of_their_own();
    lua_State *L = open_lua("nap", open_nap);
    children_with_busy_parents_have_states_of_their_own(L);
    the_parent_goes_on_where_its_child_closed_all(L);
    lua_close(L);
    return 0;
}
