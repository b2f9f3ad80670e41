#include "alloc.h"

#include <stdlib.h>

bool alloc_init(struct alloc *a)
{
    a->waiting = 0;
    return pthread_mutex_init(&a->walk, NULL) == 0;
}

static void batch_free(struct alloc *a)
{
    while (a->waiting > 0)
        free(a->batch[--a->waiting]);
}

void alloc_destroy(struct alloc *a)
{
    batch_free(a);
    pthread_mutex_destroy(&a->walk);
}

static void block_free(struct alloc *a, void *block, size_t size)
{
    if (block == NULL || size > ALLOC_BATCH_SIZE_MAX) {
        free(block);
        return;
    }
    if (a->waiting == ALLOC_BATCH) {
        alloc_hold(a); /* waits for a walker; the next one cannot reach the batch any more */
        alloc_release(a);
        batch_free(a);
    }
    a->batch[a->waiting++] = block;
}

void *alloc_resize(void *ud, void *block, size_t old_size, size_t new_size)
{
    if (new_size == 0) {
        block_free(ud, block, old_size);
        return NULL;
    }
    return realloc(block, new_size);
}

void alloc_hold(struct alloc *a)
{
    pthread_mutex_lock(&a->walk);
}

void alloc_release(struct alloc *a)
{
    pthread_mutex_unlock(&a->walk);
}
