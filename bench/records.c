#include "records.h"

#include "sync/registry.h"

#include <stdlib.h>

static struct record **records;
static size_t records_count;
static int64_t first_id;
static size_t position;

static void record_free(struct record *r)
{
    free(r);
}

static bool record_is_closed(struct record *r)
{
    (void)r;
    return false;
}

static const struct record_kind kind = {record_free, record_is_closed};

int records_make(size_t count)
{
    records = registry_init() ? malloc(count * sizeof *records) : NULL;
    if (records == NULL)
        return 0;
    records_count = count;
    position = 0;
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

void records_find(size_t n, size_t step)
{
    struct record *found;
    for (size_t i = 0; i < n; i++) {
        position = (position + step) % records_count;
        if (registry_find_id(first_id + (int64_t)position, &found) != REGISTRY_FOUND)
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
