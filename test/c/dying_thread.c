/*
 * Threads that end without returning, by themselves or cancelled: from inside a callback, and from
 * inside a singleton's setup. Only the state they were in stays busy, and nobody waits for them.
 */
#include "open_lua.h"

#include <pthread.h>

static int die(lua_State *L)
{
    (void)L;
    pthread_exit(NULL);
}

static int open_die(lua_State *L)
{
    lua_pushcfunction(L, die);
    return 1;
}

static void run(lua_State *L, const char *code)
{
    check_lua(L, luaL_dostring(L, code));
}

struct job {
    lua_State *L; /* closed by who joins, since a dying thread cannot */
    const char *code;
};

static void *work(void *argument)
{
    struct job *job = argument;
    run(job->L, job->code);
    return NULL;
}

static void start(pthread_t *thread, struct job *job, const char *code)
{
    job->L = open_lua("die", open_die);
    job->code = code;
    CHECK(pthread_create(thread, NULL, work, job) == 0);
}

static void a_thread_that_dies_inside_a_state_leaves_only_that_one_busy(void)
{
    lua_State *L = open_lua("die", open_die);
    pthread_t thread;
    struct job job;
    run(L, "mt = require('mtstates')\n"
           "deadly = mt.newstate('deadly', function() local die = require('die')\n"
           "  return function() die() end end)\n"
           "other = mt.newstate('other', function() return function() return 'fine' end end)\n");
    start(&thread, &job, "require('mtstates').state('deadly'):call()");
    pthread_join(thread, NULL);
    lua_close(job.L);
    start(&thread, &job, "assert(require('mtstates').state('other'):call() == 'fine')");
    pthread_join(thread, NULL); /* likely at the dead thread's address, and with its records */
    lua_close(job.L);
    for (int i = 0; i < 3; i++) {
        start(&thread, &job,
              "local mt = require('mtstates')\n"
              "local state = mt.state('deadly')\n"
              "local ok, message = pcall(state.call, state)\n"
              "assert(not ok and message:match(mt.error.concurrent_access), message)\n"
              "assert(state:tcall(0.01) == false)\n"
              "ok, message = pcall(state.close, state)\n"
              "assert(not ok and message:match(mt.error.concurrent_access), message)\n"
              "state:interrupt()");
        pthread_join(thread, NULL);
        lua_close(job.L);
    }
    run(L, "assert(other:call() == 'fine')");
    lua_close(L);
}

static void a_thread_that_dies_inside_a_member_leaves_the_others_to_the_pool(void)
{
    lua_State *L = open_lua("die", open_die);
    pthread_t thread;
    struct job job;
    run(L, "mt = require('mtstates')\n"
           "pool = mt.newpool({ name = 'deadly', size = 2 }, function()\n"
           "  return function(what) if what == 'die' then require('die')() end return 'fine' end\n"
           "end)\n");
    start(&thread, &job, "require('mtstates').pool('deadly'):call('die')");
    pthread_join(thread, NULL);
    lua_close(job.L);
    run(L, "for _ = 1, 3 do\n"
           "  for _ = 1, 3 do assert(pool:call() == 'fine') end\n"
           "  assert(select(2, pool:tcall(math.huge)) == 'fine')\n"
           "  local stats = pool:stats()\n"
           "  assert(stats.busy == 1 and stats.idle == 1 and stats.waiting == 0)\n"
           "  local reached, missed = pool:broadcast(0.01)\n"
           "  assert(reached == 1 and missed == 1)\n"
           "  pool:interrupt()\n"
           "  pool:reload()\n"
           "end\n"
           "assert(pool:close(0.01) == false)\n");
    lua_close(L);
}

static void a_thread_that_dies_in_a_finalizer_closes_the_others_it_was_to_close(void)
{
    lua_State *L = open_lua("die", open_die);
    pthread_t thread;
    struct job job;
    run(L, "mt = require('mtstates')\n"
           "queued = mt.newstate('queued', function() return function() end end)");
    start(&thread, &job,
          "local mt = require('mtstates')\n"
          "local state = mt.newstate(function()\n"
          "  local mt, die = require('mtstates'), require('die')\n"
          "  local weak = mt.state('queued')\n"
          "  keep = setmetatable({}, { __gc = function() weak:close() die() end })\n"
          "  return function() end\n"
          "end)\n"
          "state:close()");
    pthread_join(thread, NULL);
    lua_close(job.L);
    run(L, "assert(not pcall(mt.state, 'queued'))\n"
           "queued:close()\n" /* would find it busy, were it not closed */
           "local ok, message = pcall(queued.call, queued)\n"
           "assert(message:match(mt.error.object_closed), message)");
    lua_close(L);
}

static void a_maker_that_dies_in_setup_makes_room_for_the_next(void)
{
    pthread_t first, second;
    struct job first_job, second_job;
    start(&first, &first_job,
          "require('mtstates').singleton('orphan', function()\n"
          "  os.execute('sleep 0.2') require('die')() end)");
    usleep(100000);
    start(&second, &second_job,
          "local state = require('mtstates').singleton('orphan', function()\n"
          "  return function() return 'second' end end)\n"
          "assert(state:call() == 'second')");
    pthread_join(first, NULL);
    pthread_join(second, NULL);
    lua_close(first_job.L);
    lua_close(second_job.L);
}

/* os.execute is a cancellation point. Waiting is none, so no queue keeps a waiter that is gone. */
static void a_thread_that_is_cancelled_inside_a_state_leaves_only_that_one_busy(void)
{
    lua_State *L = open_lua("die", open_die);
    pthread_t first, second;
    struct job inside, waiting;
    void *result;
    run(L, "mt = require('mtstates')\n"
           "cancelled = mt.newstate('cancelled', function()\n"
           "  return function() os.execute('sleep 2') end end)\n"
           "waited = mt.newstate('waited', function() local done\n"
           "  return function(now) done = done or now return done end end)\n"
           "outer = mt.newstate('outer', function() local mt = require('mtstates')\n"
           "  return function()\n"
           "    mt.state('waited'):call(mt.state('cancelled'):tcall(0.2) == false)\n"
           "    os.execute('sleep 2') end end)\n");
    start(&first, &inside, "require('mtstates').state('cancelled'):call()");
    usleep(100000);
    start(&second, &waiting, "require('mtstates').state('outer'):call()");
    usleep(100000);
    pthread_cancel(second); /* while it waits for the first one's state */
    pthread_cancel(first);
    pthread_join(first, &result);
    CHECK(result == PTHREAD_CANCELED);
    pthread_join(second, &result);
    CHECK(result == PTHREAD_CANCELED);
    lua_close(inside.L);
    lua_close(waiting.L);
    run(L,
        "assert(waited:call() == true)\n"
        "for _, state in ipairs{cancelled, outer} do\n"
        "  local ok, message = pcall(state.call, state)\n"
        "  assert(not ok and message:match(mt.error.concurrent_access), message)\n"
        "  assert(state:tcall(0.01) == false)\n"
        "end\n"
        "assert(mt.newstate(function() return function() return 'fine' end end):call() == 'fine')");
    lua_close(L);
}

int main(void)
{
    a_thread_that_dies_inside_a_state_leaves_only_that_one_busy();
    a_thread_that_is_cancelled_inside_a_state_leaves_only_that_one_busy();
    a_thread_that_dies_inside_a_member_leaves_the_others_to_the_pool();
    a_thread_that_dies_in_a_finalizer_closes_the_others_it_was_to_close();
    a_maker_that_dies_in_setup_makes_room_for_the_next();
    return 0;
}
