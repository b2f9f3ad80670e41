#if defined(__linux__)
#define _GNU_SOURCE /* MAP_ANONYMOUS, mremap */
#endif

#include "arena.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* The thread sanitizer does not see it, and takes who next has the old place for racing. */
#if defined(__linux__) && !MTSTATES_TSAN
#define CAN_REMAP 1
#else
#define CAN_REMAP 0
#endif

/* Out of line, so that what happens all the time needs no stack frame. */
#define SELDOM __attribute__((noinline))

/* A state without libraries fills the first one. Later ones grow with the arena. */
#define SEGMENT_FIRST ((size_t)6 * 1024)
#define SEGMENT_MIN ((size_t)512)
#define SEGMENT_MAX ((size_t)256 * 1024)

/* What the segment of a copy has beyond the image: most setups need that much. */
#define IMAGE_SPARE ((size_t)1792)

/* From this size on segments are mapped, so that the system gets them back when they are freed; and
 * so are large blocks under a limit. */
#define MAPPED_MIN ((size_t)64 * 1024)

/* Less than this in the free lists is not worth a sweep. */
#define SWEEP_MIN ((size_t)256 * 1024)

/* What the system's allocator needs for itself with each block. */
#define SYSTEM_OVERHEAD ((size_t)16)

/* What arena_lend adds to a limit. */
#define LENT ((size_t)4096)

/* Buffers of lauxlib, which allocate without Lua's knowing, have at least so many bytes. */
#define BUFFER_MIN ((size_t)1024)

/* Sweeps come when such a part of what the last one had to look at was freed since. */
#define SWEEP_PART 4

struct arena_block {
    struct arena_block *next;
};

struct arena_segment {
    struct arena_segment *next;
    size_t size;    /* with this header */
    uint64_t *bits; /* a sweep's */
};

_Static_assert(sizeof(struct arena_segment) == ARENA_SEGMENT_HEADER, "models begin with one");
_Static_assert(sizeof(struct arena_large) % ARENA_GRAIN == 0, "what follows it has to be aligned");

static size_t class_size(unsigned class)
{
    return (class + 1) * ARENA_GRAIN;
}

static unsigned class_of(size_t size)
{
    return (unsigned)((size - 1) / ARENA_GRAIN);
}

static size_t smaller(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* ---- counts ---- */

static inline void used_add(struct arena *a, size_t size)
{
    atomic_store_explicit(&a->used, arena_used(a) + size, memory_order_relaxed);
}

static inline void used_subtract(struct arena *a, size_t size)
{
    size_t used = arena_used(a);
    if (used > atomic_load_explicit(&a->peak, memory_order_relaxed))
        atomic_store_explicit(&a->peak, used, memory_order_relaxed);
    atomic_store_explicit(&a->used, used - size, memory_order_relaxed);
}

static void used_change(struct arena *a, size_t old_size, size_t new_size)
{
    if (new_size > old_size)
        used_add(a, new_size - old_size);
    else
        used_subtract(a, old_size - new_size);
}

static size_t left(const struct arena *a)
{
    size_t limit = a->limit + a->lent;
    return a->taken < limit ? limit - a->taken : 0;
}

/* So much more from the system. False: that would be beyond the limit. */
static bool take(struct arena *a, size_t size)
{
    if (size > left(a)) {
        atomic_store_explicit(&a->used_at_limit, arena_used(a), memory_order_relaxed);
        return false;
    }
    a->taken += size;
    return true;
}

/* ---- segments ---- */

static void *map(size_t size)
{
    void *mapped = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return mapped != MAP_FAILED ? mapped : NULL;
}

static void *segment_allocate(size_t size)
{
    return size < MAPPED_MIN ? malloc(size) : map(size);
}

static struct arena_segment *segment_new(struct arena *a, size_t size)
{
    if (!take(a, size + SYSTEM_OVERHEAD))
        return NULL;
    struct arena_segment *s = segment_allocate(size);
    if (s == NULL)
        a->taken -= size + SYSTEM_OVERHEAD;
    else
        s->size = size;
    return s;
}

static void segment_free(struct arena_segment *s)
{
    if (s->size < MAPPED_MIN)
        free(s);
    else
        munmap(s, s->size);
}

static void block_push(struct arena *a, void *block, unsigned class)
{
    struct arena_block *b = block;
    b->next = a->free[class];
    a->free[class] = b;
}

/* Puts room in a segment into the free lists. */
static void room_push(struct arena *a, char *room, size_t size)
{
    for (size_t piece; size > 0; room += piece, size -= piece) {
        piece = smaller(size, ARENA_SMALL_MAX);
        block_push(a, room, class_of(piece));
    }
}

/* It becomes the newest. */
static void segment_link(struct arena *a, struct arena_segment *s)
{
    s->next = a->segments;
    a->segments = s;
    a->small_total += s->size;
    arena_add_room(a, s + 1, s->size - sizeof *s);
}

/* Near the limit they get small again. */
static size_t segment_size(const struct arena *a)
{
    size_t size = SEGMENT_FIRST, part = left(a) / 4;
    if (a->segments != NULL)
        size = smaller(a->small_total / 16 + SEGMENT_MIN, SEGMENT_MAX);
    if (size > part)
        size = part > SEGMENT_MIN ? part : SEGMENT_MIN;
    return size & ~(SEGMENT_MIN - 1);
}

static bool segment_add(struct arena *a)
{
    struct arena_segment *s = segment_new(a, segment_size(a));
    if (s != NULL)
        segment_link(a, s);
    return s != NULL;
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

/* ---- what is free: a bit for each grain of a segment ---- */

enum { WORD_BITS = 64 };

static size_t bits_words(const struct arena_segment *s)
{
    return (s->size / ARENA_GRAIN + WORD_BITS - 1) / WORD_BITS;
}

static void bits_note(struct arena_segment *s, const void *block, size_t size)
{
    size_t first = (size_t)((const char *)block - (const char *)s) / ARENA_GRAIN;
    for (size_t grain = first; grain < first + size / ARENA_GRAIN; grain++)
        s->bits[grain / WORD_BITS] |= (uint64_t)1 << grain % WORD_BITS;
}

/* The next grain from `grain` on that is free, or is not; `end`: there is none before. */
static size_t bits_find(const struct arena_segment *s, size_t grain, bool is_free)
{
    size_t end = s->size / ARENA_GRAIN;
    while (grain < end) {
        uint64_t word = s->bits[grain / WORD_BITS];
        word = (is_free ? word : ~word) >> grain % WORD_BITS;
        if (word != 0)
            return smaller(grain + (size_t)__builtin_ctzll(word), end);
        grain = (grain / WORD_BITS + 1) * WORD_BITS;
    }
    return end;
}

static bool is_unused(const struct arena *a, const struct arena_segment *s)
{
    size_t header = sizeof *s / ARENA_GRAIN;
    return s != a->segments && bits_find(s, header, false) == s->size / ARENA_GRAIN;
}

/* What is free beside each other becomes one. */
static void push_free(struct arena *a, struct arena_segment *s)
{
    size_t end = s->size / ARENA_GRAIN;
    for (size_t grain = 0; (grain = bits_find(s, grain, true)) < end;) {
        size_t used = bits_find(s, grain, false);
        room_push(a, (char *)s + grain * ARENA_GRAIN, (used - grain) * ARENA_GRAIN);
        grain = used;
    }
}

/* Empties the free lists. */
static void bits_fill(struct arena *a, struct arena_segment **sorted, size_t count)
{
    for (unsigned class = 0; class < ARENA_CLASSES; class ++) {
        for (struct arena_block *b = a->free[class]; b != NULL; b = b->next)
            bits_note(find_segment(sorted, count, b), b, class_size(class));
        a->free[class] = NULL;
    }
}

/* Frees the segments that are all free, and fills the free lists with what is free in the others.
 */
static void sort_out(struct arena *a)
{
    struct arena_segment **link = &a->segments;
    while (*link != NULL) {
        struct arena_segment *s = *link;
        if (is_unused(a, s)) {
            *link = s->next;
            a->small_total -= s->size;
            a->taken -= s->size + SYSTEM_OVERHEAD;
            segment_free(s);
        } else {
            push_free(a, s);
            link = &s->next;
        }
    }
}

/* Gives back the segments that are all free, and makes larger blocks of free ones beside each
 * other. Without memory for the work it is left for later. */
static void sweep(struct arena *a)
{
    size_t count = 0, words = 0;
    a->freed = 0;
    for (struct arena_segment *s = a->segments; s != NULL; s = s->next) {
        count++;
        words += bits_words(s);
    }
    struct arena_segment **sorted = malloc(count * sizeof *sorted);
    uint64_t *all_bits = calloc(words, sizeof *all_bits), *bits = all_bits;
    if (sorted != NULL && all_bits != NULL) {
        size_t i = 0;
        for (struct arena_segment *s = a->segments; s != NULL; s = s->next) {
            s->bits = bits;
            bits += bits_words(s);
            sorted[i++] = s;
        }
        qsort(sorted, count, sizeof *sorted, compare_addresses);
        bits_fill(a, sorted, count);
        sort_out(a);
    }
    free(all_bits);
    free(sorted);
}

/* Bytes in the free lists; what rounding up to classes takes counts as free, too. */
static size_t small_free(const struct arena *a)
{
    size_t small_used = atomic_load_explicit(&a->used, memory_order_relaxed) - a->large_used;
    return a->small_total - small_used - (size_t)(a->end - a->next);
}

static void note_freed(struct arena *a)
{
    a->freed += (size_t)(a->look_interval - a->until_look);
    a->until_look = a->look_interval;
}

static bool may_sweep(struct arena *a, size_t least)
{
    return a->freed >= least && a->freed >= small_free(a) / SWEEP_PART;
}

/* Three quarters free: beyond what Lua's collector leaves between two cycles. */
static SELDOM void look_at_freed(struct arena *a)
{
    note_freed(a);
    if (may_sweep(a, SWEEP_MIN) && small_free(a) >= a->small_total / 4 * 3)
        sweep(a);
    if (a->collector != NULL)
        a->collector->pace(a);
}

/* For want of memory. */
static bool sweep_at_limit(struct arena *a)
{
    note_freed(a);
    if (!may_sweep(a, SEGMENT_MIN))
        return false;
    sweep(a);
    return true;
}

/* ---- small blocks ---- */

/* From the free list or from what the newest segment has left; NULL when neither has any. */
static inline void *small_take(struct arena *a, unsigned class)
{
    struct arena_block *b = a->free[class];
    if (b != NULL) {
        a->free[class] = b->next;
        return b;
    }
    if ((size_t)(a->end - a->next) < class_size(class))
        return NULL;
    void *cut = a->next;
    a->next += class_size(class);
    return cut;
}

/* A free block, if there is one, becomes room for smaller ones. */
static bool room_cut(struct arena *a, unsigned class)
{
    struct arena_block *b = a->free[class];
    if (b == NULL)
        return false;
    a->free[class] = b->next;
    arena_add_room(a, b, class_size(class));
    return true;
}

/* More from the system, or what is left where no more can be had. */
static bool room_find(struct arena *a, unsigned class)
{
    enum { LARGEST = ARENA_CLASSES - 1 };
    if (room_cut(a, LARGEST) || segment_add(a))
        return true;
    if (sweep_at_limit(a) && (room_cut(a, LARGEST) || segment_add(a)))
        return true;
    for (unsigned larger = class + 1; larger < ARENA_CLASSES; larger++)
        if (room_cut(a, larger))
            return true;
    return a->free[class] != NULL;
}

static void *small_allocate(struct arena *a, unsigned class)
{
    void *block = small_take(a, class);
    return block == NULL && room_find(a, class) ? small_take(a, class) : block;
}

static inline void small_push(struct arena *a, void *block, unsigned class)
{
    block_push(a, block, class);
    a->until_look -= (ptrdiff_t)class_size(class);
    if (a->until_look < 0)
        look_at_freed(a);
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

/*
 * Mapped ones are the system's again as soon as they are free, so that under a limit the process
 * does not keep more than that. Before the header is the size of the whole.
 */
#define MAPPED_OFFSET (2 * sizeof(size_t))

static struct arena_large *mapped_note(char *mapped, size_t size)
{
    *(size_t *)(void *)mapped = size;
    return (void *)(mapped + MAPPED_OFFSET);
}

static size_t *mapped_begin(struct arena_large *l)
{
    return (void *)((char *)l - MAPPED_OFFSET);
}

static size_t mapped_size(size_t size)
{
    return MAPPED_OFFSET + sizeof(struct arena_large) + size;
}

static struct arena_large *mapped_new(size_t size)
{
    void *mapped = map(mapped_size(size));
    return mapped != NULL ? mapped_note(mapped, mapped_size(size)) : NULL;
}

static void mapped_free(struct arena_large *l)
{
    munmap(mapped_begin(l), *mapped_begin(l));
}

static struct arena_large *mapped_resize(struct arena_large *l, size_t new_size)
{
#if CAN_REMAP
    size_t size = mapped_size(new_size);
    void *mapped = mremap(mapped_begin(l), *mapped_begin(l), size, MREMAP_MAYMOVE);
    return mapped != MAP_FAILED ? mapped_note(mapped, size) : NULL;
#else
    (void)l;
    (void)new_size;
    return NULL;
#endif
}

/* What a large block of that size takes. */
static size_t large_size(size_t size)
{
    return sizeof(struct arena_large) + SYSTEM_OVERHEAD + size;
}

/* Again only after Lua has got something since. */
static bool collect_at_limit(struct arena *a)
{
    if (a->collector == NULL || a->collects || a->used_at_collect == arena_used(a))
        return false;
    a->collects = true;
    a->collector->collect(a);
    a->collects = false;
    a->used_at_collect = arena_used(a);
    return true;
}

static bool take_or_sweep(struct arena *a, size_t size)
{
    return take(a, size) || (sweep_at_limit(a) && take(a, size));
}

/* For a block of `block_size`. */
static bool large_take(struct arena *a, size_t size, size_t block_size)
{
    return take_or_sweep(a, size) ||
           (block_size >= BUFFER_MIN && collect_at_limit(a) && take_or_sweep(a, size));
}

/* From what was reserved, or the system. */
static struct arena_large *large_new(struct arena *a, size_t size)
{
    struct arena_large *l = a->reserve;
    if (size > a->reserve_size)
        return malloc(sizeof *l + size);
    a->reserve = NULL;
    a->reserve_size = 0;
    return l;
}

/* Under a limit; else the system's allocator does it where it is better. */
static bool gets_mapped(const struct arena *a, size_t size)
{
    return arena_is_limited(a) && size >= MAPPED_MIN;
}

static void *large_allocate(struct arena *a, size_t size)
{
    if (!large_take(a, large_size(size), size))
        return NULL;
    struct arena_large *l = gets_mapped(a, size) ? mapped_new(size) : large_new(a, size);
    if (l == NULL) {
        a->taken -= large_size(size);
        return NULL;
    }
    l->previous = gets_mapped(a, size) ? &a->mapped : &a->large;
    l->next = l->previous->next;
    a->large_used += size;
    return large_link(l);
}

static bool resizes_in_place(const struct arena *a, size_t old_size, size_t new_size)
{
    if (gets_mapped(a, old_size) || gets_mapped(a, new_size))
        return CAN_REMAP && gets_mapped(a, old_size) && gets_mapped(a, new_size);
    return new_size > ARENA_SMALL_MAX;
}

static void *large_resize(struct arena *a, void *block, size_t old_size, size_t new_size)
{
    size_t more = new_size > old_size ? new_size - old_size : 0;
    if (!large_take(a, more, new_size))
        return NULL;
    struct arena_large *l = gets_mapped(a, new_size)
                                ? mapped_resize(large_of(block), new_size)
                                : realloc(large_of(block), sizeof *l + new_size);
    if (l == NULL) {
        a->taken -= more;
        return NULL;
    }
    a->taken -= old_size + more - new_size; /* what a smaller one gives back */
    a->large_used += new_size - old_size;
    return large_link(l);
}

static SELDOM void large_free(struct arena *a, void *block, size_t size)
{
    struct arena_large *l = large_of(block);
    a->large_used -= size;
    a->taken -= large_size(size);
    l->previous->next = l->next;
    l->next->previous = l->previous;
    if (gets_mapped(a, size))
        mapped_free(l);
    else
        free(l);
}

/* ---- blocks ---- */

/* What was cut from the image is no large block, whatever its size. */
static inline bool is_large(const struct arena *a, const void *block, size_t size)
{
    return size > ARENA_SMALL_MAX && (uintptr_t)block - (uintptr_t)a->image >= a->image_size;
}

static void *block_allocate(struct arena *a, size_t size)
{
    return size <= ARENA_SMALL_MAX ? small_allocate(a, class_of(size)) : large_allocate(a, size);
}

static inline void block_free(struct arena *a, void *block, size_t size)
{
    if (size <= ARENA_SMALL_MAX)
        small_push(a, block, class_of(size));
    else if (is_large(a, block, size))
        large_free(a, block, size);
    else
        room_push(a, block, arena_grains(size));
}

/* `used` is right before a block is freed, which may look at it. */
static void *block_move(struct arena *a, void *block, size_t old_size, size_t new_size)
{
    size_t credit = new_size < old_size && is_large(a, block, old_size) ? large_size(old_size) : 0;
    a->taken -= credit; /* of what is given back next, so that at the limit a block can shrink */
    void *moved = block_allocate(a, new_size);
    a->taken += credit;
    if (moved == NULL)
        return NULL;
    memcpy(moved, block, smaller(old_size, new_size));
    used_change(a, old_size, new_size);
    block_free(a, block, old_size);
    return moved;
}

static void *block_resize(struct arena *a, void *block, size_t old_size, size_t new_size)
{
    bool was_large = is_large(a, block, old_size);
    bool stays = was_large ? resizes_in_place(a, old_size, new_size)
                           : arena_grains(old_size) == arena_grains(new_size);
    if (!stays)
        return block_move(a, block, old_size, new_size);
    if (was_large)
        block = large_resize(a, block, old_size, new_size);
    if (block != NULL)
        used_change(a, old_size, new_size);
    return block;
}

static SELDOM void *resize_slowly(struct arena *a, void *block, size_t old_size, size_t new_size)
{
    if (block != NULL)
        return block_resize(a, block, old_size, new_size);
    block = block_allocate(a, new_size); /* old_size is a type tag */
    if (block != NULL)
        used_add(a, new_size);
    return block;
}

void *arena_resize(void *ud, void *block, size_t old_size, size_t new_size)
{
    struct arena *a = ud;
    if (new_size == 0) {
        if (block != NULL) {
            used_subtract(a, old_size);
            block_free(a, block, old_size);
        }
        return NULL;
    }
    if (block == NULL && new_size <= ARENA_SMALL_MAX) {
        void *taken = small_take(a, class_of(new_size));
        if (taken != NULL) {
            used_add(a, new_size);
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
    if (size <= ARENA_SMALL_MAX)
        return true;
    if (gets_mapped(a, size) || large_size(size) > left(a))
        return false; /* Lua has to try */
    if (size <= a->reserve_size)
        return true;
    struct arena_large *l = realloc(a->reserve, sizeof *l + size);
    if (l == NULL)
        return false;
    a->reserve = l;
    a->reserve_size = size;
    return true;
}

void arena_init(struct arena *a, size_t limit)
{
    enum { LOOKS = 16 }; /* at so many parts of the limit */
    memset(a, 0, sizeof *a);
    a->large.next = a->large.previous = &a->large;
    a->mapped.next = a->mapped.previous = &a->mapped;
    a->limit = limit;
    a->look_interval = (ptrdiff_t)smaller(SWEEP_MIN, limit / LOOKS);
    a->until_look = a->look_interval;
}

/* ---- images ---- */

void arena_init_model(struct arena *a, void *segment, size_t size)
{
    arena_init(a, ARENA_NO_LIMIT);
    a->segments = segment;
    a->segments->size = size;
    a->image = segment;
    a->image_size = size;
}

bool arena_has_room(const struct arena *a, size_t size)
{
    return a->free[class_of(size)] != NULL || a->free[ARENA_CLASSES - 1] != NULL ||
           (size_t)(a->end - a->next) >= arena_grains(size);
}

void arena_add_room(struct arena *a, void *room, size_t size)
{
    room_push(a, a->next, (size_t)(a->end - a->next));
    a->next = room;
    a->end = a->next + size;
}

void *arena_copy(struct arena *a, const struct arena *model, const void *content, size_t size)
{
    size_t segment_size = size + IMAGE_SPARE;
    struct arena_segment *s = segment_new(a, segment_size);
    if (s == NULL)
        return NULL;
    memcpy(s, content, size);
    s->size = segment_size;
    segment_link(a, s);
    a->next = (char *)s + size;
    used_add(a, atomic_load_explicit(&model->used, memory_order_relaxed));
    a->image = (char *)s;
    a->image_size = size;
    for (unsigned class = 0; class < ARENA_CLASSES; class ++)
        if (model->free[class] != NULL)
            a->free[class] = (void *)((char *)s + ((char *)model->free[class] - model->image));
    return s;
}

static void clear_ring(struct arena_large *anchor, void (*release)(struct arena_large *))
{
    for (struct arena_large *l = anchor->next, *next; l != anchor; l = next) {
        next = l->next;
        release(l);
    }
    anchor->next = anchor->previous = anchor;
}

static void unmapped_free(struct arena_large *l)
{
    free(l);
}

void arena_lend(struct arena *a)
{
    if (arena_is_limited(a))
        a->lent = LENT;
}

void arena_take_back(struct arena *a)
{
    if (arena_is_limited(a))
        a->lent = 0;
}

void arena_clear(struct arena *a)
{
    for (struct arena_segment *s = a->segments, *next; s != NULL; s = next) {
        next = s->next;
        segment_free(s);
    }
    a->segments = NULL;
    clear_ring(&a->large, unmapped_free);
    clear_ring(&a->mapped, mapped_free);
    free(a->reserve);
    a->reserve = NULL;
}
