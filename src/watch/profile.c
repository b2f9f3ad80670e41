#include "profile.h"

#include "sync/clock.h"
#include "sync/thread_signal.h"
#include "sync/ticker.h"

#include <stdlib.h>
#include <string.h>

static struct profile *running; /* guarded by the lock of the list of threads */

/* ---- adding up; under the lock ---- */

static uint32_t add_frame(struct profile *p, const struct sample_frame *s)
{
    struct profile_frame f = {.kind = s->kind, .defined = s->defined};
    bool has_source = s->kind == SAMPLE_FUNCTION || s->kind == SAMPLE_MAIN;
    memcpy(f.text, has_source ? s->source : s->name, SAMPLE_TEXT);
    memcpy(f.name, has_source ? s->name : "", has_source ? SAMPLE_TEXT : 1);
    f.is_local = has_source && s->is_local;
    uint32_t number = intern_add(&p->frames, &f);
    if (number == INTERN_NONE)
        return number;
    struct profile_frame *known = intern_get(&p->frames, number);
    bool is_better = known->name[0] == '\0' || (known->is_local && !f.is_local);
    if (is_better && f.name[0] != '\0') {
        memcpy(known->name, f.name, SAMPLE_TEXT);
        known->is_local = f.is_local;
    }
    return number;
}

/* The innermost stack of the sample. */
static uint32_t add_stack(struct profile *p, const struct sample_slot *s)
{
    struct profile_stack stack = {.around = INTERN_NONE};
    uint32_t number = INTERN_NONE;
    for (int i = s->count - 1; i >= 0; i--) {
        stack.frame = add_frame(p, &s->frames[i]);
        number = stack.frame != INTERN_NONE ? intern_add(&p->stacks, &stack) : INTERN_NONE;
        if (number == INTERN_NONE)
            break;
        stack.around = number;
    }
    return number;
}

static bool add_time(struct profile *p, const struct sample_slot *s)
{
    struct profile_time t = {.line = s->frames[0].line};
    t.thread = intern_add(&p->threads, &(struct profile_thread){s->thread, s->thread_id});
    if (t.thread == INTERN_NONE)
        return false;
    t.stack = add_stack(p, s);
    uint32_t number = t.stack != INTERN_NONE ? intern_add(&p->times, &t) : INTERN_NONE;
    if (number == INTERN_NONE)
        return false;
    struct profile_time *known = intern_get(&p->times, number);
    known->nanoseconds += s->weight;
    known->samples++;
    return true;
}

static int compare_ids(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

/* There may be thousands. States and pools have their ids from one sequence. */
static bool is_subject(const struct profile_options *o, int64_t id)
{
    return bsearch(&id, o->subjects, o->subject_count, sizeof id, compare_ids) != NULL;
}

static bool is_of_interest(const struct profile_options *o, const struct sample_slot *s)
{
    if (o->subject_count == 0)
        return true;
    for (const struct sample_frame *f = s->frames; f < s->frames + s->count; f++) {
        bool is_pool = f->kind == SAMPLE_POOL;
        if ((is_pool || f->kind == SAMPLE_STATE) && is_subject(o, f->state))
            return true;
        if (is_pool && is_subject(o, f->pool))
            return true;
    }
    return false;
}

/* What the slot has for `p`, which may be NULL; it is the ticker's afterwards, unless the thread is
 * just writing. */
static void drain(struct profile *p, struct sample_slot *s)
{
    if (atomic_load_explicit(&s->stage, memory_order_acquire) != SAMPLE_TAKEN)
        return;
    if (p != NULL && s->profile == p->number && s->count > 0 && is_of_interest(&p->options, s)) {
        if (add_time(p, s))
            p->samples++;
        else
            p->lost++;
    }
    atomic_store_explicit(&s->stage, SAMPLE_EMPTY, memory_order_release);
}

/* The thread has ended. */
static void drop(struct sample_slot *s)
{
    int held = SAMPLE_HELD;
    atomic_compare_exchange_strong(&s->stage, &held, SAMPLE_TAKEN);
    drain(running, s);
    free(s);
}

/* ---- asking; in the ticker, under the lock ---- */

static struct sample_slot *slot_of(struct profile *p, struct thread_entry *e)
{
    struct sample_slot *s = atomic_load_explicit(&e->sample, memory_order_relaxed);
    if (s != NULL)
        return s;
    s = malloc(sizeof *s);
    if (s == NULL) {
        p->lost++;
        return NULL;
    }
    atomic_init(&s->stage, SAMPLE_EMPTY);
    s->thread = e->number;
#if defined(__linux__)
    s->thread_id = (uint64_t)e->id;
#else
    s->thread_id = e->number;
#endif
    atomic_store_explicit(&e->sample, s, memory_order_release); /* the thread acquires it */
    return s;
}

/* Whether to send a signal, the n-th time. One that has arrived only has to make up for a hook that
 * came at a bad moment (interrupt.c); and it ends what waits in poll and the like. */
static bool is_turn(int stage, unsigned n)
{
    return stage == SAMPLE_HELD ? n > 1 && (n & (n - 1)) == 0 : tick_is_turn(n);
}

static void ask(struct profile *p, struct thread_entry *e, struct sample_slot *s,
                const struct mtstates_inside *seen, int64_t elapsed)
{
    int stage = atomic_load_explicit(&s->stage, memory_order_acquire);
    if (stage == SAMPLE_EMPTY) {
        s->profile = p->number;
        s->depth = p->options.depth;
        s->looks = 0;
        s->seen = seen;
        atomic_store_explicit(&s->nanoseconds, (uint64_t)elapsed, memory_order_relaxed);
        atomic_store_explicit(&s->stage, SAMPLE_WANTED, memory_order_release);
    } else {
        atomic_fetch_add_explicit(&s->nanoseconds, (uint64_t)elapsed, memory_order_relaxed);
    }
    if (is_turn(stage, ++s->looks))
        thread_signal_send_locked(e);
}

static void look_at_thread(struct profile *p, struct thread_entry *e, int64_t elapsed)
{
    struct sample_slot *s = atomic_load_explicit(&e->sample, memory_order_relaxed);
    if (s != NULL)
        drain(p, s);
    const struct mtstates_inside *seen =
        __atomic_load_n(&e->place.inside.innermost, __ATOMIC_RELAXED);
    s = seen != NULL ? slot_of(p, e) : NULL;
    if (s != NULL)
        ask(p, e, s, seen, elapsed);
}

/* When an interval is over. The next one begins where this one should have ended, so that they are
 * as long as was asked for, on average. */
static void look_at_all(struct profile *p, struct thread_entry *first, const struct timespec *now)
{
    int64_t elapsed = clock_elapsed_ns(&p->last, now), at = clock_elapsed_ns(&p->since, now);
    int64_t interval = (int64_t)(p->options.interval * 1e9);
    if (at < p->due)
        return;
    for (struct thread_entry *e = first, *next; e != NULL; e = next) {
        next = e->next; /* a signal may find that the thread is gone */
        look_at_thread(p, e, elapsed);
    }
    p->last = *now;
    p->due = at - p->due < interval ? p->due + interval : at + interval;
}

static bool is_of_this_process(const struct profile *p)
{
    return p->forks == thread_forks();
}

static bool look(struct tick *t)
{
    struct timespec now = clock_now();
    struct thread_entry *first = thread_first_locked();
    struct profile *p = running;
    bool goes_on = p != NULL && is_of_this_process(p);
    (void)t;
    if (goes_on)
        look_at_all(p, first, &now);
    thread_unlock();
    return goes_on;
}

/* ---- beginning and end ---- */

static struct profile *profile_new(const struct profile_options *o)
{
    static _Atomic uint64_t last_number;
    struct profile *p = malloc(sizeof *p);
    if (p == NULL)
        return NULL;
    *p = (struct profile){.options = *o, .forks = thread_forks()};
    if (o->subject_count > 0)
        qsort(o->subjects, o->subject_count, sizeof *o->subjects, compare_ids);
    p->number = atomic_fetch_add_explicit(&last_number, 1, memory_order_relaxed) + 1;
    p->since = p->last = clock_now();
    p->due = (int64_t)(o->interval * 1e9);
    p->frames = intern_of(sizeof(struct profile_frame), offsetof(struct profile_frame, name));
    p->stacks = intern_of(sizeof(struct profile_stack), sizeof(struct profile_stack));
    p->threads = intern_of(sizeof(struct profile_thread), sizeof(struct profile_thread));
    p->times = intern_of(sizeof(struct profile_time), offsetof(struct profile_time, nanoseconds));
    return p;
}

void profile_free(struct profile *p)
{
    if (p == NULL)
        return;
    free(p->options.subjects);
    intern_free(&p->frames);
    intern_free(&p->stacks);
    intern_free(&p->threads);
    intern_free(&p->times);
    free(p);
}

/* Takes the running one away, with the samples that threads have ready; `only`: if it is that one,
 * or NULL. NULL: there was none such. */
static struct profile *take_running(const struct profile *only)
{
    struct thread_entry *first = thread_first_locked();
    struct profile *p = only == NULL || only == running ? running : NULL;
    for (struct thread_entry *e = p != NULL ? first : NULL; e != NULL; e = e->next) {
        struct sample_slot *s = atomic_load_explicit(&e->sample, memory_order_relaxed);
        int wanted = SAMPLE_WANTED;
        if (s != NULL && !atomic_compare_exchange_strong(&s->stage, &wanted, SAMPLE_EMPTY))
            drain(p, s);
    }
    if (p != NULL)
        running = NULL;
    thread_unlock();
    return p;
}

/* False: one runs. One that began before a fork does not, in the child. */
static bool set_running(struct profile *p, struct profile **before)
{
    thread_first_locked();
    *before = running;
    bool is_free = running == NULL || !is_of_this_process(running);
    if (is_free)
        running = p;
    thread_unlock();
    return is_free;
}

enum profile_begun profile_begin(const struct profile_options *o)
{
    static struct tick tick;
    struct profile *before, *p = profile_new(o);
    if (p == NULL) {
        free(o->subjects);
        return PROFILE_NO_MEMORY;
    }
    thread_at_drop(drop);
    if (!set_running(p, &before)) {
        profile_free(p);
        return PROFILE_RUNS;
    }
    profile_free(before);
    if (ticker_add(&tick, look, o->interval))
        return PROFILE_BEGUN;
    profile_free(take_running(p)); /* another thread may have ended it */
    return PROFILE_NO_MEMORY;
}

struct profile *profile_end(void)
{
    struct profile *p = take_running(NULL);
    if (p == NULL)
        return NULL;
    if (!is_of_this_process(p)) {
        profile_free(p);
        return NULL;
    }
    struct timespec now = clock_now();
    p->nanoseconds = (uint64_t)clock_elapsed_ns(&p->since, &now);
    return p;
}
