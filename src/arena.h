/*
 * The memory of one state. The state is used by one thread at a time, so nothing here takes a lock,
 * but for interrupts (below).
 *
 * Blocks up to ARENA_SMALL_MAX bytes are cut from segments, in size classes of 8 bytes; freed ones
 * wait in a list per class. Larger blocks are the system's own, each behind a header that links it
 * to the others. Segments start small and grow with the arena, so that an idle state has little
 * room that it does not use. Once much of what a burst took is free again, a sweep over the free
 * lists finds the segments that have nothing left in use, and gives them back to the system.
 * Closing gives back everything at once, without a look at what is in it.
 *
 * `used` counts the bytes that Lua has asked for and not freed, to the byte.
 *
 * Interrupts. An interrupter (interrupt.h) walks, from another thread, over call records and
 * coroutines of a running state; so that it never walks into memory that has a new use, freed
 * blocks of these two sizes wait in a batch, and a batch is let go only while no interrupter is
 * walking. Why this is enough: the walker finds a block by pointers that it reads under `walk`. A
 * block that was let go before it took `walk` was unlinked before that as well, and the mutex
 * orders the two; a block that is unlinked later stays in the batch, and its segment in place,
 * until the walker has returned `walk`.
 */
#ifndef MTSTATES_ARENA_H
#define MTSTATES_ARENA_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ARENA_SMALL_MAX ((size_t)256)
#define ARENA_GRAIN ((size_t)8)
#define ARENA_CLASSES (ARENA_SMALL_MAX / ARENA_GRAIN)
#define ARENA_BATCH 8

struct arena_block;
struct arena_segment;

struct arena_large {
    struct arena_large *next, *previous;
};

struct arena {
    size_t used; /* bytes that Lua has */
    struct arena_block *free[ARENA_CLASSES];
    char *next, *end; /* what the newest segment has left */
    struct arena_segment *segments;
    struct arena_large large;    /* the ring's anchor */
    size_t small_free;           /* bytes in the free lists */
    size_t small_total;          /* bytes of all segments */
    size_t sweep_at;             /* small_free that starts the next sweep */
    struct arena_large *reserve; /* for the next large block; see arena_reserve */
    size_t reserve_size;
    unsigned waiting; /* blocks in the batch */
    void *batch[ARENA_BATCH];
    unsigned char batch_classes[ARENA_BATCH];
    pthread_mutex_t walk;
};

/* False: the system has no mutex left. Takes no memory yet. */
bool arena_init(struct arena *a);

/* A lua_Alloc; `ud` is the struct arena. Only the thread inside the state may call it. */
void *arena_resize(void *ud, void *block, size_t old_size, size_t new_size);

/*
 * Makes sure that the next allocation succeeds if it takes at most `size` bytes, whether these make
 * it a small or a large one. False: the system has no memory. For pushing a string outside of a
 * protected call.
 */
bool arena_reserve_slowly(struct arena *a, size_t size);

static inline bool arena_reserve(struct arena *a, size_t size)
{
    if (size <= ARENA_SMALL_MAX && (size_t)(a->end - a->next) >= size)
        return true;
    return arena_reserve_slowly(a, size);
}

/* Gives back everything, used or not. Only hold and release work after this. */
void arena_clear(struct arena *a);
void arena_destroy(struct arena *a);

/* Between the two, no block that an interrupter can reach is used anew. Any thread. */
void arena_hold(struct arena *a);
void arena_release(struct arena *a);

#endif
