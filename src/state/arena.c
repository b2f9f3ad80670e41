#if defined(__linux__)
#define _DEFAULT_SOURCE /* MAP_ANONYMOUS */
#endif

#include "arena.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* Out of line, so that what happens all the time needs no stack frame. */
#define SELDOM __attribute__((noinline))

/* A state without libraries fills the first one. Later ones grow with the arena. */
#define SEGMENT_FIRST ((size_t)6 * 1024)
#define SEGMENT_MIN ((size_t)512)
#define SEGMENT_MAX ((size_t)256 * 1024)

/* What the segment of a copy has beyond the image: most setups need that much. */
#define IMAGE_SPARE ((size_t)1792)

/* From this size on a segment is mapped, so that the system gets it back when it is freed. */
#define SEGMENT_MAPPED ((size_t)64 * 1024)

/* Less than this in the free lists is not worth a sweep. */
#define SWEEP_MIN ((size_t)256 * 1024)

/* Sweeps come when such a part of what the last one had to look at was freed since. */
#define SWEEP_PART 4

struct arena_block {
    struct arena_block *next;
};

struct arena_segment {
    struct arena_segment *next;
    size_t size; /* with this header */
    size_t free; /* a sweep's count */
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

static bool segment_add(struct arena *a)
{
    size_t size = smaller(a->small_total / 16 + SEGMENT_MIN, SEGMENT_MAX) & ~(SEGMENT_MIN - 1);
    if (a->segments == NULL)
        size = SEGMENT_FIRST;
    struct arena_segment *s = segment_new(size);
    if (s == NULL)
        return false;
    s->size = size;
    segment_link(a, s);
    return true;
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
static void sweep(struct arena *a)
{
    size_t count = 0, i = 0;
    for (struct arena_segment *s = a->segments; s != NULL; s = s->next)
        count++;
    struct arena_segment **sorted = malloc(count * sizeof *sorted);
    if (sorted == NULL)
        return;
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

/* Bytes in the free lists; what rounding up to classes takes counts as free, too. */
static size_t small_free(const struct arena *a)
{
    return a->small_total - (a->used - a->large_used) - (size_t)(a->end - a->next);
}

/* Three quarters free: beyond what Lua's collector leaves between two cycles. */
static SELDOM void consider_sweep(struct arena *a)
{
    if (small_free(a) >= SWEEP_MIN && small_free(a) >= a->small_total / 4 * 3)
        sweep(a);
    size_t part = small_free(a) / SWEEP_PART;
    a->until_sweep = (ptrdiff_t)(part > SWEEP_MIN ? part : SWEEP_MIN);
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

/* A free block of the largest class becomes room for smaller ones. */
static bool room_find(struct arena *a)
{
    struct arena_block *b = a->free[ARENA_CLASSES - 1];
    if (b == NULL)
        return false;
    a->free[ARENA_CLASSES - 1] = b->next;
    arena_add_room(a, b, ARENA_SMALL_MAX);
    return true;
}

static void *small_allocate(struct arena *a, unsigned class)
{
    void *block = small_take(a, class);
    return block == NULL && (room_find(a) || segment_add(a)) ? small_take(a, class) : block;
}

static inline void small_push(struct arena *a, void *block, unsigned class)
{
    block_push(a, block, class);
    a->until_sweep -= (ptrdiff_t)class_size(class);
    if (a->until_sweep < 0)
        consider_sweep(a);
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
    a->large_used += size;
    return large_link(l);
}

static void *large_resize(struct arena *a, void *block, size_t old_size, size_t new_size)
{
    struct arena_large *l = realloc(large_of(block), sizeof *l + new_size);
    if (l == NULL)
        return NULL;
    a->large_used += new_size - old_size;
    return large_link(l);
}

static SELDOM void large_free(struct arena *a, void *block, size_t size)
{
    struct arena_large *l = large_of(block);
    a->large_used -= size;
    l->previous->next = l->next;
    l->next->previous = l->previous;
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
    void *moved = block_allocate(a, new_size);
    if (moved == NULL)
        return NULL;
    memcpy(moved, block, smaller(old_size, new_size));
    a->used += new_size - old_size;
    block_free(a, block, old_size);
    return moved;
}

static void *block_resize(struct arena *a, void *block, size_t old_size, size_t new_size)
{
    bool was_large = is_large(a, block, old_size), gets_large = new_size > ARENA_SMALL_MAX;
    bool stays = was_large ? gets_large : arena_grains(old_size) == arena_grains(new_size);
    if (!stays)
        return block_move(a, block, old_size, new_size);
    if (was_large)
        block = large_resize(a, block, old_size, new_size);
    if (block != NULL)
        a->used += new_size - old_size;
    return block;
}

static SELDOM void *resize_slowly(struct arena *a, void *block, size_t old_size, size_t new_size)
{
    if (block != NULL)
        return block_resize(a, block, old_size, new_size);
    block = block_allocate(a, new_size); /* old_size is a type tag */
    if (block != NULL)
        a->used += new_size;
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
        void *taken = small_take(a, class_of(new_size));
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

void arena_init(struct arena *a)
{
    memset(a, 0, sizeof *a);
    a->large.next = a->large.previous = &a->large;
    a->until_sweep = (ptrdiff_t)SWEEP_MIN;
}

/* ---- images ---- */

void arena_init_model(struct arena *a, void *segment, size_t size)
{
    arena_init(a);
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
    struct arena_segment *s = segment_new(size + IMAGE_SPARE);
    if (s == NULL)
        return NULL;
    memcpy(s, content, size);
    arena_init(a);
    s->size = size + IMAGE_SPARE;
    segment_link(a, s);
    a->next = (char *)s + size;
    a->used = model->used;
    a->image = (char *)s;
    a->image_size = size;
    for (unsigned class = 0; class < ARENA_CLASSES; class ++)
        if (model->free[class] != NULL)
            a->free[class] = (void *)((char *)s + ((char *)model->free[class] - model->image));
    return s;
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
