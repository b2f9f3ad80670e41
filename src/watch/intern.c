#include "intern.h"

#include <stdlib.h>
#include <string.h>

struct intern intern_of(size_t item_size, size_t key_size)
{
    return (struct intern){.key = random_key_new(), .item_size = item_size, .key_size = key_size};
}

/* The place of the item that has this key, or a free one. */
static uint32_t *find(const struct intern *t, const void *key)
{
    uint32_t mask = 2 * t->room - 1;
    uint32_t i = (uint32_t)random_hash(&t->key, key, t->key_size) & mask;
    while (t->table[i] != 0 && memcmp(intern_get(t, t->table[i] - 1), key, t->key_size) != 0)
        i = (i + 1) & mask;
    return &t->table[i];
}

static bool grow(struct intern *t)
{
    enum { FIRST = 64 };
    uint32_t room = t->room == 0 ? FIRST : 2 * t->room;
    if (room > INTERN_NONE / 4)
        return false;
    uint32_t *table = calloc(2 * (size_t)room, sizeof *table);
    char *items = table != NULL ? realloc(t->items, room * t->item_size) : NULL;
    if (items == NULL) {
        free(table);
        return false;
    }
    free(t->table);
    t->items = items;
    t->table = table;
    t->room = room;
    for (uint32_t i = 0; i < t->count; i++)
        *find(t, intern_get(t, i)) = i + 1;
    return true;
}

uint32_t intern_add(struct intern *t, const void *item)
{
    if (t->count == t->room && !grow(t))
        return INTERN_NONE;
    uint32_t *place = find(t, item);
    if (*place == 0) {
        memcpy(intern_get(t, t->count), item, t->item_size);
        *place = ++t->count;
    }
    return *place - 1;
}

void intern_free(struct intern *t)
{
    free(t->items);
    free(t->table);
    t->items = NULL;
    t->table = NULL;
    t->count = t->room = 0;
}
