#include "records.h"

#include "sync/registry.h"

#include <stdlib.h>

static struct record **records;
static size_t records_count;
static int64_t first_id;
static uint64_t random_state;

static void record_free(struct record *r)
{
    free(r);
}

static bool record_is_closed(struct record *r)
{
    (void)r;
    return false;
}

static const struct record_kind kind = {
    .registry = &registry_states, .destroy = record_free, .is_closed = record_is_closed};

int records_make(size_t count)
{
    records = registry_init() ? malloc(count * sizeof *records) : NULL;
    if (records == NULL)
        return 0;
    records_count = count;
    for (size_t i = 0; i < count; i++) {
        if ((records[i] = malloc(sizeof **records)) == NULL)
            return 0;
        record_init(records[i], NULL, 0, &kind);
        if (!registry_add(records[i]))
            return 0;
    }
    first_id = records[0]->id;
    return 1;
}

/* As good as any other; see Knuth's MMIX. */
static uint64_t next_random(void)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return random_state >> 32;
}

void records_find(size_t n, int at_random)
{
    struct record *found;
    for (size_t i = 0; i < n; i++) {
        int64_t id = first_id + (at_random ? (int64_t)(next_random() % records_count) : 0);
        if (registry_find_id(&registry_states, id, &found) != REGISTRY_FOUND)
            abort();
        record_release(found);
    }
}

void records_remove(void)
{
    for (size_t i = 0; i < records_count; i++) {
        registry_remove(records[i]);
        record_release(records[i]);
    }
    free(records);
}

/* ---- what memory alone costs ---- */

struct stop {
    size_t next;
    char rest[56]; /* of its cache line */
};

static struct stop **stops;
static size_t stops_count, stop_at;

int stops_make(size_t count)
{
    size_t *order = malloc(count * sizeof *order);
    stops = malloc(count * sizeof *stops);
    if (order == NULL || stops == NULL)
        return 0;
    stops_count = count;
    stop_at = 0;
    for (size_t i = 0; i < count; i++) {
        order[i] = i;
        if ((stops[i] = malloc(sizeof **stops)) == NULL)
            return 0;
    }
    for (size_t i = count - 1; i > 0; i--) { /* one ring of all: Sattolo's */
        size_t k = next_random() % i, other = order[k];
        order[k] = order[i];
        order[i] = other;
    }
    for (size_t i = 0; i < count; i++)
        stops[order[i]]->next = order[(i + 1) % count];
    free(order);
    return 1;
}

size_t stops_follow(size_t n)
{
    for (size_t i = 0; i < n; i++)
        stop_at = stops[stop_at]->next;
    return stop_at;
}

void stops_remove(void)
{
    for (size_t i = 0; i < stops_count; i++)
        free(stops[i]);
    free(stops);
}
