/*
 * The registry under stress: every thread adds and removes records of its own and looks up those of
 * all others, by id and by name. What a look-up finds is whole and stays so until it is released;
 * in the end every record was destroyed once.
 *
 * The linker's --wrap shows which hash sets the registry makes, and clears the memory of their
 * maps, since ck counts tombstones from whatever it finds there.
 */
#include "sync/registry.h"
#include "check.h"

#include <ck_hs.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

enum { SLOTS = 64, THREADS_MAX = 65, NAMES = 100 };

static const uint64_t WHOLE = 0x600dc0de600dc0deu, GONE = 0xdeadbeefdeadbeefu;

struct item {
    struct record record;
    uint64_t mark;
    _Atomic bool closed;
    char name[16];
};

static _Atomic int64_t published[THREADS_MAX][SLOTS]; /* ids that are, or lately were, in */
static _Atomic long created, destroyed, hits, misses, ambiguous;
static double deadline;
static int threads;
static uint64_t seed;

static void destroy(struct record *r)
{
    struct item *item = (struct item *)r;
    CHECK(item->mark == WHOLE);
    item->mark = GONE;
    atomic_fetch_add(&destroyed, 1);
    free(item);
}

static bool is_closed(struct record *r)
{
    return ((struct item *)r)->closed;
}

static const struct record_kind kind = {
    .registry = &registry_states, .destroy = destroy, .is_closed = is_closed};

static struct item *add(uint64_t *random)
{
    struct item *item = malloc(sizeof *item);
    CHECK(item != NULL);
    item->mark = WHOLE;
    item->closed = false;
    snprintf(item->name, sizeof item->name, "name %d", (int)random_below(random, NAMES));
    bool named = random_below(random, 4) != 0;
    record_init(&item->record, named ? item->name : NULL, named ? strlen(item->name) : 0, &kind);
    atomic_fetch_add(&created, 1);
    CHECK(registry_add(&item->record));
    return item;
}

static void look(uint64_t *random)
{
    struct record *r;
    enum registry_result result;
    char name[16];
    bool by_name = random_below(random, 2);
    int64_t id = atomic_load(
        &published[random_below(random, (uint64_t)threads)][random_below(random, SLOTS)]);
    snprintf(name, sizeof name, "name %d", (int)random_below(random, NAMES));
    result = by_name ? registry_find_name(&registry_states, name, strlen(name), &r)
                     : registry_find_id(&registry_states, id, &r);
    if (result == REGISTRY_AMBIGUOUS)
        atomic_fetch_add(&ambiguous, 1);
    if (result == REGISTRY_UNKNOWN)
        atomic_fetch_add(&misses, 1);
    if (result != REGISTRY_FOUND)
        return;
    atomic_fetch_add(&hits, 1);
    CHECK(((struct item *)r)->mark == WHOLE);
    CHECK(by_name ? strcmp(r->name, name) == 0 : r->id == id);
    record_release(r);
}

static void *stress(void *argument)
{
    int self = (int)(intptr_t)argument;
    uint64_t random = seed * 31 + (uint64_t)self + 1;
    struct item *items[SLOTS] = {NULL};
    while (test_clock() < deadline) {
        for (int i = 0; i < 100; i++) {
            uint64_t slot = random_below(&random, SLOTS);
            if (random_below(&random, 4) != 0) {
                look(&random);
            } else if (items[slot] == NULL) {
                items[slot] = add(&random);
                atomic_store(&published[self][slot], items[slot]->record.id);
            } else {
                struct record *r = &items[slot]->record;
                int64_t id = r->id;
                registry_remove(r);
                registry_remove(r); /* does nothing */
                struct record *found;
                CHECK(registry_find_id(&registry_states, id, &found) == REGISTRY_UNKNOWN);
                record_release(r);
                items[slot] = NULL;
            }
        }
    }
    for (int i = 0; i < SLOTS; i++) {
        if (items[i] != NULL) {
            registry_remove(&items[i]->record);
            record_release(&items[i]->record);
        }
    }
    return NULL;
}

static void names_tell_one_from_many(void)
{
    struct item *a = malloc(sizeof *a), *b = malloc(sizeof *b);
    struct record *found;
    CHECK(a != NULL && b != NULL);
    a->mark = b->mark = WHOLE;
    a->closed = b->closed = false;
    record_init(&a->record, "shared", 6, &kind);
    record_init(&b->record, "shared", 6, &kind);
    CHECK(registry_find_name(&registry_states, "shared", 6, &found) == REGISTRY_UNKNOWN);
    CHECK(registry_add(&a->record));
    CHECK(registry_find_name(&registry_states, "shared", 6, &found) == REGISTRY_FOUND &&
          found == &a->record);
    record_release(found);
    CHECK(registry_add(&b->record));
    CHECK(registry_find_name(&registry_states, "shared", 6, &found) == REGISTRY_AMBIGUOUS);
    a->closed = true;
    CHECK(registry_find_name(&registry_states, "shared", 6, &found) == REGISTRY_FOUND &&
          found == &b->record);
    record_release(found);
    CHECK(registry_find_id(&registry_states, a->record.id, &found) == REGISTRY_UNKNOWN);
    registry_remove(&a->record);
    CHECK(registry_find_name(&registry_states, "shared", 6, &found) == REGISTRY_FOUND &&
          found == &b->record);
    record_release(found);
    registry_remove(&b->record);
    CHECK(registry_find_name(&registry_states, "shared", 6, &found) == REGISTRY_UNKNOWN);
    atomic_fetch_add(&created, 2);
    record_release(&a->record);
    record_release(&b->record);
}

static void drop(struct item *item)
{
    registry_remove(&item->record);
    record_release(&item->record);
}

static double seconds_of_churn(uint64_t *random)
{
    double start = test_clock();
    for (int i = 0; i < 100000; i++)
        drop(add(random));
    return test_clock() - start;
}

enum { SETS = 4 }; /* by id and by name, of states and of pools */
static ck_hs_t *sets[SETS];
static int set_count;

bool __real_ck_hs_init(ck_hs_t *set, unsigned mode, ck_hs_hash_cb_t *hash, ck_hs_compare_cb_t *same,
                       struct ck_malloc *allocator, unsigned long capacity, unsigned long salt);
bool __wrap_ck_hs_init(ck_hs_t *set, unsigned mode, ck_hs_hash_cb_t *hash, ck_hs_compare_cb_t *same,
                       struct ck_malloc *allocator, unsigned long capacity, unsigned long salt);

bool __wrap_ck_hs_init(ck_hs_t *set, unsigned mode, ck_hs_hash_cb_t *hash, ck_hs_compare_cb_t *same,
                       struct ck_malloc *allocator, unsigned long capacity, unsigned long salt)
{
    CHECK(set_count < SETS);
    sets[set_count++] = set;
    return __real_ck_hs_init(set, mode, hash, same, allocator, capacity, salt);
}

void *__wrap_malloc(size_t size);

void *__wrap_malloc(size_t size)
{
    return calloc(1, size);
}

/* A look-up of an unknown id or name runs over the tombstones that it meets. */
static void look_ups_run_over_few_tombstones(unsigned long most_entries)
{
    CHECK(set_count == SETS);
    for (int i = 0; i < SETS; i++) {
        struct ck_hs_stat stat;
        ck_hs_stat(sets[i], &stat);
        printf("set %d: %lu entries, %lu tombstones, probes of up to %u\n", i + 1, stat.n_entries,
               stat.tombstones, stat.probe_maximum);
        CHECK(stat.tombstones <= most_entries / 2 + 33); /* see table_remove */
    }
}

/* Removed entries leave traces in a hash set; if nobody clears them it gets slower and slower. */
static void coming_and_going_costs_the_same_after_a_crowd_has_left(void)
{
    enum { CROWD = 100000 };
    uint64_t random = seed;
    static struct item *crowd[CROWD];
    struct record *found;
    double before = seconds_of_churn(&random);
    look_ups_run_over_few_tombstones(2);
    for (int i = 0; i < CROWD; i++)
        crowd[i] = add(&random);
    for (int i = 100; i < CROWD; i++)
        drop(crowd[i]);
    double after = seconds_of_churn(&random) + seconds_of_churn(&random);
    look_ups_run_over_few_tombstones(CROWD + 1);
    printf("100000 come and go in %.3f s before, %.3f s after\n", before, after / 2);
    CHECK(after / 2 < 10 * before);
    for (int i = 0; i < 100; i++) {
        CHECK(registry_find_id(&registry_states, crowd[i]->record.id, &found) == REGISTRY_FOUND);
        record_release(found);
        drop(crowd[i]);
    }
}

int main(void)
{
    CHECK(registry_init());
    CHECK(registry_init());
    seed = test_seed();
    threads = test_threads() < THREADS_MAX ? test_threads() : THREADS_MAX;
    names_tell_one_from_many();
    coming_and_going_costs_the_same_after_a_crowd_has_left();
    deadline = test_clock() + test_seconds();
    pthread_t ids[THREADS_MAX];
    for (int i = 0; i < threads; i++)
        CHECK(pthread_create(&ids[i], NULL, stress, (void *)(intptr_t)i) == 0);
    for (int i = 0; i < threads; i++)
        pthread_join(ids[i], NULL);
    for (int i = 0; i < 10 && atomic_load(&destroyed) != atomic_load(&created); i++)
        names_tell_one_from_many(); /* each write frees what was removed before */
    printf("%d threads, %ld records, %ld found, %ld unknown, %ld ambiguous\n", threads,
           atomic_load(&created), atomic_load(&hits), atomic_load(&misses),
           atomic_load(&ambiguous));
    CHECK(atomic_load(&hits) > 0 && atomic_load(&misses) > 0 && atomic_load(&ambiguous) > 0);
    CHECK(atomic_load(&created) - atomic_load(&destroyed) <= 2);
    return 0;
}
