/*
 * The memory of one state: Lua's allocator function over malloc, with one twist for the sake of
 * interrupts. An interrupter (interrupt.h) walks, from another thread, over call records and
 * coroutines of a running state; so that it never walks into memory that has a new use, small
 * blocks that the state frees wait in a batch, and a batch is let go only while no interrupter is
 * walking.
 *
 * Why this is enough: the walker finds a block by pointers that it reads under `walk`. A block that
 * was let go before it took `walk` was unlinked before that as well, and the mutex orders the two;
 * a block that is unlinked later stays in the batch until the walker has returned `walk`.
 *
 * The owner of the state alone allocates and frees. Any thread may hold and release.
 */
#ifndef MTSTATES_ALLOC_H
#define MTSTATES_ALLOC_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>

/* How many freed blocks wait, and up to which size: Lua's call records and coroutines are far
 * smaller (64 and 208 bytes in Lua 5.4 on 64 bits). */
#define ALLOC_BATCH 32
#define ALLOC_BATCH_SIZE_MAX 512

struct alloc {
    pthread_mutex_t walk;
    unsigned waiting;
    void *batch[ALLOC_BATCH];
};

/* False: the system has no mutex left. */
bool alloc_init(struct alloc *a);

/* Lets the last batch go. */
void alloc_destroy(struct alloc *a);

/* A lua_Alloc; `ud` is the struct alloc. */
void *alloc_resize(void *ud, void *block, size_t old_size, size_t new_size);

/* Between the two, no small block that the state frees is used anew. */
void alloc_hold(struct alloc *a);
void alloc_release(struct alloc *a);

#endif
