/*
 * Everything at random. For a given time each of several threads, with a Lua state of its own, runs
 * soak.lua: it makes states and pools, calls them, looks them up, interrupts, reloads, closes and
 * drops them, and so do the states. Threads end and others take their place; some leave their Lua
 * state, with all handles, to be closed by another thread.
 *
 *     test_soak [--seconds N] [--threads T] [--seed S]
 *
 * What has to hold all along:
 *   - A call that returned has run the callback once; one that was refused has not run it.
 *   - Two threads are never inside one state, nor is anybody when it closes.
 *   - No id is given twice.
 *   - Values come back as they were sent, and errors are those that soak.lua expects.
 * At the end:
 *   - Calls as the states have counted them are as many as the callers have counted.
 *   - No state lives, none is found by its id or name, and no pool by its name.
 *   - The module has no byte and the process no file descriptor more than at the start.
 *
 * The seed decides what each thread does; which thread is first, the system decides.
 *
 * The bytes are exact. The linker's --wrap sends the module's memory here (see CMakeLists.txt); the
 * threads' own Lua states use the library's. Two things the module keeps for good, and the start
 * is where they have their full size: the tables of the registry, which grow with the most states
 * that ever lived (hence warm_up's crowd, four times what soak.lua makes), and what was removed
 * from the registry last, which later removals free (hence least_bytes, the least after any of a
 * number of removals).
 */
#include "carray.h"
#include "open_lua.h"
#include "state/error.h"
#include "sync/registry.h"

#include <dirent.h>
#include <getopt.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>

enum {
    THREADS_MAX = 64,
    STATES = 250, /* no more are made while so many live */
    CROWD = 4 * STATES,
    POSTS = 12,
    NAMES = 20,
    SINGLETONS = 4,
    LIFE = 2000, /* steps of a thread, at most */
    HANG_SECONDS = 30
};

static uint64_t seed;
static double deadline;

/* ---- the module's memory ---- */

static _Atomic int64_t bytes;

void *__real_malloc(size_t size);
void *__real_realloc(void *block, size_t size);
void __real_free(void *block);
void *__real_mmap(void *address, size_t size, int protection, int flags, int file, off_t offset);
int __real_munmap(void *address, size_t size);
void *__real_mremap(void *address, size_t old_size, size_t new_size, int flags, ...);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_realloc(void *block, size_t size);
void __wrap_free(void *block);
void *__wrap_mmap(void *address, size_t size, int protection, int flags, int file, off_t offset);
int __wrap_munmap(void *address, size_t size);
void *__wrap_mremap(void *address, size_t old_size, size_t new_size, int flags, ...);

static void count_bytes(int64_t change)
{
    atomic_fetch_add_explicit(&bytes, change, memory_order_relaxed);
}

/* In front of each block: its size as asked for, since malloc gives now and then a little more. */
union header {
    size_t size;
    max_align_t align;
};

static void *counted(union header *h, size_t size)
{
    if (h == NULL)
        return NULL;
    h->size = size;
    count_bytes((int64_t)size);
    return h + 1;
}

void *__wrap_malloc(size_t size)
{
    return counted(__real_malloc(sizeof(union header) + size), size);
}

void *__wrap_calloc(size_t count, size_t size)
{
    void *block = __wrap_malloc(count * size);
    return block != NULL ? memset(block, 0, count * size) : NULL;
}

void *__wrap_realloc(void *block, size_t size)
{
    if (block == NULL)
        return __wrap_malloc(size);
    union header *h = (union header *)block - 1;
    int64_t before = (int64_t)h->size;
    void *moved = counted(__real_realloc(h, sizeof *h + size), size);
    if (moved != NULL)
        count_bytes(-before);
    return moved;
}

/* The module keeps such blocks for good, so they need no header. */
void __wrap_free(void *block)
{
    if (block == NULL)
        return;
    union header *h = (union header *)block - 1;
    count_bytes(-(int64_t)h->size);
    __real_free(h);
}

void *__wrap_mmap(void *address, size_t size, int protection, int flags, int file, off_t offset)
{
    void *mapped = __real_mmap(address, size, protection, flags, file, offset);
    if (mapped != MAP_FAILED)
        count_bytes((int64_t)size);
    return mapped;
}

int __wrap_munmap(void *address, size_t size)
{
    count_bytes(-(int64_t)size);
    return __real_munmap(address, size);
}

void *__wrap_mremap(void *address, size_t old_size, size_t new_size, int flags, ...)
{
    void *mapped = __real_mremap(address, old_size, new_size, flags);
    if (mapped != MAP_FAILED)
        count_bytes((int64_t)new_size - (int64_t)old_size);
    return mapped;
}

/* ---- threads ---- */

struct worker {
    pthread_t thread;
    lua_State *L;
    uint64_t random;
    bool leaves_lua;    /* for who joins it to close */
    _Atomic bool ended; /* there is nothing more to come but the join */
    _Atomic long steps;
    _Atomic(const char *) doing; /* the step that it began last, in whatever state */
    long steps_seen;             /* these two are the watchdog's */
    double seen;
};

static int threads;
static struct worker workers[THREADS_MAX + 1]; /* the last, [threads], is the main thread */

/* The thread's place among the workers, and a number that no other thread ever has. */
static _Thread_local struct worker *self;
static _Thread_local uint64_t number;
static _Atomic uint64_t last_number;

static void be(struct worker *w)
{
    self = w;
    number = atomic_fetch_add(&last_number, 1) + 1;
}

static void begin(const char *step)
{
    atomic_store_explicit(&self->doing, step, memory_order_relaxed);
    atomic_fetch_add_explicit(&self->steps, 1, memory_order_relaxed);
}

/* ---- what soak.lua is given: require("soak") ---- */

/* A state as it counts itself; in its own memory, and only for who is inside. */
struct life {
    _Atomic uint64_t inside; /* the number of the thread */
    unsigned depth;          /* how often that thread is */
    uint64_t calls;
};

/* A bit per id; they are given in sequence, and these are enough for days. */
static int64_t first_id;
static _Atomic uint64_t ids[(uint64_t)1 << 24];
#define IDS (64 * sizeof ids / sizeof *ids)

static _Atomic long born, living;
static _Atomic uint64_t calls_counted_inside, calls_counted_outside;
static _Atomic lua_Integer posts[POSTS]; /* ids for all to find */

static int life_end(lua_State *L)
{
    struct life *life = lua_touserdata(L, 1);
    CHECK(atomic_load(&life->inside) == 0);
    atomic_fetch_add(&calls_counted_inside, life->calls);
    atomic_fetch_sub(&living, 1);
    return 0;
}

/* born(id): tells of a new state, from inside. Gives its life, to be kept to its end. */
static int soak_born(lua_State *L)
{
    uint64_t index = (uint64_t)(luaL_checkinteger(L, 1) - first_id);
    CHECK(index < IDS);
    uint64_t bit = (uint64_t)1 << index % 64;
    CHECK((atomic_fetch_or(&ids[index / 64], bit) & bit) == 0);
    atomic_fetch_add(&born, 1);
    atomic_fetch_add(&living, 1);
    struct life *life = lua_newuserdatauv(L, sizeof *life, 0);
    *life = (struct life){0};
    lua_createtable(L, 0, 1);
    lua_pushcfunction(L, life_end);
    lua_setfield(L, -2, "__gc");
    lua_setmetatable(L, -2);
    return 1;
}

static void enter(struct life *life)
{
    uint64_t nobody = 0;
    if (!atomic_compare_exchange_strong(&life->inside, &nobody, number))
        CHECK(nobody == number);
    life->depth++;
    life->calls++;
}

static void leave(struct life *life)
{
    CHECK(atomic_load(&life->inside) == number);
    if (--life->depth == 0)
        atomic_store(&life->inside, 0);
}

/*
 * inside(life, act, ticket, ...): all that a callback does is to return what this does, which is
 * act(...). An interrupt strikes before or after a C function, not in the middle, so whatever ends
 * the call, this has run from its first line to its last or not at all.
 */
static int soak_inside(lua_State *L)
{
    struct life *life = lua_touserdata(L, 1);
    unsigned *ticket = lua_touserdata(L, 3);
    lua_remove(L, 3);
    ++*ticket;
    enter(life);
    int status = lua_pcall(L, lua_gettop(L) - 2, LUA_MULTRET, 0);
    leave(life);
    return status == LUA_OK ? lua_gettop(L) - 1 : lua_error(L);
}

static bool is_error(lua_State *L, const char *name)
{
    const char *message = lua_tostring(L, -1);
    return message != NULL && strncmp(message, name, strlen(name)) == 0;
}

/*
 * call(handle, timeout, ...): `true, true, results...` of handle:call(...), or of
 * handle:tcall(timeout, ...) if timeout is not nil; `true, false` when the time was up; else
 * `false, message`. A C function, so that an interrupt of the caller's state cannot keep it from
 * counting.
 */
static int soak_call(lua_State *L)
{
    unsigned ticket = 0; /* stamped inside */
    bool timed = !lua_isnil(L, 2);
    lua_pushlightuserdata(L, &ticket);
    lua_insert(L, 3);
    if (!timed)
        lua_remove(L, 2);
    lua_getfield(L, 1, timed ? "tcall" : "call");
    lua_insert(L, 1);
    int status = lua_pcall(L, lua_gettop(L) - 1, LUA_MULTRET, 0);
    atomic_fetch_add(&calls_counted_outside, ticket);

    bool in_time = !timed || (status == LUA_OK && lua_toboolean(L, 1));
    if (status == LUA_OK)
        CHECK(ticket == (in_time ? 1 : 0));
    else if (is_error(L, ERROR_CONCURRENT_ACCESS) || is_error(L, ERROR_OBJECT_CLOSED))
        CHECK(ticket == 0);
    else
        CHECK(ticket <= 1); /* an interrupt may come before the callback's first line */
    if (status == LUA_OK && !timed) {
        lua_pushboolean(L, true);
        lua_insert(L, 1);
    }
    lua_pushboolean(L, status == LUA_OK);
    lua_insert(L, 1);
    return lua_gettop(L);
}

/*
 * broadcast(pool, timeout, ...): `true`, or `false, message`, of pool:broadcast(timeout, ...),
 * which runs the callback as often as it says.
 */
static int soak_broadcast(lua_State *L)
{
    unsigned ticket = 0;
    lua_pushlightuserdata(L, &ticket);
    lua_insert(L, 3);
    lua_getfield(L, 1, "broadcast");
    lua_insert(L, 1);
    int status = lua_pcall(L, lua_gettop(L) - 1, LUA_MULTRET, 0);
    atomic_fetch_add(&calls_counted_outside, ticket);
    if (status == LUA_OK)
        CHECK(lua_tointeger(L, 1) == (lua_Integer)ticket);
    lua_pushboolean(L, status == LUA_OK);
    lua_insert(L, 1);
    return status == LUA_OK ? 1 : 2;
}

static int soak_post(lua_State *L)
{
    atomic_store(&posts[luaL_checkinteger(L, 1) - 1], luaL_checkinteger(L, 2));
    return 0;
}

static int soak_posted(lua_State *L)
{
    lua_pushinteger(L, atomic_load(&posts[luaL_checkinteger(L, 1) - 1]));
    return 1;
}

static int soak_crowded(lua_State *L)
{
    lua_pushboolean(L, atomic_load(&living) >= STATES);
    return 1;
}

static int soak_begin(lua_State *L)
{
    static const char *const steps[] = {"broadcast",  "call",         "call_pool", "close",
                                        "close_pool", "collect",      "compute",   "drop",
                                        "drop_pool",  "finalize",     "find",      "give_up",
                                        "inspect",    "inspect_pool", "interrupt", "interrupt_pool",
                                        "linger",     "make",         "make_pool", "open",
                                        "own",        "profile",      "recurse",   "reload",
                                        "singleton",  "take_member",  "watch",     NULL};
    begin(steps[luaL_checkoption(L, 1, NULL, steps)]);
    return 0;
}

static int soak_running(lua_State *L)
{
    lua_pushboolean(L, test_clock() < deadline);
    return 1;
}

static int soak_fail(lua_State *L)
{
    fprintf(stderr, "seed 0x%" PRIx64 ": %s\n", seed, lua_tostring(L, 1));
    exit(1);
}

/* The errors that soak.lua may meet. */
static struct {
    const char *text;
    _Atomic long met;
} expected[] = {
    {"an error as wanted", 0},      {"C stack overflow", 0},
    {"needs itself to be made", 0}, {ERROR_AMBIGUOUS_NAME, 0},
    {ERROR_CONCURRENT_ACCESS, 0},   {ERROR_INTERRUPTED, 0},
    {ERROR_OBJECT_CLOSED, 0},       {ERROR_STATE_RESULT, 0},
    {ERROR_UNKNOWN_OBJECT, 0},      {ERROR_OUT_OF_MEMORY, 0},
    {ERROR_TIME_LIMIT, 0},          {"not enough memory", 0},
    {"profile is being taken", 0},  {"profile cannot be ended in a finalizer", 0},
};

/* expect(message): fails unless one of them is in the message. */
static int soak_expect(lua_State *L)
{
    const char *message = lua_tostring(L, 1);
    for (size_t i = 0; i < sizeof expected / sizeof *expected; i++) {
        if (message != NULL && strstr(message, expected[i].text) != NULL) {
            atomic_fetch_add(&expected[i].met, 1);
            return 0;
        }
    }
    return soak_fail(L);
}

static int open_soak(lua_State *L)
{
    static const luaL_Reg functions[] = {
        {"begin", soak_begin},   {"born", soak_born},       {"broadcast", soak_broadcast},
        {"call", soak_call},     {"crowded", soak_crowded}, {"expect", soak_expect},
        {"fail", soak_fail},     {"inside", soak_inside},   {"post", soak_post},
        {"posted", soak_posted}, {"running", soak_running}, {NULL, NULL},
    };
    static const struct {
        const char *name;
        int value;
    } sizes[] = {{"LIFE", LIFE}, {"NAMES", NAMES}, {"POSTS", POSTS}, {"SINGLETONS", SINGLETONS}};
    luaL_newlib(L, functions);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        lua_pushinteger(L, sizes[i].value);
        lua_setfield(L, -2, sizes[i].name);
    }
    return 1;
}

static void run(lua_State *L, const char *code, lua_Integer argument)
{
    check_lua(L, luaL_loadstring(L, code));
    lua_pushinteger(L, argument);
    check_lua(L, lua_pcall(L, 1, 0, 0));
}

/* ---- what is there at the start and at the end ---- */

static void warm_up(lua_State *L)
{
    struct record first;
    CHECK(registry_init());
    record_init(&first, NULL, 0, NULL);
    first_id = first.id;
    run(L,
        "mt = require('mtstates')\n"
        "local limited <close> = mt.newstate({ time_limit = 10 }, 'return function() end')\n"
        "local crowd = {}\n"
        "for i = 1, ... do\n"
        "  crowd[i] = mt.newstate('crowd ' .. i, false, 'return function() end')\n"
        "end\n"
        /* The thread's slot for samples. */
        "mt.profile.start({ interval = 0.001 })\n"
        "local busy = mt.newstate('return function() for _ = 1, 1000 do os.time() end end')\n"
        "local stop = os.clock() + 0.3\n"
        "repeat busy:call() until os.clock() > stop\n"
        "assert(mt.profile.stop():stats().samples > 0)\n",
        CROWD);
}

static int64_t least_bytes(lua_State *L)
{
    int64_t least = INT64_MAX;
    for (int i = 0; i < 100; i++) {
        run(L, "mt.newstate('one more', false, 'return function() end') collectgarbage()", 0);
        int64_t now = atomic_load(&bytes);
        least = now < least ? now : least;
    }
    return least;
}

static int descriptors(void)
{
    DIR *folder = opendir("/dev/fd");
    CHECK(folder != NULL);
    int count = 0;
    while (readdir(folder) != NULL)
        count++;
    closedir(folder);
    return count;
}

static void check_nobody_is_found(void)
{
    struct record *found;
    char name[32];
    for (uint64_t i = 0; i < IDS / 64; i++) {
        uint64_t bits = atomic_load(&ids[i]);
        for (int k = 0; k < 64; k++)
            if (bits >> k & 1)
                CHECK(registry_find_id(&registry_states, first_id + (int64_t)i * 64 + k, &found) ==
                      REGISTRY_UNKNOWN);
    }
    for (int i = 1; i <= NAMES + SINGLETONS; i++) {
        snprintf(name, sizeof name, i <= NAMES ? "name %d" : "singleton %d",
                 i <= NAMES ? i : i - NAMES);
        CHECK(registry_find_name(&registry_states, name, strlen(name), &found) == REGISTRY_UNKNOWN);
        snprintf(name, sizeof name, "pool %d", i);
        CHECK(registry_find_name(&registry_pools, name, strlen(name), &found) == REGISTRY_UNKNOWN);
    }
}

/* ---- the run ---- */

static void *work(void *argument)
{
    be(argument);
    begin("start");
    self->L = open_lua("soak", open_soak);
    preload(self->L, "carray", luaopen_carray);
    run(self->L,
        "package.preload.graphs = assert(loadfile('test/graphs.lua'))\n" /* states inherit it */
        "local program = assert(loadfile('test/c/soak.lua'))\n"
        "program(string.dump(program), ..., 0)",
        (lua_Integer)random_next(&self->random));
    begin("end");
    if (!self->leaves_lua)
        lua_close(self->L);
    atomic_store(&self->ended, true);
    return NULL;
}

static void start(struct worker *w)
{
    w->leaves_lua = random_below(&w->random, 2);
    atomic_store(&w->ended, false);
    CHECK(pthread_create(&w->thread, NULL, work, w) == 0);
}

static void join(struct worker *w)
{
    begin("join");
    pthread_join(w->thread, NULL);
    begin("close what a thread left");
    if (w->leaves_lua)
        lua_close(w->L);
}

static void print_progress(double started)
{
    long steps = 0;
    for (int i = 0; i < threads; i++)
        steps += atomic_load(&workers[i].steps);
    printf("seed 0x%" PRIx64 ": %.0f s, %ld steps, %ld states made, %ld living\n", seed,
           test_clock() - started, steps, atomic_load(&born), atomic_load(&living));
    fflush(stdout);
}

static bool hangs(struct worker *w)
{
    long steps = atomic_load(&w->steps);
    if (steps != w->steps_seen || atomic_load(&w->ended)) {
        w->steps_seen = steps;
        w->seen = test_clock();
    }
    return test_clock() - w->seen > HANG_SECONDS;
}

static void fail_because_of_hang(void)
{
    fprintf(stderr, "seed 0x%" PRIx64 ": somebody makes no progress\n", seed);
    for (int i = 0; i <= threads; i++)
        fprintf(stderr, "%s %d: %s, step %ld for %.0f s\n", i < threads ? "thread" : "supervisor",
                i, atomic_load(&workers[i].doing), atomic_load(&workers[i].steps),
                test_clock() - workers[i].seen);
    _exit(1);
}

static _Atomic bool over;

static void *watch(void *unused)
{
    double started = test_clock(), printed = started;
    for (int i = 0; i <= threads; i++)
        workers[i].seen = started;
    while (!atomic_load(&over)) {
        usleep(50000);
        for (int i = 0; i <= threads; i++)
            if (hangs(&workers[i]))
                fail_because_of_hang();
        if (test_clock() - printed >= 1) {
            printed = test_clock();
            print_progress(started);
        }
    }
    print_progress(started);
    return unused;
}

static void soak(void)
{
    pthread_t watchdog;
    be(&workers[threads]);
    begin("start");
    deadline = test_clock() + test_seconds();
    for (int i = 0; i < threads; i++) {
        workers[i].random = seed * 131 + (uint64_t)i + 1;
        start(&workers[i]);
    }
    CHECK(pthread_create(&watchdog, NULL, watch, NULL) == 0);
    while (test_clock() < deadline) {
        begin("supervise");
        usleep(1000);
        for (int i = 0; i < threads; i++) {
            if (atomic_load(&workers[i].ended)) {
                join(&workers[i]);
                start(&workers[i]);
            }
        }
    }
    for (int i = 0; i < threads; i++)
        join(&workers[i]);
    atomic_store(&over, true);
    pthread_join(watchdog, NULL);
}

/* What is not given comes from the environment, as for the other tests. */
static void take_options(int count, char **arguments)
{
    static const struct option options[] = {{"seconds", required_argument, NULL, 's'},
                                            {"threads", required_argument, NULL, 't'},
                                            {"seed", required_argument, NULL, 'r'},
                                            {NULL, 0, NULL, 0}};
    int option;
    threads = test_threads();
    setenv("MTSTATES_TEST_SECONDS", "10", 0);
    while ((option = getopt_long(count, arguments, "", options, NULL)) != -1) {
        if (option == '?')
            exit(2);
        if (option == 't')
            threads = atoi(optarg);
        else
            setenv(option == 's' ? "MTSTATES_TEST_SECONDS" : "MTSTATES_TEST_SEED", optarg, 1);
    }
    threads = threads < 1 ? 1 : threads > THREADS_MAX ? THREADS_MAX : threads;
    seed = test_seed();
}

int main(int count, char **arguments)
{
    take_options(count, arguments);
    lua_State *L = open_lua("soak", open_soak);
    warm_up(L);
    int64_t bytes_before = least_bytes(L);
    int descriptors_before = descriptors();
    soak();
    printf("%" PRIu64 " calls, counted inside; %" PRIu64 ", counted outside\n",
           atomic_load(&calls_counted_inside), atomic_load(&calls_counted_outside));
    for (size_t i = 0; i < sizeof expected / sizeof *expected; i++)
        printf("met %ld times: %s\n", atomic_load(&expected[i].met), expected[i].text);
    run(L, "pcall(mt.profile.stop) collectgarbage()", 0);
    CHECK(atomic_load(&living) == 0);
    CHECK(atomic_load(&calls_counted_inside) > 0);
    CHECK(atomic_load(&calls_counted_inside) == atomic_load(&calls_counted_outside));
    check_nobody_is_found();
    printf("%" PRId64 " bytes and %d descriptors before, %" PRId64 " and %d after\n", bytes_before,
           descriptors_before, least_bytes(L), descriptors());
    CHECK(least_bytes(L) == bytes_before);
    CHECK(descriptors() == descriptors_before);
    lua_close(L);
    return 0;
}
