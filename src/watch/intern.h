/*
 * A set of things that are kept once each, and known by the order in which they came.
 */
#ifndef MTSTATES_INTERN_H
#define MTSTATES_INTERN_H

#include "sync/random.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define INTERN_NONE UINT32_MAX

struct intern {
    struct random_key key;      /* of hashes: programs choose the names of their functions */
    size_t item_size, key_size; /* an item's first bytes, padding too, tell it from others */
    char *items;
    uint32_t *table;      /* of numbers plus one; 0: free */
    uint32_t count, room; /* of items; the table has twice as many places, a power of two */
};

struct intern intern_of(size_t item_size, size_t key_size);

/* The number of the item that has this one's key; a copy of it is added if there is none.
 * INTERN_NONE: no memory. */
uint32_t intern_add(struct intern *t, const void *item);

/* Until the next one is added. */
static inline void *intern_get(const struct intern *t, uint32_t number)
{
    return t->items + number * t->item_size;
}

void intern_free(struct intern *t);

#endif
