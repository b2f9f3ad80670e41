/*
 * The memory of one state. The state is used by one thread at a time, so nothing here takes a lock.
 *
 * Blocks up to ARENA_SMALL_MAX bytes are cut from segments, in size classes of 8 bytes; freed ones
 * wait in a list per class. Larger blocks are the system's own, each behind a header that links it
 * to the others. Segments start small and grow with the arena, so that an idle state has little
 * room that it does not use. Once much of what a burst took is free again, a sweep over the free
 * lists finds the segments that have nothing left in use, and gives them back to the system.
 * Closing gives back everything at once, without a look at what is in it.
 *
 * A sweep looks at every free block, so the next one comes after a part of them have been freed
 * anew: however scattered the blocks in use are, sweeping costs a free a constant part.
 *
 * `used` counts the bytes that Lua has asked for and not freed, to the byte.
 */
#ifndef MTSTATES_ARENA_H
#define MTSTATES_ARENA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ARENA_SMALL_MAX ((size_t)256)
#define ARENA_GRAIN ((size_t)8)
#define ARENA_CLASSES (ARENA_SMALL_MAX / ARENA_GRAIN)

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
    size_t large_used;           /* bytes that Lua has in large blocks */
    size_t small_total;          /* bytes of all segments */
    ptrdiff_t until_sweep;       /* bytes to be freed before the next sweep is considered */
    struct arena_large *reserve; /* for the next large block; see arena_reserve */
    size_t reserve_size;
};

/* Takes no memory yet. */
void arena_init(struct arena *a);

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

/* Gives back everything, used or not. */
void arena_clear(struct arena *a);

#endif
