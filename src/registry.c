#include "registry.h"

#include "thread.h"

#include <ck_hs.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

/*
 * The thread sanitizer sees neither fences nor what libck does, so these tell it what ck orders:
 * finding an object after it was put (by object), freeing after the readers' sections (by `epoch`),
 * taking a reader's record after another thread gave it up (by record).
 */
#ifndef __has_feature
#define __has_feature(feature) 0 /* gcc, which says it by a macro of its own */
#endif
#if defined(__SANITIZE_THREAD__) || __has_feature(thread_sanitizer)
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
    ck_epoch_entry_t grace;
};

/* A hash set, the most entries it ever had, and how many removals its probes still run over. */
struct table {
    ck_hs_t set;
    unsigned long peak;
    unsigned long removed;
};

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static struct table ids;
static struct table names;
static ck_epoch_t epoch;
static ck_epoch_record_t writer; /* all that is deferred hangs here; the mutex's */
static _Atomic bool ready;       /* written under the mutex with release, read with acquire */

static _Atomic int64_t next_id = RECORD_ID_FIRST; /* relaxed: only its being unique matters */

/* ---- readers: one epoch record per thread, made when it first looks something up ---- */

static _Thread_local ck_epoch_record_t *reader THREAD_LOCAL_MODEL;

/* At thread exit. Records are never freed (ck_epoch scans them); the next new thread takes it. */
static void reader_end(void *record)
{
    reader = NULL;
    HAPPENS_BEFORE(record);
    ck_epoch_unregister(record);
}

static struct thread_watch reader_watch = {.end = reader_end};

static ck_epoch_record_t *reader_begin(void)
{
    ck_epoch_record_t *r = ck_epoch_recycle(&epoch, NULL);
    if (r == NULL) {
        if (posix_memalign((void **)&r, CK_MD_CACHELINE, sizeof *r) != 0)
            return NULL;
        ck_epoch_register(&epoch, r, NULL);
    }
    HAPPENS_AFTER(r);
    if (!thread_watch_end(&reader_watch, r)) {
        reader_end(r);
        return NULL;
    }
    return reader = r;
}

static inline ck_epoch_record_t *reader_self(void)
{
    return reader != NULL ? reader : reader_begin();
}

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

/* FNV-1a (Fowler, Noll, Vo) over the bytes, then mixed, since ck probes by the low bits. */
static unsigned long hash_name(const void *key, unsigned long seed)
{
    const struct record_name *n = key;
    uint64_t h = 0xcbf29ce484222325u ^ seed;
    for (size_t i = 0; i < n->length; i++)
        h = (h ^ (unsigned char)n->bytes[i]) * 0x100000001b3u;
    return mix(h);
}

static bool same_name(const void *a, const void *b)
{
    const struct record_name *x = a, *y = b;
    HAPPENS_AFTER(x);
    return x->length == y->length && memcmp(x->bytes, y->bytes, x->length) == 0;
}

/* A set's map outlives the readers that are in it: it is freed after a grace period. */
union map_block {
    ck_epoch_entry_t grace;
    max_align_t align;
};

static void *map_malloc(size_t size)
{
    union map_block *b = malloc(sizeof *b + size);
    return b != NULL ? b + 1 : NULL;
}

static void map_destroy(ck_epoch_entry_t *entry)
{
    free(entry); /* the entry is the block's first member */
}

static void map_free(void *map, size_t size, bool defer)
{
    (void)size;
    union map_block *b = (union map_block *)map - 1;
    if (defer)
        ck_epoch_call(&writer, &b->grace, map_destroy);
    else
        free(b);
}

static struct ck_malloc map_allocator = {.malloc = map_malloc, .free = map_free};

static bool table_init(struct table *t, ck_hs_hash_cb_t *hash, ck_hs_compare_cb_t *same)
{
    t->peak = t->removed = 0;
    return ck_hs_init(&t->set, CK_HS_MODE_SPMC | CK_HS_MODE_OBJECT | CK_HS_MODE_DELETE, hash, same,
                      &map_allocator, 64, (unsigned long)(uintptr_t)&map_allocator);
}

static bool table_put(struct table *t, const void *object)
{
    /* ck publishes the pointer without a barrier of its own; readers follow it (data dependency).
     */
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

bool registry_init(void)
{
    if (atomic_load_explicit(&ready, memory_order_acquire))
        return true;
    bool ok = false;
    pthread_mutex_lock(&mutex);
    if (atomic_load_explicit(&ready, memory_order_relaxed)) {
        ok = true;
    } else {
        ck_epoch_init(&epoch);
        ck_epoch_register(&epoch, &writer, NULL);
        if (table_init(&ids, hash_id, same_id)) {
            if (table_init(&names, hash_name, same_name)) {
                ok = true;
                atomic_store_explicit(&ready, true, memory_order_release);
            } else {
                ck_hs_destroy(&ids.set);
            }
        }
    }
    pthread_mutex_unlock(&mutex);
    return ok;
}

void record_init(struct record *r, const char *name, size_t length,
                 void (*destroy)(struct record *))
{
    r->id = atomic_fetch_add_explicit(&next_id, 1, memory_order_relaxed);
    r->name = name;
    r->name_length = length;
    r->destroy = destroy;
    atomic_init(&r->refs, 1);
    r->present = false;
    r->entry = NULL;
}

/* Inside a grace period: takes a reference unless the last one is gone. */
static bool record_retain_if_referenced(struct record *r)
{
    uint32_t refs = atomic_load_explicit(&r->refs, memory_order_relaxed);
    while (refs != 0)
        if (atomic_compare_exchange_weak_explicit(&r->refs, &refs, refs + 1, memory_order_relaxed,
                                                  memory_order_relaxed))
            return true;
    return false;
}

CK_STACK_CONTAINER(struct ck_epoch_entry, stack_entry, entry_of)

/* Takes the mutex, in a section of the writer's, so that what it removes is deferred correctly. */
static void write_begin(void)
{
    pthread_mutex_lock(&mutex);
    ck_epoch_begin(&writer, NULL);
}

/* Returns the mutex; then frees what no reader can meet any more, this call's or earlier ones'. */
static void write_end(void)
{
    ck_stack_t expired = CK_STACK_INITIALIZER;
    ck_epoch_end(&writer, NULL);
    ck_epoch_poll_deferred(&writer, &expired);
    HAPPENS_AFTER(&epoch);
    pthread_mutex_unlock(&mutex);

    ck_stack_entry_t *next;
    for (ck_stack_entry_t *s = CK_STACK_FIRST(&expired); s != NULL; s = next) {
        next = CK_STACK_NEXT(s);
        ck_epoch_entry_t *e = entry_of(s);
        e->function(e);
    }
}

CK_EPOCH_CONTAINER(struct record, grace, record_of)
CK_EPOCH_CONTAINER(struct record_name, grace, name_of)

static void record_destroy(ck_epoch_entry_t *entry)
{
    struct record *r = record_of(entry);
    r->destroy(r);
}

static void name_destroy(ck_epoch_entry_t *entry)
{
    free(name_of(entry));
}

void record_release(struct record *r)
{
    if (atomic_fetch_sub_explicit(&r->refs, 1, memory_order_acq_rel) != 1)
        return;
    write_begin();
    ck_epoch_call(&writer, &r->grace, record_destroy);
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

static struct record_name *name_find(const char *name, size_t length)
{
    struct record_name key = {.length = length, .bytes = name};
    return ck_hs_get(&names.set, CK_HS_HASH(&names.set, hash_name, &key), &key);
}

static void name_publish(struct record_name *n)
{
    struct record *only = n->first->name_next == NULL ? n->first : NULL;
    atomic_store_explicit(&n->only, only, memory_order_release);
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
        table_remove(&names, n);
        ck_epoch_call(&writer, &n->grace, name_destroy);
    }
}

/* Under the mutex. `*fresh` is a new entry for the name; set to NULL when it is used. */
static bool name_add(struct record *r, struct record_name **fresh)
{
    struct record_name *n = name_find(r->name, r->name_length);
    if (n == NULL) {
        n = *fresh;
        name_link(n, r); /* before readers can find the entry */
        if (!table_put(&names, n))
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
    bool ok = table_put(&ids, r);
    if (ok && r->name != NULL && !name_add(r, &fresh)) {
        table_remove(&ids, r);
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
        table_remove(&ids, r);
        if (r->entry != NULL)
            name_unlink(r->entry, r);
    }
    write_end();
    if (present)
        record_release(r);
}

/* ---- look-ups ---- */

/* ck leaves the loads that follow unordered, where the hardware lets it: a table's map must be read
 * after the section is known to have begun. */
static void read_begin(ck_epoch_record_t *self)
{
    ck_epoch_begin(self, NULL);
    atomic_thread_fence(memory_order_acquire);
}

static void read_end(ck_epoch_record_t *self)
{
    HAPPENS_BEFORE(&epoch);
    ck_epoch_end(self, NULL);
}

enum registry_result registry_find_id(int64_t id, struct record **found)
{
    ck_epoch_record_t *self = reader_self();
    if (self == NULL)
        return REGISTRY_NO_MEMORY;
    struct record key = {.id = id};
    unsigned long hash = CK_HS_HASH(&ids.set, hash_id, &key);
    read_begin(self);
    struct record *r = ck_hs_get(&ids.set, hash, &key);
    bool ok = r != NULL && record_retain_if_referenced(r);
    read_end(self);
    *found = ok ? r : NULL;
    return ok ? REGISTRY_FOUND : REGISTRY_UNKNOWN;
}

enum registry_result registry_find_name(const char *name, size_t length, struct record **found)
{
    ck_epoch_record_t *self = reader_self();
    if (self == NULL)
        return REGISTRY_NO_MEMORY;
    enum registry_result result = REGISTRY_UNKNOWN;
    read_begin(self);
    struct record_name *n = name_find(name, length);
    if (n != NULL) {
        *found = atomic_load_explicit(&n->only, memory_order_acquire);
        if (*found == NULL)
            result = REGISTRY_AMBIGUOUS;
        else if (record_retain_if_referenced(*found))
            result = REGISTRY_FOUND;
    }
    read_end(self);
    return result;
}
