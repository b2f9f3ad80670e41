/*
 * Which objects live: id to record and name to record, each in a hash set of Concurrency Kit. There
 * is a registry for each kind of objects, states and pools, whose names do not meet; they share the
 * mutex.
 *
 * Readers (registry_find_*) take no lock. Writers (registry_add, registry_remove) serialise on one
 * mutex, under which no Lua code runs; what they unlink is freed after a grace period (grace.h),
 * when every reader that might have met it has left. A set that grows is copied under the mutex by
 * ck. A thread that is not listed (thread.h) cannot be seen reading; it reads under the mutex.
 *
 *                      find     add, remove     free of a record
 *    find               .           .               X (grace period)
 *    add, remove        .           X (mutex)       .
 *    (. may run at the same time; X are kept apart, in brackets by what)
 *
 * A record counts its references. The registry holds one for as long as the record is in; a reader
 * adds its own inside the grace period, unless the count is 0 already, which means that the record
 * has been removed. So a reader that races with a removal gets either a record that stays allocated
 * or none. What is closed is not found, though it may be in for a moment yet: who closes it removes
 * it after that.
 *
 * refs    written by whoever takes or drops a reference. Taking is relaxed: one takes only where a
 *         reference is held already or inside a grace period. Dropping is acq_rel, so that all use
 *         of the record comes before its end.
 *
 * It counts its owners, too, which keep the object open: when the last one goes, it is abandoned.
 *
 * owners  written by whoever makes or drops an owning handle. Taking one more is relaxed and only
 *         from above 0; dropping is acq_rel, so that whoever drops the last sees all that was done
 *         by the others before they dropped theirs.
 */
#ifndef MTSTATES_REGISTRY_H
#define MTSTATES_REGISTRY_H

#include "grace.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define RECORD_NAME_MAX 65535

/*
 * Ids start at a random place, so that those of two copies of the module in one process do not
 * meet: from 2^44, which is above what programs use as small numbers of their own, to 2^44 + 2^52,
 * with as many to come below 2^53.
 */
#define RECORD_ID_LEAST ((int64_t)1 << 44)
#define RECORD_ID_RANGE ((int64_t)1 << 52)

struct record;
struct record_name;
struct registry;

extern struct registry registry_states, registry_pools;

/* What it is that a record is embedded in. All are called in any thread. */
struct record_kind {
    const char *what;                   /* as users call it */
    struct registry *registry;          /* that its records are in */
    void (*destroy)(struct record *);   /* frees the record's memory; called once */
    bool (*is_closed)(struct record *); /* for good */
    void (*abandon)(struct record *, struct thread *self); /* the last owner has gone */
};

/* What the registry knows of an object; embedded in it. */
struct record {
    int64_t id;
    const char *name; /* NULL: no name; else name_length bytes that live as long as the record */
    size_t name_length;
    const struct record_kind *kind;

    _Atomic uint32_t refs;
    _Atomic uint32_t owners;

    /* Another record of its name is in, too. Written under the registry's mutex, read by those who
     * have a reference; relaxed, since who is to see that the other one came, or went, is told so
     * by other means. */
    _Atomic bool shares_name;

    /* The rest belongs to the mutex. */
    bool present;
    struct record_name *entry;                /* for the name, if there is one */
    struct record *name_next, *name_previous; /* others of that name */
    struct retired retired;
};

/* Makes all tables when called first. False: out of memory, call again. Any thread. */
bool registry_init(void);

/*
 * Gives `r` an id, one reference and one owner (the caller's), and a name of `length` bytes, or
 * none when `name` is NULL. The registry does not know it yet.
 */
void record_init(struct record *r, const char *name, size_t length, const struct record_kind *kind);

static inline void record_retain(struct record *r)
{
    atomic_fetch_add_explicit(&r->refs, 1, memory_order_relaxed);
}

/* Drops a reference; the last one destroys the record, after a grace period. */
void record_release(struct record *r);

/* One more owner for a record that has one. False: the last one has gone. */
bool record_own(struct record *r);

/* Drops an owner. */
void record_disown(struct record *r, struct thread *self);

/* Lets readers find `r`, and takes a reference. False: out of memory, nothing changed. */
bool registry_add(struct record *r);

/* Readers find `r` no more; drops the registry's reference. Does nothing the second time. */
void registry_remove(struct record *r);

enum registry_result { REGISTRY_FOUND, REGISTRY_UNKNOWN, REGISTRY_AMBIGUOUS };

/*
 * On REGISTRY_FOUND, `*found` has a reference that is the caller's to drop; it was not closed when
 * asked. Lock-free, but when a name is found ambiguous or its object closed: then it is looked at
 * again under the mutex.
 */
enum registry_result registry_find_id(struct registry *g, int64_t id, struct record **found);
enum registry_result registry_find_name(struct registry *g, const char *name, size_t length,
                                        struct record **found);

/* A number that follows from `id` and a secret of this process. */
uint64_t registry_secret(int64_t id);

/* What the tables are made with, and its version. */
const char *registry_info(void);

/* Round a fork. */
void registry_fork_begin(void);
void registry_fork_end(void);

#endif
