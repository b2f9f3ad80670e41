#if defined(__linux__)
#define _DEFAULT_SOURCE /* MAP_ANONYMOUS */
#endif

#include "arena.h"

#include <lua.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* Out of line, so that what happens all the time needs no stack frame. */
#define SELDOM __attribute__((noinline))

/* A state without libraries fills the first one. Later ones grow with the arena. */
#define SEGMENT_FIRST ((size_t)6 * 1024)
#define SEGMENT_MIN ((size_t)512)
#define SEGMENT_MAX ((size_t)256 * 1024)

/* From this size on a segment is mapped, so that the system gets it back when it is freed. */
#define SEGMENT_MAPPED ((size_t)64 * 1024)

/* Less than this in the free lists is not worth a sweep. */
#define SWEEP_MIN ((size_t)256 * 1024)

struct arena_block {
    struct arena_block *next;
};

struct arena_segment {
    struct arena_segment *next;
    size_t size; /* with this header */
    size_t free; /* a sweep's count */
};

_Static_assert(sizeof(struct arena_large) % ARENA_GRAIN == 0, "what follows it has to be aligned");

static size_t class_size(unsigned class)
{
    return (class + 1) * ARENA_GRAIN;
}

static unsigned class_of(size_t size)
{
    return (unsigned)((size - 1) / ARENA_GRAIN);
}

/* ---- which classes have blocks that an interrupter walks over ---- */

/* Bit per class; all of them unless found out better. Written once, before any arena exists. */
static uint32_t walked = UINT32_MAX;
static pthread_once_t walked_once = PTHREAD_ONCE_INIT;

struct trace {
    size_t newest; /* size of the first new block since it was set to 0 */
    size_t record, coroutine;
};

static void *trace_resize(void *ud, void *block, size_t old_size, size_t new_size)
{
    (void)old_size;
    struct trace *trace = ud;
    if (new_size == 0) {
        free(block);
        return NULL;
    }
    if (block == NULL && trace->newest == 0)
        trace->newest = new_size;
    return realloc(block, new_size);
}

static int trace_coroutine(lua_State *L)
{
    struct trace *trace = lua_touserdata(L, 1);
    trace->record = trace->newest;
    trace->newest = 0;
    lua_newthread(L);
    trace->coroutine = trace->newest;
    return 0;
}

/*
 * Lua's headers do not tell the sizes, so a short-lived interpreter does: its first call makes a
 * call record before anything else, and a new coroutine begins with itself.
 */
static void find_walked(void)
{
    struct trace trace = {0};
    lua_State *L = lua_newstate(trace_resize, &trace);
    if (L == NULL)
        return;
    lua_gc(L, LUA_GCSTOP);
    lua_pushcfunction(L, trace_coroutine);
    lua_pushlightuserdata(L, &trace);
    trace.newest = 0;
    int status = lua_pcall(L, 1, 0, 0);
    lua_close(L);
    if (status == LUA_OK && trace.record - 1 < ARENA_SMALL_MAX &&
        trace.coroutine - 1 < ARENA_SMALL_MAX)
        walked = (uint32_t)1 << class_of(trace.record) | (uint32_t)1 << class_of(trace.coroutine);
}

static bool is_walked(unsigned class)
{
    return walked >> class & 1;
}

/* ---- segments ---- */

static size_t smaller(size_t a, size_t b)
{
    return a < b ? a : b;
}

static struct arena_segment *segment_new(size_t size)
{
    if (size < SEGMENT_MAPPED)
        return malloc(size);
    void *mapped = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return mapped != MAP_FAILED ? mapped : NULL;
}

static void segment_free(struct arena_segment *s)
{
    if (s->size < SEGMENT_MAPPED)
        free(s);
    else
        munmap(s, s->size);
}

static void block_push(struct arena *a, void *block, unsigned class)
{
    struct arena_block *b = block;
    b->next = a->free[class];
    a->free[class] = b;
    a->small_free += class_size(class);
}

/* Puts what the newest segment has left into the free lists. */
static void remainder_push(struct arena *a)
{
    while (a->next < a->end) {
        size_t size = smaller((size_t)(a->end - a->next), ARENA_SMALL_MAX);
        block_push(a, a->next, class_of(size));
        a->next += size;
    }
}

/* Three quarters free: beyond what Lua's collector leaves between two cycles. */
static void set_sweep(struct arena *a)
{
    size_t most = a->small_total / 4 * 3;
    a->sweep_at = most > SWEEP_MIN ? most : SWEEP_MIN;
}

static bool segment_add(struct arena *a)
{
    size_t size = smaller(a->small_total / 16 + SEGMENT_MIN, SEGMENT_MAX) & ~(SEGMENT_MIN - 1);
    if (a->segments == NULL)
        size = SEGMENT_FIRST;
    struct arena_segment *s = segment_new(size);
    if (s == NULL)
        return false;
    remainder_push(a);
    s->next = a->segments;
    s->size = size;
    a->segments = s;
    a->next = (char *)(s + 1);
    a->end = (char *)s + size;
    a->small_total += size;
    set_sweep(a);
    return true;
}

static void batch_release(struct arena *a)
{
    arena_hold(a); /* waits for a walker; the next one cannot reach the batch any more */
    arena_release(a);
    while (a->waiting > 0) {
        a->waiting--;
        block_push(a, a->batch[a->waiting], a->batch_classes[a->waiting]);
    }
}

/* ---- sweeping ---- */

static int compare_addresses(const void *a, const void *b)
{
    uintptr_t x = *(const uintptr_t *)a, y = *(const uintptr_t *)b;
    return (x > y) - (x < y);
}

/* The segment of a block, among `count` in the order of their addresses. */
static struct arena_segment *find_segment(struct arena_segment **sorted, size_t count, void *block)
{
    size_t low = 0;
    while (count > 1) {
        size_t half = count / 2;
        if ((uintptr_t)sorted[low + half] <= (uintptr_t)block)
            low += half;
        count -= half;
    }
    return sorted[low];
}

static bool is_unused(const struct arena *a, const struct arena_segment *s)
{
    return s != a->segments && s->free == s->size - sizeof *s;
}

static void count_free(struct arena *a, struct arena_segment **sorted, size_t count)
{
    for (unsigned class = 0; class < ARENA_CLASSES; class ++)
        for (struct arena_block *b = a->free[class]; b != NULL; b = b->next)
            find_segment(sorted, count, b)->free += class_size(class);
}

static void unlink_unused(struct arena *a, struct arena_segment **sorted, size_t count)
{
    for (unsigned class = 0; class < ARENA_CLASSES; class ++) {
        struct arena_block **link = &a->free[class];
        while (*link != NULL) {
            if (is_unused(a, find_segment(sorted, count, *link))) {
                *link = (*link)->next;
                a->small_free -= class_size(class);
            } else {
                link = &(*link)->next;
            }
        }
    }
}

static void free_unused(struct arena *a)
{
    struct arena_segment **link = &a->segments;
    while (*link != NULL) {
        struct arena_segment *s = *link;
        if (is_unused(a, s)) {
            *link = s->next;
            a->small_total -= s->size;
            segment_free(s);
        } else {
            link = &s->next;
        }
    }
}

/* Gives back the segments that are all free. Without memory for the work it is left for later. */
static SELDOM void sweep(struct arena *a)
{
    size_t count = 0;
    batch_release(a);
    for (struct arena_segment *s = a->segments; s != NULL; s = s->next)
        count++;
    struct arena_segment **sorted = malloc(count * sizeof *sorted);
    if (sorted != NULL) {
        size_t i = 0;
        for (struct arena_segment *s = a->segments; s != NULL; s = s->next) {
            s->free = 0;
            sorted[i++] = s;
        }
        qsort(sorted, count, sizeof *sorted, compare_addresses);
        count_free(a, sorted, count);
        unlink_unused(a, sorted, count);
        free_unused(a);
        free(sorted);
    }
    set_sweep(a);
    /* What is scattered may stay scattered: not again before half of what is in use is free, too.
     */
    size_t in_use = a->small_total - a->small_free - (size_t)(a->end - a->next);
    size_t again = a->small_free + in_use / 2;
    if (a->sweep_at < again)
        a->sweep_at = again;
}

/* ---- small blocks ---- */

/*
 * A walker may meet a new call record before the record's own pointers, where the hardware reorders
 * stores; it then finds them NULL instead of what was there before. Pairs with the data dependency
 * of the walker's loads.
 */
static void walked_clear(void *block, unsigned class)
{
    memset(block, 0, class_size(class));
    atomic_thread_fence(memory_order_release);
}

/* From the free list or from what the newest segment has left; NULL when neither has any. */
static inline void *small_take(struct arena *a, unsigned class)
{
    struct arena_block *b = a->free[class];
    if (b != NULL) {
        a->free[class] = b->next;
        a->small_free -= class_size(class);
        return b;
    }
    if ((size_t)(a->end - a->next) < class_size(class))
        return NULL;
    void *cut = a->next;
    a->next += class_size(class);
    return cut;
}

static void *small_allocate(struct arena *a, unsigned class)
{
    void *block = small_take(a, class);
    if (block == NULL && segment_add(a))
        block = small_take(a, class);
    if (block != NULL && is_walked(class))
        walked_clear(block, class);
    return block;
}

static SELDOM void walked_free(struct arena *a, void *block, unsigned class)
{
    if (a->waiting == ARENA_BATCH)
        batch_release(a);
    a->batch[a->waiting] = block;
    a->batch_classes[a->waiting++] = (unsigned char)class;
}

static inline void small_free(struct arena *a, void *block, unsigned class)
{
    if (is_walked(class)) {
        walked_free(a, block, class);
        return;
    }
    block_push(a, block, class);
    if (a->small_free >= a->sweep_at)
        sweep(a);
}

/* ---- large blocks: a header in front, by which closing finds those that are left ---- */

static struct arena_large *large_of(void *block)
{
    return (struct arena_large *)block - 1;
}

/* Into the list, or into the place it had before it moved. */
static void *large_link(struct arena_large *l)
{
    l->previous->next = l->next->previous = l;
    return l + 1;
}

static void *large_allocate(struct arena *a, size_t size)
{
    struct arena_large *l = a->reserve;
    if (size <= a->reserve_size) {
        a->reserve = NULL;
        a->reserve_size = 0;
    } else if ((l = malloc(sizeof *l + size)) == NULL) {
        return NULL;
    }
    l->previous = &a->large;
    l->next = a->large.next;
    return large_link(l);
}

static void *large_resize(void *block, size_t size)
{
    struct arena_large *l = realloc(large_of(block), sizeof *l + size);
    return l != NULL ? large_link(l) : NULL;
}

static SELDOM void large_free(void *block)
{
    struct arena_large *l = large_of(block);
    l->previous->next = l->next;
    l->next->previous = l->previous;
    free(l);
}

/* ---- blocks ---- */

static void *block_allocate(struct arena *a, size_t size)
{
    return size <= ARENA_SMALL_MAX ? small_allocate(a, class_of(size)) : large_allocate(a, size);
}

static inline void block_free(struct arena *a, void *block, size_t size)
{
    if (size <= ARENA_SMALL_MAX)
        small_free(a, block, class_of(size));
    else
        large_free(block);
}

static void *block_resize(struct arena *a, void *block, size_t old_size, size_t new_size)
{
    bool was_large = old_size > ARENA_SMALL_MAX, is_large = new_size > ARENA_SMALL_MAX;
    if (was_large && is_large)
        return large_resize(block, new_size);
    if (!was_large && !is_large && class_of(old_size) == class_of(new_size))
        return block;
    void *moved = block_allocate(a, new_size);
    if (moved != NULL) {
        memcpy(moved, block, smaller(old_size, new_size));
        block_free(a, block, old_size);
    }
    return moved;
}

static SELDOM void *resize_slowly(struct arena *a, void *block, size_t old_size, size_t new_size)
{
    if (block == NULL) {
        old_size = 0; /* was a type tag */
        block = block_allocate(a, new_size);
    } else {
        block = block_resize(a, block, old_size, new_size);
    }
    if (block != NULL)
        a->used += new_size - old_size;
    return block;
}

void *arena_resize(void *ud, void *block, size_t old_size, size_t new_size)
{
    struct arena *a = ud;
    if (new_size == 0) {
        if (block != NULL) {
            a->used -= old_size;
            block_free(a, block, old_size);
        }
        return NULL;
    }
    if (block == NULL && new_size <= ARENA_SMALL_MAX) {
        unsigned class = class_of(new_size);
        void *taken = is_walked(class) ? NULL : small_take(a, class);
        if (taken != NULL) {
            a->used += new_size;
            return taken;
        }
    }
    return resize_slowly(a, block, old_size, new_size);
}

bool arena_reserve_slowly(struct arena *a, size_t size)
{
    size_t small = smaller(size, ARENA_SMALL_MAX);
    if ((size_t)(a->end - a->next) < small && !segment_add(a))
        return false;
    if (size <= ARENA_SMALL_MAX || size <= a->reserve_size)
        return true;
    struct arena_large *l = realloc(a->reserve, sizeof *l + size);
    if (l == NULL)
        return false;
    a->reserve = l;
    a->reserve_size = size;
    return true;
}

bool arena_init(struct arena *a)
{
    pthread_once(&walked_once, find_walked);
    memset(a, 0, sizeof *a);
    a->large.next = a->large.previous = &a->large;
    return pthread_mutex_init(&a->walk, NULL) == 0;
}

void arena_clear(struct arena *a)
{
    for (struct arena_segment *s = a->segments, *next; s != NULL; s = next) {
        next = s->next;
        segment_free(s);
    }
    for (struct arena_large *l = a->large.next, *next; l != &a->large; l = next) {
        next = l->next;
        free(l);
    }
    a->segments = NULL;
    a->large.next = a->large.previous = &a->large;
    free(a->reserve);
    a->reserve = NULL;
}

void arena_destroy(struct arena *a)
{
    arena_clear(a);
    pthread_mutex_destroy(&a->walk);
}

void arena_hold(struct arena *a)
{
    pthread_mutex_lock(&a->walk);
}

void arena_release(struct arena *a)
{
    pthread_mutex_unlock(&a->walk);
}
