#include "registry.h"

#include "random.h"

#include <ck_hs.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

/*
 * The thread sanitizer does not see what libck does, so these tell it what ck orders: who finds an
 * object sees it as it was put.
 */
#if MTSTATES_TSAN
#include <sanitizer/tsan_interface.h>
#define HAPPENS_BEFORE(address) __tsan_release((void *)(address))
#define HAPPENS_AFTER(address) __tsan_acquire((void *)(address))
#else
#define HAPPENS_BEFORE(address) ((void)0)
#define HAPPENS_AFTER(address) ((void)0)
#endif

/*
 * The records of one name. `only` is the record when there is exactly one, NULL when there are
 * more; written under the mutex (release, so that a reader who gets the record sees it filled in),
 * read by look-ups (acquire).
 */
struct record_name {
    size_t length;
    const char *bytes; /* here behind the struct, or the caller's in a key for a look-up */
    _Atomic(struct record *) only;
    struct record *first; /* all of them; the mutex's */
    struct retired retired;
};

/* A hash set, the most entries it ever had, and how many removals its probes still run over. */
struct table {
    ck_hs_t set;
    unsigned long peak;
    unsigned long removed;
};

struct registry {
    struct table ids, names;
};

struct registry registry_states, registry_pools;

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static struct random_key secret; /* written before `ready` */
static _Atomic int64_t next_id;  /* relaxed: only its being unique matters */
static _Atomic bool ready;       /* written under the mutex with release, read with acquire */

/* ---- hash sets ---- */

/* The finalizer of MurmurHash3 (Austin Appleby): mixes every bit of an id into every other. */
static unsigned long mix(uint64_t h)
{
    h = (h ^ h >> 33) * 0xff51afd7ed558ccdu;
    h = (h ^ h >> 33) * 0xc4ceb9fe1a85ec53u;
    return (unsigned long)(h ^ h >> 33);
}

static unsigned long hash_id(const void *key, unsigned long seed)
{
    const struct record *r = key;
    return mix((uint64_t)r->id ^ seed);
}

/* ck puts the entry first, the key second. */
static bool same_id(const void *a, const void *b)
{
    const struct record *x = a, *y = b;
    HAPPENS_AFTER(x);
    return x->id == y->id;
}

/* Names come from users, who could choose some that collide. */
static unsigned long hash_name(const void *key, unsigned long seed)
{
    const struct record_name *n = key;
    (void)seed;
    return (unsigned long)random_hash(&secret, n->bytes, n->length);
}

static bool same_name(const void *a, const void *b)
{
    const struct record_name *x = a, *y = b;
    HAPPENS_AFTER(x);
    return x->length == y->length && memcmp(x->bytes, y->bytes, x->length) == 0;
}

/* A set's map outlives the readers that are in it: it is freed after a grace period. */
union map_block {
    struct retired retired;
    max_align_t align;
};

static void *map_malloc(size_t size)
{
    union map_block *b = malloc(sizeof *b + size);
    return b != NULL ? b + 1 : NULL;
}

static void map_destroy(struct retired *r)
{
    free(r); /* it is the block's first member */
}

static void map_free(void *map, size_t size, bool defer)
{
    (void)size;
    union map_block *b = (union map_block *)map - 1;
    if (defer)
        grace_retire(&b->retired, map_destroy);
    else
        free(b);
}

static struct ck_malloc map_allocator = {.malloc = map_malloc, .free = map_free};

static bool table_init(struct table *t, ck_hs_hash_cb_t *hash, ck_hs_compare_cb_t *same)
{
    t->peak = t->removed = 0;
    return ck_hs_init(&t->set, CK_HS_MODE_SPMC | CK_HS_MODE_OBJECT | CK_HS_MODE_DELETE, hash, same,
                      &map_allocator, 64, (unsigned long)secret.low);
}

static bool table_put(struct table *t, const void *object)
{
    /* ck publishes the pointer without a barrier; readers follow it (data dependency). */
    atomic_thread_fence(memory_order_release);
    HAPPENS_BEFORE(object);
    if (!ck_hs_put(&t->set, CK_HS_HASH(&t->set, t->set.hf, object), object))
        return false;
    if (ck_hs_count(&t->set) > t->peak)
        t->peak = ck_hs_count(&t->set);
    return true;
}

/*
 * Removed entries leave tombstones, over which probes run until the set is rebuilt. ck keeps the
 * capacity above twice the peak, so this keeps a quarter of the set empty, and each removal pays
 * for a constant part of a rebuild. Without memory for one the next removal tries.
 */
static void table_remove(struct table *t, const void *object)
{
    ck_hs_remove(&t->set, CK_HS_HASH(&t->set, t->set.hf, object), object);
    if (++t->removed > t->peak / 2 + 32 && ck_hs_rebuild(&t->set))
        t->removed = 0;
}

/* ---- writers ---- */

static bool init(struct registry *g)
{
    if (!table_init(&g->ids, hash_id, same_id))
        return false;
    if (table_init(&g->names, hash_name, same_name))
        return true;
    ck_hs_destroy(&g->ids.set);
    return false;
}

static bool init_both(void)
{
    if (!init(&registry_states))
        return false;
    if (init(&registry_pools))
        return true;
    ck_hs_destroy(&registry_states.ids.set);
    ck_hs_destroy(&registry_states.names.set);
    return false;
}

bool registry_init(void)
{
    if (atomic_load_explicit(&ready, memory_order_acquire))
        return true;
    bool ok = false;
    pthread_mutex_lock(&mutex);
    if (atomic_load_explicit(&ready, memory_order_relaxed)) {
        ok = true;
    } else {
        secret = random_key_new();
        random_multiplier = random_key_new().low | 1;
        atomic_init(&next_id, RECORD_ID_LEAST + (int64_t)(random_key_new().low % RECORD_ID_RANGE));
        ok = init_both();
        if (ok)
            atomic_store_explicit(&ready, true, memory_order_release);
    }
    pthread_mutex_unlock(&mutex);
    return ok;
}

void record_init(struct record *r, const char *name, size_t length, const struct record_kind *kind)
{
    r->id = atomic_fetch_add_explicit(&next_id, 1, memory_order_relaxed);
    r->name = name;
    r->name_length = length;
    r->kind = kind;
    atomic_init(&r->refs, 1);
    atomic_init(&r->owners, 1);
    atomic_init(&r->shares_name, false);
    r->present = false;
    r->entry = NULL;
}

static bool increment_unless_zero(_Atomic uint32_t *count)
{
    uint32_t seen = atomic_load_explicit(count, memory_order_relaxed);
    while (seen != 0)
        if (atomic_compare_exchange_weak_explicit(count, &seen, seen + 1, memory_order_relaxed,
                                                  memory_order_relaxed))
            return true;
    return false;
}

/* Inside a grace period: takes a reference unless the last one is gone. */
static bool record_retain_if_referenced(struct record *r)
{
    return increment_unless_zero(&r->refs);
}

bool record_own(struct record *r)
{
    return increment_unless_zero(&r->owners);
}

void record_disown(struct record *r, struct thread *self)
{
    if (atomic_fetch_sub_explicit(&r->owners, 1, memory_order_acq_rel) == 1)
        r->kind->abandon(r, self);
}

static void write_begin(void)
{
    pthread_mutex_lock(&mutex);
}

/* Returns the mutex; then frees what no reader can meet any more, this call's or earlier ones'. */
static void write_end(void)
{
    struct retired *expired = grace_take();
    pthread_mutex_unlock(&mutex);
    grace_destroy(expired);
}

static void record_destroy(struct retired *retired)
{
    struct record *r = (void *)((char *)retired - offsetof(struct record, retired));
    r->kind->destroy(r);
}

static void name_destroy(struct retired *retired)
{
    free((char *)retired - offsetof(struct record_name, retired));
}

void record_release(struct record *r)
{
    if (atomic_fetch_sub_explicit(&r->refs, 1, memory_order_acq_rel) != 1)
        return;
    write_begin();
    grace_retire(&r->retired, record_destroy);
    write_end();
}

static struct record_name *name_new(const char *bytes, size_t length)
{
    struct record_name *n = malloc(sizeof *n + length);
    if (n == NULL)
        return NULL;
    char *copy = (char *)(n + 1);
    memcpy(copy, bytes, length);
    atomic_init(&n->only, NULL);
    n->first = NULL;
    n->length = length;
    n->bytes = copy;
    return n;
}

static struct record_name *name_find(struct registry *g, const char *name, size_t length)
{
    struct record_name key = {.length = length, .bytes = name};
    ck_hs_t *names = &g->names.set;
    return ck_hs_get(names, CK_HS_HASH(names, hash_name, &key), &key);
}

static void set_shares_name(struct record *r, bool shares)
{
    atomic_store_explicit(&r->shares_name, shares, memory_order_relaxed);
}

/* After one was linked or unlinked: tells readers, and the first two, how many there are. */
static void name_publish(struct record_name *n)
{
    struct record *second = n->first->name_next;
    set_shares_name(n->first, second != NULL);
    if (second != NULL)
        set_shares_name(second, true);
    atomic_store_explicit(&n->only, second == NULL ? n->first : NULL, memory_order_release);
}

static void name_link(struct record_name *n, struct record *r)
{
    r->entry = n;
    r->name_previous = NULL;
    r->name_next = n->first;
    if (n->first != NULL)
        n->first->name_previous = r;
    n->first = r;
    name_publish(n);
}

static void name_unlink(struct record_name *n, struct record *r)
{
    *(r->name_previous ? &r->name_previous->name_next : &n->first) = r->name_next;
    if (r->name_next != NULL)
        r->name_next->name_previous = r->name_previous;
    if (n->first != NULL) {
        name_publish(n);
    } else {
        table_remove(&r->kind->registry->names, n);
        grace_retire(&n->retired, name_destroy);
    }
}

/* Under the mutex. `*fresh` is a new entry for the name; set to NULL when it is used. */
static bool name_add(struct record *r, struct record_name **fresh)
{
    struct registry *g = r->kind->registry;
    struct record_name *n = name_find(g, r->name, r->name_length);
    if (n == NULL) {
        n = *fresh;
        name_link(n, r); /* before readers can find the entry */
        if (!table_put(&g->names, n))
            return false;
        *fresh = NULL;
        return true;
    }
    name_link(n, r);
    return true;
}

bool registry_add(struct record *r)
{
    struct record_name *fresh = NULL;
    if (r->name != NULL && (fresh = name_new(r->name, r->name_length)) == NULL)
        return false;
    write_begin();
    struct table *ids = &r->kind->registry->ids;
    bool ok = table_put(ids, r);
    if (ok && r->name != NULL && !name_add(r, &fresh)) {
        table_remove(ids, r);
        ok = false;
    }
    if (ok) {
        record_retain(r);
        r->present = true;
    }
    write_end();
    free(fresh);
    return ok;
}

void registry_remove(struct record *r)
{
    write_begin();
    bool present = r->present;
    if (present) {
        r->present = false;
        table_remove(&r->kind->registry->ids, r);
        if (r->entry != NULL)
            name_unlink(r->entry, r);
    }
    write_end();
    if (present)
        record_release(r);
}

/* ---- look-ups ---- */

static bool is_closed(struct record *r)
{
    return r->kind->is_closed(r);
}

/*
 * Every look-up: `look(table, key, found)` with what it meets kept in place, by a section of the
 * thread's own, or by the mutex where nobody would see that.
 */
static inline enum registry_result
look_up(enum registry_result (*look)(struct table *, const void *, struct record **),
        struct table *table, const void *key, struct record **found)
{
    struct thread *self = thread_self();
    enum registry_result result;
    if (__builtin_expect(self->entry != NULL, 1) || thread_list(self)) {
        grace_begin(self->entry);
        result = look(table, key, found);
        grace_end(self->entry);
    } else {
        pthread_mutex_lock(&mutex);
        result = look(table, key, found);
        pthread_mutex_unlock(&mutex);
    }
    return result;
}

static inline enum registry_result look_for_id(struct table *ids, const void *key,
                                               struct record **found)
{
    struct record *r = ck_hs_get(&ids->set, CK_HS_HASH(&ids->set, hash_id, key), key);
    if (r == NULL || is_closed(r) || !record_retain_if_referenced(r))
        return REGISTRY_UNKNOWN;
    *found = r;
    return REGISTRY_FOUND;
}

static inline enum registry_result look_for_name(struct table *names, const void *key,
                                                 struct record **found)
{
    struct record_name *n = ck_hs_get(&names->set, CK_HS_HASH(&names->set, hash_name, key), key);
    if (n == NULL)
        return REGISTRY_UNKNOWN;
    struct record *only = atomic_load_explicit(&n->only, memory_order_acquire);
    if (only == NULL || is_closed(only) || !record_retain_if_referenced(only))
        return REGISTRY_AMBIGUOUS; /* or another has come meanwhile */
    *found = only;
    return REGISTRY_FOUND;
}

/* Under the mutex: of several records of a name, all but one may be closed, and about to go. */
static enum registry_result look_for_living(struct registry *g, const char *name, size_t length,
                                            struct record **found)
{
    struct record_name *n = name_find(g, name, length);
    struct record *living = NULL;
    for (struct record *r = n != NULL ? n->first : NULL; r != NULL; r = r->name_next) {
        if (is_closed(r))
            continue;
        if (living != NULL)
            return REGISTRY_AMBIGUOUS;
        living = r;
    }
    if (living == NULL)
        return REGISTRY_UNKNOWN;
    record_retain(living); /* it is in, so the registry has a reference */
    *found = living;
    return REGISTRY_FOUND;
}

enum registry_result registry_find_id(struct registry *g, int64_t id, struct record **found)
{
    struct record key = {.id = id};
    return look_up(look_for_id, &g->ids, &key, found);
}

enum registry_result registry_find_name(struct registry *g, const char *name, size_t length,
                                        struct record **found)
{
    struct record_name key = {.length = length, .bytes = name};
    enum registry_result result = look_up(look_for_name, &g->names, &key, found);
    if (result == REGISTRY_AMBIGUOUS) {
        pthread_mutex_lock(&mutex);
        result = look_for_living(g, name, length, found);
        pthread_mutex_unlock(&mutex);
    }
    return result;
}

uint64_t registry_secret(int64_t id)
{
    return random_hash(&secret, &id, sizeof id);
}

const char *registry_info(void)
{
    return "ck " CK_VERSION;
}

/* ---- fork ---- */

void registry_fork_begin(void)
{
    pthread_mutex_lock(&mutex);
}

void registry_fork_end(void)
{
    pthread_mutex_unlock(&mutex);
}
