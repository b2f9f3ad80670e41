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
 * `used` counts the bytes that Lua has asked for and not freed, to the byte; `peak` is the most
 * that it was when something was freed. They are written by the thread inside alone, and read by
 * any (arena_used, arena_peak): relaxed, since each is a number for itself.
 *
 * A limit holds for `taken`, what the system was asked for, and so for `used`, which is never more.
 * Before an allocation fails for it, larger free blocks are cut, and a sweep gives back segments
 * and makes larger blocks of free ones beside each other; then Lua collects, and asks once more. A
 * collector (memory_limit.h) is told when memory is freed, which is where a cycle ends, and when
 * Lua may not collect.
 */
#ifndef MTSTATES_ARENA_H
#define MTSTATES_ARENA_H

#include <stdatomic.h>
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

struct arena;
struct arena_block;
struct arena_segment;

/*
 * What can collect garbage of a limited arena. `pace` is called again and again while memory is
 * freed, `collect` before a block is refused that Lua may not collect for.
 */
struct arena_collector {
    void (*pace)(struct arena *);
    void (*collect)(struct arena *);
};

#define ARENA_NO_LIMIT SIZE_MAX

struct arena_large {
    struct arena_large *next, *previous;
};

struct arena {
    _Atomic size_t used, peak;    /* bytes that Lua has, and had */
    _Atomic size_t used_at_limit; /* `used` when the limit last told; for messages */
    struct arena_block *free[ARENA_CLASSES];
    char *next, *end; /* what the newest segment has left */
    struct arena_segment *segments;
    struct arena_large large, mapped; /* the anchors of two rings */
    size_t large_used;                /* bytes that Lua has in large blocks */
    size_t small_total;               /* bytes of all segments */
    size_t taken, limit;              /* bytes that the system was asked for, and may be */
    size_t lent;                      /* so much more for the moment, by the thread inside alone */
    size_t freed;                     /* bytes since the last sweep, as seen at the last look; */
    ptrdiff_t until_look;             /* and so many before the next look, of */
    ptrdiff_t look_interval;
    const struct arena_collector *collector; /* its owner's to set; NULL: none */
    bool collects;                           /* is just doing so */
    size_t used_at_collect;                  /* `used` after it last did */
    struct arena_large *reserve;             /* for the next large block; see arena_reserve */
    size_t reserve_size;
    char *image; /* a segment in which there are blocks of all sizes */
    size_t image_size;
};

/* Takes no memory yet, and at most `limit` bytes later, or ARENA_NO_LIMIT. */
void arena_init(struct arena *a, size_t limit);

static inline bool arena_is_limited(const struct arena *a)
{
    return a->limit != ARENA_NO_LIMIT;
}

/* Any thread. */
static inline size_t arena_used(struct arena *a)
{
    return atomic_load_explicit(&a->used, memory_order_relaxed);
}

static inline size_t arena_peak(struct arena *a)
{
    size_t peak = atomic_load_explicit(&a->peak, memory_order_relaxed), used = arena_used(a);
    return peak > used ? peak : used;
}

/* A lua_Alloc; `ud` is the struct arena. Only the thread inside the state may call it. */
void *arena_resize(void *ud, void *block, size_t old_size, size_t new_size);

/*
 * Makes sure that the next allocation succeeds if it takes at most `size` bytes, whether these make
 * it a small or a large one. False: the system has no memory, or the limit is reached. For pushing
 * a string outside of a protected call.
 */
bool arena_reserve_slowly(struct arena *a, size_t size);

static inline bool arena_reserve(struct arena *a, size_t size)
{
    if (size <= ARENA_SMALL_MAX && (size_t)(a->end - a->next) >= size)
        return true;
    return arena_reserve_slowly(a, size);
}

/* Between the two the limit is a little higher: for what needs some memory to give back more. */
void arena_lend(struct arena *a);
void arena_take_back(struct arena *a);

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
 * Makes an initialised arena that has taken nothing like the model, with a segment of its own that
 * begins with `size` bytes of `content`, a copy of what the model's has, and returns that segment.
 * NULL: out of memory, or beyond the limit, and nothing has happened.
 */
void *arena_copy(struct arena *a, const struct arena *model, const void *content, size_t size);

/* Gives back everything, used or not. */
void arena_clear(struct arena *a);

#endif
