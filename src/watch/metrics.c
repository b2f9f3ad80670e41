#include "metrics.h"

#include "state/pool.h"
#include "text.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- what is there ---- */

/* A pool or a state, kept by a reference, or several of one name. */
struct item {
    const struct record *record; /* NULL: all that has no name, or is gone */
    struct stats stats;
    struct pool_counts counts; /* these two of pools */
    unsigned size;
};

struct items {
    struct item *first;
    size_t count, room;
};

struct snapshot {
    bool by_name;
    struct stats lone;
    struct items pools, names;
};

static bool is_shown(const struct state *s)
{
    return s->member == NULL && s->record.name != NULL;
}

/* Under the list's lock. */
static void count_room(struct snapshot *s)
{
    s->pools.room = s->names.room = 0;
    for (struct pool *p = counters_next_pool(NULL); p != NULL; p = counters_next_pool(p))
        s->pools.room++;
    for (struct state *t = counters_next_state(NULL); s->by_name && t != NULL;
         t = counters_next_state(t))
        s->names.room += is_shown(t);
}

static void take(struct items *items, struct record *r, struct stats stats)
{
    record_retain(r);
    items->first[items->count++] = (struct item){.record = r, .stats = stats};
}

/* Under the list's lock: those for which there is room; more may have come to be. */
static void take_all(struct snapshot *s)
{
    s->lone = stats_by_pool();
    for (struct pool *p = counters_next_pool(NULL); p != NULL; p = counters_next_pool(p))
        if (s->pools.count < s->pools.room && !pool_is_closed(p))
            take(&s->pools, &p->record, p->stats);
    for (struct state *t = counters_next_state(NULL); s->by_name && t != NULL;
         t = counters_next_state(t))
        if (s->names.count < s->names.room && is_shown(t))
            take(&s->names, &t->record, stats_of_state(t));
}

static void count_members(struct items *pools)
{
    for (size_t i = 0; i < pools->count; i++) {
        struct pool *p = pool_of_record((struct record *)pools->first[i].record);
        pools->first[i].counts = pool_count(p);
        pools->first[i].size = p->options.size;
    }
}

static int compare(const void *a, const void *b)
{
    const struct record *x = ((const struct item *)a)->record,
                        *y = ((const struct item *)b)->record;
    size_t x_length = x->name != NULL ? x->name_length : 0;
    size_t y_length = y->name != NULL ? y->name_length : 0;
    size_t common = x_length < y_length ? x_length : y_length;
    int difference = common > 0 ? memcmp(x->name, y->name, common) : 0;
    return difference != 0 ? difference : (x_length > y_length) - (x_length < y_length);
}

static void add_counts(struct pool_counts *sum, const struct pool_counts *more)
{
    sum->members += more->members;
    sum->idle += more->idle;
    sum->busy += more->busy;
    sum->waiting += more->waiting;
    sum->made += more->made;
    for (int i = 0; i < POOL_RETIRED_COUNT; i++)
        sum->retired[i] += more->retired[i];
}

/* Those of one name become one. Sorted by name. */
static void merge(struct items *items)
{
    size_t kept = 0;
    if (items->count > 0)
        qsort(items->first, items->count, sizeof *items->first, compare);
    for (size_t i = 1; i < items->count; i++) {
        struct item *last = &items->first[kept], *here = &items->first[i];
        if (compare(last, here) != 0) {
            struct item moved = items->first[++kept];
            items->first[kept] = *here;
            items->first[i] = moved; /* all stay in the array, for their references */
            continue;
        }
        stats_add(&last->stats, &here->stats);
        add_counts(&last->counts, &here->counts);
        last->size += here->size;
    }
    items->room = items->count;
    items->count = items->count > 0 ? kept + 1 : 0;
}

static bool take_snapshot(struct snapshot *s)
{
    counters_lock();
    count_room(s);
    counters_unlock();
    s->pools.first = calloc(s->pools.room + 1, sizeof *s->pools.first);
    s->names.first = calloc(s->names.room + 1, sizeof *s->names.first);
    if (s->pools.first == NULL || s->names.first == NULL)
        return false;
    counters_lock();
    take_all(s);
    counters_unlock();
    count_members(&s->pools);
    merge(&s->pools);
    merge(&s->names);
    return true;
}

static void drop(struct items *items)
{
    for (size_t i = 0; items->first != NULL && i < items->room; i++)
        if (items->first[i].record != NULL)
            record_release((struct record *)items->first[i].record);
    free(items->first);
}

/* ---- text ---- */

enum unit { NUMBER, SECONDS };

static void write_value(struct text *t, enum unit unit, uint64_t value)
{
    if (unit == SECONDS)
        text_print(t, " %" PRIu64 ".%09" PRIu64 "\n", value / 1000000000, value % 1000000000);
    else
        text_print(t, " %" PRIu64 "\n", value);
}

/* Labelled by the record's name; `more`: another label, with its comma, or "". */
static void write_sample(struct text *t, const char *subject, const char *name,
                         const struct record *r, const char *more, enum unit unit, uint64_t value)
{
    bool has_name = r != NULL && r->name != NULL;
    text_print(t, "mtstates_%s_%s{%s=", subject, name, subject);
    text_add_quoted(t, has_name ? r->name : "", has_name ? r->name_length : 0);
    text_print(t, "%s}", more);
    write_value(t, unit, value);
}

static void write_head(struct text *t, const char *subject, const char *name, const char *help)
{
    size_t length = strlen(name);
    bool is_counter = length > 6 && strcmp(name + length - 6, "_total") == 0;
    text_print(t, "# HELP mtstates_%s_%s %s\n", subject, name, help);
    text_print(t, "# TYPE mtstates_%s_%s %s\n", subject, name, is_counter ? "counter" : "gauge");
}

/* What states and pools have in common. */
static const struct family {
    const char *name, *help;
    size_t offset; /* of a uint64_t in struct stats */
    enum unit unit;
} families[] = {
#define COUNT(field) offsetof(struct stats, counts.field)
    {"calls_total", "Calls that ran a callback.", COUNT(calls), NUMBER},
    {"errors_total", "Calls that ended by an error.", COUNT(errors), NUMBER},
    {"refused_total", "Calls that found it busy and did not wait.", COUNT(refused), NUMBER},
    {"waited_total", "Calls that found it busy and waited.", COUNT(waited), NUMBER},
    {"timed_out_total", "Calls that waited in vain.", COUNT(timed_out), NUMBER},
    {"wait_seconds_total", "Time that calls waited.", COUNT(wait_nanoseconds), SECONDS},
    {"interrupted_total", "Times that an interrupt has struck.", COUNT(interrupted), NUMBER},
    {"memory_bytes", "Memory that Lua has in them.", offsetof(struct stats, bytes), NUMBER},
    {"busy", "States that a thread is inside of.", offsetof(struct stats, busy), NUMBER},
    {"living", "States that there are.", offsetof(struct stats, states), NUMBER},
#undef COUNT
};

static uint64_t value_of(const struct family *y, const struct stats *s)
{
    uint64_t value;
    memcpy(&value, (const char *)s + y->offset, sizeof value);
    return value;
}

/* Of all items, and of what is in none of them. */
static void write_families(struct text *t, const char *subject, const struct items *items,
                           const struct stats *rest)
{
    for (size_t k = 0; k < sizeof families / sizeof *families; k++) {
        const struct family *y = &families[k];
        write_head(t, subject, y->name, y->help);
        for (size_t i = 0; i < items->count; i++)
            write_sample(t, subject, y->name, items->first[i].record, "", y->unit,
                         value_of(y, &items->first[i].stats));
        if (rest != NULL)
            write_sample(t, subject, y->name, NULL, "", y->unit, value_of(y, rest));
    }
}

static void write_pools(struct text *t, const char *name, const char *help,
                        const struct items *pools, uint64_t (*value)(const struct item *))
{
    write_head(t, "pool", name, help);
    for (size_t i = 0; i < pools->count; i++)
        write_sample(t, "pool", name, pools->first[i].record, "", NUMBER, value(&pools->first[i]));
}

/* Of one item; `counts` in powers of two from 1 us on, the last of all that took longer. */
static void write_histogram(struct text *t, const char *subject, const char *name,
                            const struct record *r, const uint64_t *counts, uint64_t nanoseconds)
{
    char sample[64], le[40];
    uint64_t sum = 0;
    snprintf(sample, sizeof sample, "%s_bucket", name);
    for (int i = 0; i < HISTOGRAM_COUNTS; i++) {
        uint64_t us = (uint64_t)1 << i;
        sum += counts[i];
        if (i == HISTOGRAM_COUNTS - 1)
            snprintf(le, sizeof le, ",le=\"+Inf\"");
        else
            snprintf(le, sizeof le, ",le=\"%" PRIu64 ".%06" PRIu64 "\"", us / 1000000,
                     us % 1000000);
        write_sample(t, subject, sample, r, le, NUMBER, sum);
    }
    snprintf(sample, sizeof sample, "%s_sum", name);
    write_sample(t, subject, sample, r, "", SECONDS, nanoseconds);
    snprintf(sample, sizeof sample, "%s_count", name);
    write_sample(t, subject, sample, r, "", NUMBER, sum);
}

/* Of items that are timed; `rest`: of states, what is among no items. */
static void write_timing(struct text *t, const char *subject, const struct items *items,
                         const struct stats *rest)
{
    static const struct {
        const char *name, *help;
    } histograms[] = {{"inside_seconds", "Time that threads were inside, of one entering each."},
                      {"waiting_seconds", "Time that calls waited, each."}};
    for (int k = 0; k < 2; k++) {
        text_print(t, "# HELP mtstates_%s_%s %s\n", subject, histograms[k].name,
                   histograms[k].help);
        text_print(t, "# TYPE mtstates_%s_%s histogram\n", subject, histograms[k].name);
        for (size_t i = 0; i < items->count + (rest != NULL); i++) {
            const struct stats *s = i < items->count ? &items->first[i].stats : rest;
            if (!s->is_timed)
                continue;
            write_histogram(t, subject, histograms[k].name,
                            i < items->count ? items->first[i].record : NULL,
                            k == 0 ? s->stays : s->waits,
                            k == 0 ? s->inside_nanoseconds : s->counts.wait_nanoseconds);
        }
    }
}

static uint64_t get_size(const struct item *i)
{
    return i->size;
}

static uint64_t get_idle(const struct item *i)
{
    return i->counts.idle;
}

static uint64_t get_waiting(const struct item *i)
{
    return (uint64_t)i->counts.waiting;
}

static uint64_t get_made(const struct item *i)
{
    return i->counts.made;
}

static void write_members(struct text *t, const struct items *pools)
{
    write_pools(t, "size", "Most members.", pools, get_size);
    write_pools(t, "idle", "Members that nobody is inside of.", pools, get_idle);
    write_pools(t, "waiting", "Calls that wait.", pools, get_waiting);
    write_pools(t, "made_total", "Members that were made.", pools, get_made);
    write_head(t, "pool", "retired_total", "Members that were replaced, by cause.");
    for (size_t i = 0; i < pools->count; i++) {
        for (int why = 1; why < POOL_RETIRED_COUNT; why++) {
            char cause[32];
            snprintf(cause, sizeof cause, ",cause=\"%s\"", pool_retired_names[why]);
            write_sample(t, "pool", "retired_total", pools->first[i].record, cause, NUMBER,
                         pools->first[i].counts.retired[why]);
        }
    }
}

static uint64_t less(uint64_t value, uint64_t part)
{
    return value > part ? value - part : 0; /* the part was read before, and may have grown */
}

/* What is in no pool, without those that are shown by name. */
static struct stats rest_of(const struct snapshot *s)
{
    struct stats rest = s->lone;
    for (size_t i = 0; i < s->names.count; i++) {
        const struct stats *part = &s->names.first[i].stats;
        for (size_t k = 0; k < sizeof families / sizeof *families; k++) {
            uint64_t value = less(value_of(&families[k], &rest), value_of(&families[k], part));
            memcpy((char *)&rest + families[k].offset, &value, sizeof value);
        }
        rest.inside_nanoseconds = less(rest.inside_nanoseconds, part->inside_nanoseconds);
        for (int k = 0; k < HISTOGRAM_COUNTS; k++) {
            rest.stays[k] = less(rest.stays[k], part->stays[k]);
            rest.waits[k] = less(rest.waits[k], part->waits[k]);
        }
    }
    return rest;
}

static void write_all(struct text *t, const struct snapshot *s)
{
    struct stats rest = rest_of(s);
    write_families(t, "state", &s->names, &rest);
    write_timing(t, "state", &s->names, &rest);
    write_families(t, "pool", &s->pools, NULL);
    write_timing(t, "pool", &s->pools, NULL);
    write_members(t, &s->pools);
    text_print(t, "# EOF\n");
}

char *metrics_text(bool by_name, size_t *length)
{
    struct snapshot s = {.by_name = by_name};
    struct text t = {.failed = !take_snapshot(&s)};
    if (!t.failed)
        write_all(&t, &s);
    drop(&s.pools);
    drop(&s.names);
    return text_end(&t, length);
}
