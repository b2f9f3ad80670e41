/*
 * The memory of one state. The state is used by one thread at a time, so nothing here takes a lock.
 *
 * Blocks up to ARENA_SMALL_MAX bytes are cut from segments, in size classes of 8 bytes; freed ones
 * wait in a list per class. Larger blocks are the system's own, each behind a header that links it
 * to the others. Segments start small and grow with the arena, so that an idle state has little
 * room that it does not use. Once much of what a burst took is free again, a sweep over the free
 * lists finds the segments that have nothing left in use, and gives them back to the system.
 * Closing gives back everything at once, without a look at what is in it. A copy of an interpreter
 * (image.h) comes with a first segment in which there are larger blocks, too; once free they are
 * cut into small ones.
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

/* The bytes that a block of a segment takes. */
static inline size_t arena_grains(size_t size)
{
    return (size + ARENA_GRAIN - 1) / ARENA_GRAIN * ARENA_GRAIN;
}

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
    char *image; /* a segment in which there are blocks of all sizes */
    size_t image_size;
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

/*
 * For images. A model is an arena with one segment, of `size` bytes at `segment`, which is its
 * maker's, as is the whole of it: arena_clear is not for models. The maker cuts blocks of any size
 * from the segment, behind the first ARENA_SEGMENT_HEADER bytes, or gives the arena room there for
 * small ones, when arena_has_room says that the next one would need a new segment. All of them can
 * be freed as any other.
 */
#define ARENA_SEGMENT_HEADER ((size_t)24)
void arena_init_model(struct arena *a, void *segment, size_t size);
bool arena_has_room(const struct arena *a, size_t size);
void arena_add_room(struct arena *a, void *room, size_t size);

/*
 * Makes an arena like the model, with a segment of its own that begins with `size` bytes of
 * `content`, a copy of what the model's has, and returns that segment. NULL: out of memory, and
 * nothing has happened.
 */
void *arena_copy(struct arena *a, const struct arena *model, const void *content, size_t size);

/* Gives back everything, used or not. */
void arena_clear(struct arena *a);

#endif
