/*
 * The arena: blocks keep what is written into them through any order of allocating, resizing and
 * freeing; the count of bytes is exact; a burst's memory goes back; a reservation holds without
 * memory.
 *
 * The linker's --wrap sends the arena's malloc, realloc and mmap here, to be counted and refused.
 */
#include "state/arena.h"
#include "check.h"

#include <lauxlib.h>
#include <lualib.h>
#include <string.h>
#include <sys/mman.h>

static bool refuse;

void *__real_malloc(size_t size);
void *__real_realloc(void *block, size_t size);
void *__real_mmap(void *address, size_t size, int protection, int flags, int file, off_t offset);
void *__wrap_malloc(size_t size);
void *__wrap_realloc(void *block, size_t size);
void *__wrap_mmap(void *address, size_t size, int protection, int flags, int file, off_t offset);

void *__wrap_malloc(size_t size)
{
    return refuse ? NULL : __real_malloc(size);
}

void *__wrap_realloc(void *block, size_t size)
{
    return refuse ? NULL : __real_realloc(block, size);
}

void *__wrap_mmap(void *address, size_t size, int protection, int flags, int file, off_t offset)
{
    return refuse ? MAP_FAILED : __real_mmap(address, size, protection, flags, file, offset);
}

/* ---- at random ---- */

enum { BLOCKS = 4000, STEPS = 400000 };

static struct {
    unsigned char *bytes;
    size_t size;
    unsigned char mark;
} blocks[BLOCKS];

/* Mostly small, sometimes round the border between small and large, sometimes large. */
static size_t random_size(uint64_t *random)
{
    switch (random_below(random, 8)) {
    case 0:
        return ARENA_SMALL_MAX - 20 + random_below(random, 40);
    case 1:
        return 1 + random_below(random, 5000);
    default:
        return 1 + random_below(random, ARENA_SMALL_MAX);
    }
}

static void check_block(int i, size_t size)
{
    for (size_t k = 0; k < size; k++)
        CHECK(blocks[i].bytes[k] == blocks[i].mark);
}

static void resize_block(struct arena *a, int i, size_t size, unsigned char mark)
{
    size_t kept = size < blocks[i].size ? size : blocks[i].size;
    unsigned char *bytes =
        arena_resize(a, blocks[i].bytes, blocks[i].bytes ? blocks[i].size : 8, size);
    if (bytes == NULL && size > 0) {
        CHECK(refuse);
        return; /* the old block stays */
    }
    blocks[i].bytes = bytes;
    check_block(i, kept);
    blocks[i].size = size;
    blocks[i].mark = mark;
    if (size > 0)
        memset(bytes, mark, size);
}

static void blocks_keep_their_bytes_and_the_count_is_exact(uint64_t seed)
{
    struct arena a;
    uint64_t random = seed;
    size_t used = 0;
    arena_init(&a, ARENA_NO_LIMIT);
    memset(blocks, 0, sizeof blocks);
    for (int step = 0; step < STEPS; step++) {
        int i = (int)random_below(&random, BLOCKS);
        refuse = random_below(&random, 50) == 0;
        size_t before = blocks[i].size;
        bool frees = before > 0 && random_below(&random, 2) == 0;
        resize_block(&a, i, frees ? 0 : random_size(&random), (unsigned char)step);
        refuse = false;
        used += blocks[i].size - before;
        CHECK(a.used == used);
    }
    for (int i = 0; i < BLOCKS; i++)
        resize_block(&a, i, 0, 0);
    CHECK(a.used == 0);
    arena_clear(&a);
}

/* The leak check of the sanitizer build is the judge. */
static void destroying_gives_back_what_is_in_use(void)
{
    struct arena a;
    arena_init(&a, ARENA_NO_LIMIT);
    for (size_t size = 1; size < 5000; size += 7) {
        void *block = arena_resize(&a, NULL, 0, size);
        CHECK(block != NULL);
        if (size % 3 == 0)
            arena_resize(&a, block, size, size + 1000);
        else if (size % 3 == 1)
            arena_resize(&a, block, size, 0);
    }
    CHECK(arena_reserve(&a, 10000));
    arena_clear(&a);
}

/* ---- reservations ---- */

static void a_reservation_holds_when_the_system_has_no_memory(void)
{
    for (size_t size = 1; size <= 3000; size++) {
        struct arena a;
        arena_init(&a, ARENA_NO_LIMIT);
        CHECK(arena_reserve(&a, size));
        refuse = true;
        /* also a little less than was reserved, which may be of the other kind */
        size_t taken = size > 64 && size % 2 ? size - 39 : size;
        void *block = arena_resize(&a, NULL, 0, taken);
        CHECK(block != NULL);
        memset(block, 1, taken);
        CHECK(!arena_reserve(&a, 100000));
        refuse = false;
        arena_resize(&a, block, taken, 0);
        arena_clear(&a);
    }
}

/* ---- bursts ---- */

static void a_burst_gives_its_memory_back(void)
{
    struct arena a;
    arena_init(&a, ARENA_NO_LIMIT);
    lua_State *L = lua_newstate(arena_resize, &a);
    CHECK(L != NULL);
    luaL_openlibs(L);
    lua_gc(L, LUA_GCCOLLECT);
    size_t used = a.used;
    CHECK(used == (size_t)lua_gc(L, LUA_GCCOUNT) * 1024 + (size_t)lua_gc(L, LUA_GCCOUNTB));
    for (int round = 0; round < 4; round++) {
        CHECK(luaL_dostring(L, "t = {} for i = 1, 1000000 do t[i] = { i } end") == LUA_OK);
        size_t most = a.small_total;
        CHECK(a.used > 70000000 && most > 70000000);
        CHECK(luaL_dostring(L, "for i = 1, #t, 1000 do last = t[i] end t = nil") == LUA_OK);
        lua_gc(L, LUA_GCCOLLECT);
        lua_gc(L, LUA_GCCOLLECT);
        printf("burst %d: %zu KB in use, %zu KB held\n", round + 1, a.used / 1024,
               a.small_total / 1024);
        CHECK(a.used < used + 100000);
        CHECK(a.small_total < most / 10);
    }
    lua_close(L);
    CHECK(a.used == 0);
    arena_clear(&a);
}

static void an_idle_interpreter_has_little_room_to_spare(bool libs)
{
    struct arena a;
    arena_init(&a, ARENA_NO_LIMIT);
    lua_State *L = lua_newstate(arena_resize, &a);
    CHECK(L != NULL);
    luaL_requiref(L, LUA_GNAME, luaopen_base, 1); /* every state has these two */
    luaL_requiref(L, LUA_LOADLIBNAME, luaopen_package, 1);
    if (libs)
        luaL_openlibs(L);
    lua_gc(L, LUA_GCCOLLECT);
    size_t spare = a.small_total - (a.used - a.large_used);
    printf("%s: %zu bytes in use, %zu to spare\n", libs ? "all libraries" : "two", a.used, spare);
    CHECK(spare < a.used / 4 + 1024);
    lua_close(L);
    arena_clear(&a);
}

int main(void)
{
    blocks_keep_their_bytes_and_the_count_is_exact(test_seed());
    destroying_gives_back_what_is_in_use();
    a_reservation_holds_when_the_system_has_no_memory();
    a_burst_gives_its_memory_back();
    an_idle_interpreter_has_little_room_to_spare(false);
    an_idle_interpreter_has_little_room_to_spare(true);
    return 0;
}
