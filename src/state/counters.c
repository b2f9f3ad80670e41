#include "counters.h"

#include "pool.h"

#include <pthread.h>
#include <stdlib.h>

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

/* These are the lock's. Longest there first. */
static struct list {
    struct listed *first, *last;
    uint64_t count; /* of those that were ever in it */
} states, pools;
static struct counts gone, gone_members;
static struct timing gone_timing; /* of those that were in no pool */
static bool was_timed;            /* there were such */

void counters_lock(void)
{
    pthread_mutex_lock(&mutex);
}

void counters_unlock(void)
{
    pthread_mutex_unlock(&mutex);
}

void counters_fork_begin(void)
{
    counters_lock();
}

void counters_fork_end(void)
{
    counters_unlock();
}

/* ---- sums ---- */

static void add(struct counts *sum, struct counts more)
{
    sum->calls += more.calls;
    sum->errors += more.errors;
    sum->interrupted += more.interrupted;
    sum->refused += more.refused;
    sum->waited += more.waited;
    sum->timed_out += more.timed_out;
    sum->wait_nanoseconds += more.wait_nanoseconds;
}

void stats_add(struct stats *sum, const struct stats *more)
{
    add(&sum->counts, more->counts);
    sum->states += more->states;
    sum->busy += more->busy;
    sum->bytes += more->bytes;
    sum->peak_bytes += more->peak_bytes;
    if (!more->is_timed)
        return;
    sum->is_timed = true;
    sum->inside_nanoseconds += more->inside_nanoseconds;
    for (int i = 0; i < HISTOGRAM_COUNTS; i++) {
        sum->stays[i] += more->stays[i];
        sum->waits[i] += more->waits[i];
    }
}

static uint64_t get(_Atomic uint64_t *count)
{
    return atomic_load_explicit(count, memory_order_relaxed);
}

struct timing *timing_new(struct ownership_waits *waits)
{
    struct timing *t = calloc(1, sizeof *t);
    if (t != NULL)
        waits->lengths = &t->waits;
    return t;
}

void timing_add_stay(struct timing *t, const struct timespec *begun)
{
    struct timespec now = clock_now();
    uint64_t nanoseconds = (uint64_t)clock_elapsed_ns(begun, &now);
    count_add(&t->inside_nanoseconds, nanoseconds);
    histogram_add(&t->stays, nanoseconds);
}

static void read_timing(struct stats *s, struct timing *t)
{
    if (t == NULL)
        return;
    s->is_timed = true;
    s->inside_nanoseconds += get(&t->inside_nanoseconds);
    for (int i = 0; i < HISTOGRAM_COUNTS; i++) {
        s->stays[i] += get(&t->stays.counts[i]);
        s->waits[i] += get(&t->waits.counts[i]);
    }
}

/* Under the list's lock: what a state leaves that is gone. */
static void leave_timing(struct timing *to, struct timing *from)
{
    count_add(&to->inside_nanoseconds, get(&from->inside_nanoseconds));
    for (int i = 0; i < HISTOGRAM_COUNTS; i++) {
        count_add(&to->stays.counts[i], get(&from->stays.counts[i]));
        count_add(&to->waits.counts[i], get(&from->waits.counts[i]));
    }
}

static struct counts counts_of_callers(_Atomic uint64_t *refused, struct ownership_waits *w)
{
    return (struct counts){
        .refused = get(refused),
        .waited = get(&w->waited),
        .timed_out = get(&w->timed_out),
        .wait_nanoseconds = get(&w->nanoseconds),
    };
}

static struct counts counts_of_state(struct state *s)
{
    struct counts c = counts_of_callers(&s->refused, &s->ownership.own.waits);
    c.calls = get(&s->counters.calls);
    c.errors = get(&s->counters.errors);
    c.interrupted = get(&s->counters.interrupted);
    return c;
}

static struct counts counts_of_calls_to(struct pool *p)
{
    return counts_of_callers(&p->refused, &p->queue.waits);
}

struct stats stats_of_state(struct state *s)
{
    struct stats stats = {
        .counts = counts_of_state(s),
        .states = 1,
        .busy = ownership_inside(&s->ownership) != 0,
        .bytes = arena_used(&s->arena),
        .peak_bytes = arena_peak(&s->arena),
    };
    read_timing(&stats, s->timing);
    return stats;
}

static void add_state(struct stats *sum, struct state *s)
{
    struct stats more = stats_of_state(s);
    stats_add(sum, &more);
}

/* And of members that are gone. */
static struct stats stats_of_calls_to(struct pool *p)
{
    struct stats sum = {.counts = counts_of_calls_to(p)};
    add(&sum.counts, p->gone);
    read_timing(&sum, p->timing);
    read_timing(&sum, p->gone_timing);
    return sum;
}

struct stats stats_of_pool(struct pool *p)
{
    counters_lock();
    struct stats sum = stats_of_calls_to(p);
    for (struct state *s = counters_next_state(NULL); s != NULL; s = counters_next_state(s))
        if (s->member != NULL && s->member->pool == p)
            add_state(&sum, s);
    counters_unlock();
    return sum;
}

struct stats stats_by_pool(void)
{
    struct stats lone = {.counts = gone};
    read_timing(&lone, was_timed ? &gone_timing : NULL);
    for (struct pool *p = counters_next_pool(NULL); p != NULL; p = counters_next_pool(p))
        p->stats = stats_of_calls_to(p);
    for (struct state *s = counters_next_state(NULL); s != NULL; s = counters_next_state(s))
        add_state(s->member != NULL ? &s->member->pool->stats : &lone, s);
    return lone;
}

struct stats stats_of_process(uint64_t *made, uint64_t *living_pools)
{
    counters_lock();
    struct stats sum = {.counts = gone};
    add(&sum.counts, gone_members);
    for (struct state *s = counters_next_state(NULL); s != NULL; s = counters_next_state(s))
        add_state(&sum, s);
    *living_pools = 0;
    for (struct pool *p = counters_next_pool(NULL); p != NULL; p = counters_next_pool(p)) {
        add(&sum.counts, counts_of_calls_to(p));
        *living_pools += !pool_is_closed(p);
    }
    *made = states.count;
    counters_unlock();
    return sum;
}

/* ---- the list ---- */

static void append(struct list *list, struct listed *l)
{
    counters_lock();
    *l = (struct listed){.previous = list->last};
    *(list->last != NULL ? &list->last->next : &list->first) = l;
    list->last = l;
    list->count++;
    counters_unlock();
}

/* Under the lock. */
static void take_out(struct list *list, struct listed *l)
{
    *(l->previous != NULL ? &l->previous->next : &list->first) = l->next;
    *(l->next != NULL ? &l->next->previous : &list->last) = l->previous;
}

void counters_list_state(struct state *s)
{
    append(&states, &s->listed);
}

void counters_unlist_state(struct state *s)
{
    counters_lock();
    struct counts counts = counts_of_state(s);
    take_out(&states, &s->listed);
    add(s->member != NULL ? &gone_members : &gone, counts);
    if (s->member != NULL)
        add(&s->member->pool->gone, counts);
    if (s->timing != NULL) {
        struct timing *to = s->member != NULL ? s->member->pool->gone_timing : &gone_timing;
        leave_timing(to, s->timing);
        was_timed = was_timed || s->member == NULL;
    }
    counters_unlock();
}

void counters_list_pool(struct pool *p)
{
    append(&pools, &p->listed);
}

void counters_unlist_pool(struct pool *p)
{
    counters_lock();
    take_out(&pools, &p->listed);
    add(&gone_members, counts_of_calls_to(p));
    counters_unlock();
}

struct state *counters_next_state(struct state *s)
{
    struct listed *next = s != NULL ? s->listed.next : states.first;
    return next != NULL ? (void *)((char *)next - offsetof(struct state, listed)) : NULL;
}

struct pool *counters_next_pool(struct pool *p)
{
    struct listed *next = p != NULL ? p->listed.next : pools.first;
    return next != NULL ? (void *)((char *)next - offsetof(struct pool, listed)) : NULL;
}
