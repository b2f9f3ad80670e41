/*
 * What it costs to watch ten thousand states with a time limit, of which fifty are busy; and that
 * nothing is left of the watching when they are not. Wants the machine for itself.
 */
#include "open_lua.h"

#include <dirent.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/syscall.h>

enum { STATES = 10000, BUSY = 50 };

static atomic_bool stop;
static _Atomic int started;

/* Sleeps for the most time: what runs in the states is not to be measured. */
static int is_over(lua_State *L)
{
    usleep(20000);
    lua_pushboolean(L, atomic_load(&stop));
    return 1;
}

static int open_is_over(lua_State *L)
{
    lua_pushcfunction(L, is_over);
    return 1;
}

static const char make_sleepers[] =
    "local mt = require('mtstates')\n"
    "kept = {}\n"
    "for i = 1, ... do\n"
    "  kept[i] = mt.newstate({ libs = false, time_limit = 3600 }, function()\n"
    "    local is_over = require('over')\n"
    "    return function() while not is_over() do end end\n"
    "  end)\n"
    "end\n"
    "return function(i) return kept[i]:id() end\n";

struct caller {
    pthread_t thread;
    lua_Integer id;
    long tid;
};

static void *call_sleeper(void *argument)
{
    struct caller *c = argument;
    lua_State *L = open_lua("over", open_is_over);
    c->tid = syscall(SYS_gettid);
    check_lua(L, luaL_loadstring(L, "local s = require('mtstates').state(...) return s:call()"));
    lua_pushinteger(L, c->id);
    atomic_fetch_add(&started, 1);
    check_lua(L, lua_pcall(L, 1, 0, 0));
    lua_close(L);
    return NULL;
}

static double time_of(long tid)
{
    char path[300];
    unsigned long long ns = 0;
    snprintf(path, sizeof path, "/proc/self/task/%ld/schedstat", tid);
    FILE *file = fopen(path, "r");
    if (file != NULL) {
        if (fscanf(file, "%llu", &ns) != 1)
            ns = 0;
        fclose(file);
    }
    return (double)ns * 1e-9;
}

/* The time on a processor that those threads of the process have had that are not ours. */
static double others_time(const struct caller *callers, long waker)
{
    double sum = 0;
    DIR *tasks = opendir("/proc/self/task");
    CHECK(tasks != NULL);
    for (struct dirent *d; (d = readdir(tasks)) != NULL;) {
        long tid = strtol(d->d_name, NULL, 10);
        bool is_ours = tid <= 0 || tid == getpid() || tid == waker;
        for (int i = 0; i < BUSY; i++)
            is_ours = is_ours || callers[i].tid == tid;
        if (is_ours)
            continue;
        sum += time_of(tid);
    }
    closedir(tasks);
    return sum;
}

/* Wakes as often as the ticker does, and does nothing: that part is the system's work. */
static void *wake_only(void *waker)
{
    atomic_store((_Atomic long *)waker, syscall(SYS_gettid));
    while (!atomic_load(&stop))
        usleep(10000);
    return NULL;
}

static int count_threads(void)
{
    int count = 0;
    DIR *tasks = opendir("/proc/self/task");
    CHECK(tasks != NULL);
    for (struct dirent *d; (d = readdir(tasks)) != NULL;)
        count += d->d_name[0] != '.';
    closedir(tasks);
    return count;
}

/* How many times as slow as usual a core is, whose threads may share it with somebody else's: by a
 * loop of Lua that takes 5 ms otherwise. At least 1. */
static double slowness(lua_State *L)
{
    double begun = test_thread_clock();
    check_lua(L, luaL_dostring(L, "local sum = 0 for i = 1, 1000000 do sum = sum + i end"));
    double seconds = test_thread_clock() - begun;
    return seconds > 0.005 ? seconds / 0.005 : 1;
}

static void watching_many_costs_little(double seconds, int threads_at_first)
{
    static struct caller callers[BUSY];
    _Atomic long waker = 0;
    pthread_t waker_thread;
    CHECK(pthread_create(&waker_thread, NULL, wake_only, &waker) == 0);
    lua_State *L = open_lua("over", open_is_over);
    check_lua(L, luaL_loadstring(L, make_sleepers));
    lua_pushinteger(L, STATES);
    check_lua(L, lua_pcall(L, 1, 1, 0));
    for (int i = 0; i < BUSY; i++) {
        lua_pushvalue(L, -1);
        lua_pushinteger(L, i + 1);
        check_lua(L, lua_pcall(L, 1, 1, 0));
        callers[i].id = lua_tointeger(L, -1);
        lua_pop(L, 1);
        CHECK(pthread_create(&callers[i].thread, NULL, call_sleeper, &callers[i]) == 0);
    }
    while (atomic_load(&started) < BUSY || waker == 0)
        usleep(1000);
    usleep(50000);
    double least = 1;
    for (int i = 0; i < 5 && least >= 0.005; i++) { /* other work can only add to it */
        double before = others_time(callers, waker), waker_before = time_of(waker);
        double begun = test_clock();
        CHECK(before > 0 && waker_before > 0); /* there are such threads */
        usleep((useconds_t)(seconds * 1e6));
        double elapsed = test_clock() - begun;
        double part = (others_time(callers, waker) - before) / elapsed;
        double waking = (time_of(waker) - waker_before) / elapsed;
        double slow = slowness(L), own = (part - waking) / slow;
        printf("watching %d busy of %d states takes %.3f %% of a core, of which waking takes %.3f; "
               "the core is %.2f times as slow as usual\n",
               BUSY, STATES, part * 100, waking * 100, slow);
        least = own < least ? own : least;
    }
    CHECK(least < 0.005);

    atomic_store(&stop, true);
    for (int i = 0; i < BUSY; i++)
        CHECK(pthread_join(callers[i].thread, NULL) == 0);
    CHECK(pthread_join(waker_thread, NULL) == 0);
    sleep(2); /* with nobody in such a state the ticker sleeps, and ends a second later */
    CHECK(count_threads() == threads_at_first);
    lua_close(L);
}

int main(void)
{
    watching_many_costs_little(test_seconds() >= 30 ? 10 : 1, count_threads());
    return 0;
}
