#include "pool.h"

#include "parcel.h"
#include "sync/clock.h"
#include "sync/park.h"

#include <stdlib.h>
#include <string.h>

const char *const pool_retired_names[POOL_RETIRED_COUNT] = {
    NULL, "calls", "seconds", "bytes", "limit", "reload", "closed",
};

/* ---- plans ---- */

struct plan {
    _Atomic uint32_t refs; /* as a record's */
    struct parcel parcel;
};

struct plan *plan_new(struct setup *s)
{
    struct plan *plan = malloc(sizeof *plan);
    if (plan == NULL) {
        s->failure = SETUP_NO_MEMORY;
        return NULL;
    }
    atomic_init(&plan->refs, 1);
    parcel_begin(&plan->parcel);
    if (setup_pack(s, &plan->parcel))
        return plan;
    plan_release(plan);
    return NULL;
}

void plan_release(struct plan *plan)
{
    if (atomic_fetch_sub_explicit(&plan->refs, 1, memory_order_acq_rel) != 1)
        return;
    parcel_end(&plan->parcel);
    free(plan);
}

static uint64_t generation(struct pool *p)
{
    return atomic_load_explicit(&p->generation, memory_order_relaxed);
}

struct plan *pool_plan(struct pool *p, uint64_t *number)
{
    ownership_queue_lock(&p->queue);
    struct plan *plan = p->plan;
    *number = generation(p);
    if (plan != NULL)
        atomic_fetch_add_explicit(&plan->refs, 1, memory_order_relaxed);
    ownership_queue_unlock(&p->queue);
    return plan;
}

/* ---- pools come and go ---- */

static void free_all(struct pool *p)
{
    free(p->timing);
    free(p->gone_timing);
    free(p->places);
    free(p);
}

static void destroy(struct record *r)
{
    struct pool *p = pool_of_record(r);
    counters_unlist_pool(p);
    ownership_queue_destroy(&p->queue);
    free_all(p);
}

static bool is_closed(struct record *r)
{
    return pool_is_closed(pool_of_record(r));
}

/* The member at a place that the calling thread reads in a grace period, or with the lock. */
static struct state *look_at(struct pool *p, unsigned place)
{
    return atomic_load_explicit(&p->places[place].member, memory_order_acquire);
}

/* Takes what is in a place out of it; the caller has its reference and share. Under the lock. */
static struct state *take_out(struct pool *p, unsigned place)
{
    struct state *s = look_at(p, place);
    atomic_store_explicit(&p->places[place].member, NULL, memory_order_relaxed);
    return s;
}

/* Another is to be made there by the calling thread. Under the lock. */
static void claim(struct pool *p, unsigned place)
{
    p->places[place].making = true;
    p->living++;
}

/* What was taken out; closes it, or has it closed by the thread inside. Without the lock. */
static void give_up(struct state *s, struct thread *self)
{
    if (s == NULL)
        return;
    record_disown(&s->record, self);
    record_release(&s->record);
}

/* A plan may own states and pools, and so on. */
static void drop_last_plan(struct closing *c, struct thread *self)
{
    struct pool *p = (void *)((char *)c - offsetof(struct pool, closing));
    (void)self;
    plan_release(p->last_plan);
    record_release(&p->record);
}

/* Members get no more callers before the first of them runs its finalizers. */
void pool_shut(struct pool *p, struct thread *self)
{
    ownership_queue_lock(&p->queue);
    struct plan *plan = p->plan;
    p->plan = NULL;
    ownership_queue_set_full(&p->queue, false);
    atomic_store_explicit(&p->closed, true, memory_order_relaxed);
    ownership_wake_all(&p->queue);
    ownership_queue_unlock(&p->queue);
    if (plan == NULL)
        return;
    registry_remove(&p->record);
    bool held = closing_hold();
    record_retain(&p->record);
    p->last_plan = plan;
    closing_queue(&p->closing, drop_last_plan, self);
    for (unsigned i = 0; i < p->options.size; i++) {
        ownership_queue_lock(&p->queue);
        struct state *s = take_out(p, i);
        ownership_queue_unlock(&p->queue);
        give_up(s, self);
    }
    closing_release(held, self);
}

static void abandon(struct record *r, struct thread *self)
{
    pool_shut(pool_of_record(r), self);
}

const struct record_kind pool_kind = {
    .what = "pool",
    .registry = &registry_pools,
    .destroy = destroy,
    .is_closed = is_closed,
    .abandon = abandon,
};

static bool make_timing(struct pool *p)
{
    struct ownership_waits nobody_waits;
    p->timing = timing_new(&p->queue.waits);
    p->gone_timing = timing_new(&nobody_waits);
    return p->timing != NULL && p->gone_timing != NULL;
}

struct pool *pool_new(const struct pool_options *o, struct plan *plan)
{
    struct pool *p = malloc(sizeof *p + o->name_length + 1);
    if (p == NULL)
        return NULL;
    *p = (struct pool){.plan = plan, .options = *o};
    p->places = calloc(o->size, sizeof *p->places);
    if (p->places == NULL || !ownership_queue_init(&p->queue)) {
        free_all(p);
        return NULL;
    }
    if (o->state.timing && !make_timing(p)) {
        ownership_queue_destroy(&p->queue);
        free_all(p);
        return NULL;
    }
    if (o->name != NULL)
        memcpy(p->name, o->name, o->name_length);
    p->name[o->name_length] = '\0'; /* for who looks from outside */
    record_init(&p->record, o->name != NULL ? p->name : NULL, o->name_length, &pool_kind);
    counters_list_pool(p);
    return p;
}

/* ---- the end of members ---- */

/* Who waits for the last member of a closed pool; on its own stack. */
struct closer {
    struct closer *next;
    struct park park;
};

/* Under the lock. */
static void note_gone(struct pool *p)
{
    p->living--;
    for (struct closer *c = p->closers; p->living == 0 && c != NULL; c = c->next)
        park_wake(&c->park);
}

void pool_fork_end(bool is_child)
{
    for (struct pool *p = is_child ? counters_next_pool(NULL) : NULL; p != NULL;
         p = counters_next_pool(p)) {
        p->closers = NULL;
        ownership_queue_set_full(&p->queue, false);
    }
}

void pool_note_gone(struct pool *p)
{
    ownership_queue_lock(&p->queue);
    note_gone(p);
    ownership_queue_unlock(&p->queue);
}

void member_destroy(struct member *m)
{
    if (m == NULL)
        return;
    record_release(&m->pool->record);
    free(m);
}

/* What it would wait for is its own to do. */
static bool is_inside(const struct pool *p, const struct thread *self)
{
    if (closing_is_pending())
        return true;
    const struct state *s = state_innermost(&self->place->inside);
    while (s != NULL && (s->member == NULL || s->member->pool != p))
        s = state_around(s);
    return s != NULL;
}

/* Under the lock, which it returns while it sleeps. */
static void wait_for_last(struct pool *p, const struct timespec *deadline)
{
    struct closer self = {.next = p->closers};
    struct closer **link = &p->closers;
    park_reset(&self.park);
    p->closers = &self;
    ownership_queue_unlock(&p->queue);
    park_wait(&self.park, deadline);
    ownership_queue_lock(&p->queue);
    while (*link != &self)
        link = &(*link)->next;
    *link = self.next;
}

bool pool_close(struct pool *p, struct thread *self, const struct timespec *deadline)
{
    pool_shut(p, self);
    ownership_queue_lock(&p->queue);
    if (p->living != 0 && !is_inside(p, self))
        wait_for_last(p, deadline);
    bool none_is_left = p->living == 0;
    ownership_queue_unlock(&p->queue);
    return none_is_left;
}

/* ---- making members ---- */

/* How well a reload's member fits into a place: the more, the better. Members are replaced; more of
 * them are made for callers only. */
enum fit { FIT_NOT, FIT_VACANT, FIT_BUSY, FIT_IDLE };

/* Under the lock. A member of `number` is none to replace; one that somebody closed makes room. */
static enum fit fit(struct pool *p, unsigned place, uint64_t number)
{
    struct state *s = look_at(p, place);
    if (p->places[place].making)
        return FIT_NOT;
    if (s == NULL || state_is_closed(s))
        return FIT_VACANT;
    if (s->member->generation == number)
        return FIT_NOT;
    return ownership_inside(&s->ownership) == 0 ? FIT_IDLE : FIT_BUSY;
}

/* Under the lock: the first of those places where one of `number` fits best; the pool's size: it
 * fits nowhere. */
static unsigned find_best(struct pool *p, uint64_t number)
{
    enum fit best = FIT_NOT;
    unsigned place = p->options.size;
    for (unsigned i = 0; i < p->options.size; i++) {
        enum fit here = fit(p, i, number);
        if (here > best) {
            best = here;
            place = i;
        }
    }
    return place;
}

/* Under the lock: the first vacant place; the pool's size: there is none. */
static unsigned find_vacant(struct pool *p)
{
    unsigned i = 0;
    while (i < p->options.size && fit(p, i, generation(p)) != FIT_VACANT)
        i++;
    return i;
}

bool pool_claim(struct pool *p, unsigned *place)
{
    struct state *closed = NULL;
    ownership_queue_lock(&p->queue);
    *place = find_vacant(p);
    bool claimed = p->plan != NULL && *place < p->options.size;
    if (claimed) {
        claim(p, *place);
        closed = take_out(p, *place);
        p->retired[POOL_RETIRED_CLOSED] += closed != NULL;
    }
    ownership_queue_unlock(&p->queue);
    give_up(closed, thread_self());
    return claimed;
}

/* Nothing came of it: whoever waits may try. */
static void give_back(struct pool *p, unsigned place, bool existed)
{
    ownership_queue_lock(&p->queue);
    if (place < p->options.size)
        p->places[place].making = false;
    if (!existed)
        note_gone(p);
    ownership_queue_set_full(&p->queue, false);
    ownership_wake_all(&p->queue);
    ownership_queue_unlock(&p->queue);
}

/* So much of what a member may do before it is replaced that those of a pool do not go together:
 * from all of it for the first place down to three quarters for the last. */
static uint64_t share(uint64_t most, const struct member *m)
{
    uint64_t quarter = most / 4;
    unsigned size = m->pool->options.size;
    return most - quarter / size * m->place - quarter % size * m->place / size;
}

static struct member *member_new(struct pool *p, unsigned place, uint64_t generation)
{
    const struct pool_options *o = &p->options;
    struct member *m = malloc(sizeof *m);
    if (m == NULL)
        return NULL;
    *m = (struct member){.pool = p, .place = place, .generation = generation, .since = clock_now()};
    if (o->recycle_milliseconds == UINT64_MAX && o->recycle_bytes == UINT64_MAX)
        atomic_init(&m->judged_from, share(o->recycle_calls, m));
    record_retain(&p->record);
    return m;
}

/* Under the lock: a new member goes into its place. */
static void put_in(struct pool *p, struct state *s)
{
    record_retain(&s->record);
    p->places[s->member->place].making = false;
    atomic_store_explicit(&p->places[s->member->place].member, s, memory_order_release);
    ownership_queue_set_full(&p->queue, false);
    p->made++;
}

enum move { MOVED_IN, MOVED_TOO_LATE, MOVED_NOT };

/* By the thread inside, into a place that it has claimed, where there is none. Who waits gets to
 * know of it when it is left. Too late: the pool has a newer plan, and the place is claimed still.
 * Not: the pool is closed. */
static enum move move_in(struct pool *p, struct state *s)
{
    enum move move = MOVED_NOT;
    ownership_queue_lock(&p->queue);
    if (p->plan != NULL && s->member->generation != generation(p)) {
        move = MOVED_TOO_LATE;
        p->living++;
    } else if (p->plan != NULL) {
        move = MOVED_IN;
        put_in(p, s);
        ownership_join(&s->ownership);
    }
    ownership_queue_unlock(&p->queue);
    return move;
}

/* As pool_make, by this plan, but the member has yet to move in. */
static bool make(struct pool *p, struct plan *plan, uint64_t number, struct setup *s,
                 lua_State *host, struct thread *self, unsigned place)
{
    struct state_options options = p->options.state;
    *s = (struct setup){.host = host};
    options.member = member_new(p, place, number);
    if (options.member == NULL) {
        s->failure = SETUP_NO_MEMORY;
    } else {
        setup_make_from(s, self, &options, &plan->parcel);
        if (s->state == NULL)
            member_destroy(options.member);
    }
    if (s->failure != SETUP_WELL)
        give_back(p, place, s->state != NULL);
    return s->failure == SETUP_WELL;
}

/* The same, by the plan as it is. */
static bool make_by_plan(struct pool *p, struct setup *s, lua_State *host, struct thread *self,
                         unsigned place)
{
    uint64_t number;
    struct plan *plan = pool_plan(p, &number);
    if (plan == NULL) {
        *s = (struct setup){.host = host};
        give_back(p, place, false);
        return false;
    }
    bool made = make(p, plan, number, s, host, self, place);
    plan_release(plan);
    return made;
}

bool pool_make(struct pool *p, struct setup *s, lua_State *host, struct thread *self,
               unsigned place)
{
    while (make_by_plan(p, s, host, self, place)) {
        enum move move = move_in(p, s->state);
        if (move == MOVED_IN)
            return true;
        record_disown(&s->state->record, self);
        stay_leave_state(s->state, self);
        if (move == MOVED_NOT)
            return false;
        record_release(&s->state->record);
    }
    return false;
}

/* In a thread with no host to tell of what fails. */
static void make_unseen(struct pool *p, struct thread *self, unsigned place)
{
    struct setup s;
    if (!thread_may_nest(self)) {
        give_back(p, place, false);
    } else {
        if (pool_make(p, &s, NULL, self, place))
            stay_leave_state(s.state, self);
        if (s.state != NULL)
            record_release(&s.state->record);
    }
}

/* ---- callers ---- */

/* Enters the first idle member, from where `last` is on; NULL: there is none, and `*nested` is one
 * that the thread is inside of, if there is. */
static struct state *enter_idle(struct pool *p, uint64_t number, const struct state *last,
                                struct state **nested)
{
    unsigned place = last != NULL ? last->member->place : 0;
    for (unsigned left = p->options.size; left > 0; left--) {
        if (place >= p->options.size)
            place = 0;
        struct state *s = look_at(p, place++);
        enum entry entry = s != NULL ? ownership_enter(&s->ownership, number) : ENTRY_CLOSED;
        if (entry == ENTRY_ENTERED)
            return s;
        if (entry == ENTRY_NESTED && *nested == NULL)
            *nested = s;
    }
    return NULL;
}

/* What is entered stays, since the thread is inside. */
static struct state *enter_safely(struct pool *p, struct thread *self, const struct state *last,
                                  struct state **nested)
{
    struct state *s;
    if (__builtin_expect(self->entry != NULL, 1)) {
        grace_begin(self->entry);
        s = enter_idle(p, self->number, last, nested);
        grace_end(self->entry);
    } else {
        ownership_queue_lock(&p->queue);
        s = enter_idle(p, self->number, last, nested);
        ownership_queue_unlock(&p->queue);
    }
    return s;
}

/* Under the lock. What is flagged cannot be left before the lock is, so ENTRY_BUSY says that all
 * were busy at once. */
static enum entry take_any(struct pool *p, uint64_t number, struct ownership **entered)
{
    bool is_vacant = false;
    for (unsigned i = 0; i < p->options.size; i++) {
        struct state *s = look_at(p, i);
        enum entry entry = s != NULL ? ownership_take_or_flag(&s->ownership, number) : ENTRY_CLOSED;
        if (entry == ENTRY_ENTERED) {
            *entered = &s->ownership;
            return ENTRY_ENTERED;
        }
        is_vacant |= entry == ENTRY_CLOSED && !p->places[i].making;
    }
    if (p->plan == NULL)
        return ENTRY_CLOSED;
    ownership_queue_set_full(&p->queue, !is_vacant);
    return is_vacant ? ENTRY_VACANT : ENTRY_BUSY;
}

/* The thread has entered it. */
static enum entry begin_in(struct state *s, struct stay *stay, struct thread *self,
                           struct state **last)
{
    struct state *before = *last;
    if (before != s) {
        record_retain(&s->record);
        *last = s;
        if (before != NULL)
            record_release(&before->record);
    }
    return stay_begun(stay, s, self);
}

static struct state *state_of(struct ownership *entered)
{
    return (void *)((char *)entered - offsetof(struct state, ownership));
}

/* Looks twice, since a member may become idle behind the first look's back. */
static enum entry begin_in_any(struct pool *p, struct stay *stay, struct thread *self,
                               struct state **last)
{
    struct state *nested = NULL;
    struct ownership *entered;
    if (self->place->inside.innermost == NULL && ownership_queue_is_full(&p->queue))
        return ENTRY_BUSY;
    struct state *s = enter_safely(p, self, *last, &nested);
    if (s != NULL)
        return begin_in(s, stay, self, last);
    ownership_queue_lock(&p->queue);
    enum entry entry = take_any(p, self->number, &entered);
    ownership_queue_unlock(&p->queue);
    if (entry == ENTRY_ENTERED)
        return begin_in(state_of(entered), stay, self, last);
    if (entry == ENTRY_BUSY && nested != NULL)
        return stay_not_begun(stay, nested, self, ENTRY_NESTED);
    return entry;
}

enum entry pool_begin_in_any(struct pool *p, struct stay *stay, struct thread *self,
                             struct state **last)
{
    enum entry entry = begin_in_any(p, stay, self, last);
    if (entry == ENTRY_BUSY) {
        counters_add_refused(&p->refused);
        PROBE_RECORD(call_refused, &p->record);
    }
    return entry;
}

/* A caller that waits for any member. */
struct pool_waiter {
    struct ownership_set set;
    struct pool *pool;
};

static enum entry take_any_of_set(struct ownership_set *set, uint64_t number,
                                  struct ownership **entered)
{
    return take_any(((struct pool_waiter *)set)->pool, number, entered);
}

enum entry pool_begin_wait(struct pool *p, struct stay *stay, struct thread *self,
                           struct state **last, const struct timespec *deadline)
{
    if (!thread_may_nest(self))
        return ENTRY_TOO_DEEP;
    if (pool_enter_last(self, *last))
        return stay_begun(stay, *last, self);
    enum entry entry = begin_in_any(p, stay, self, last);
    if (entry != ENTRY_BUSY)
        return entry;
    struct pool_waiter w = {{&p->queue, take_any_of_set}, p};
    struct ownership *entered;
    PROBE_RECORD(wait_begin, &p->record);
    entry = ownership_enter_any_wait(&w.set, self->number, deadline, &entered);
    PROBE_RECORD(wait_end, &p->record);
    return entry == ENTRY_ENTERED ? begin_in(state_of(entered), stay, self, last) : entry;
}

/* ---- replacing members ---- */

static bool is_too_old(const struct member *m)
{
    uint64_t most = m->pool->options.recycle_milliseconds;
    if (most == UINT64_MAX)
        return false;
    struct timespec now = clock_now();
    return (uint64_t)(clock_elapsed_ns(&m->since, &now) / 1000000) >= share(most, m);
}

static uint64_t calls_of(struct state *s)
{
    return atomic_load_explicit(&s->counters.calls, memory_order_relaxed);
}

/* By the thread inside, as it leaves. */
static enum pool_retired judge(struct state *s)
{
    struct member *m = s->member;
    const struct pool_options *o = &m->pool->options;
    if (m->ran_into_limit)
        return POOL_RETIRED_LIMIT;
    if (m->generation != generation(m->pool))
        return POOL_RETIRED_RELOAD;
    if (calls_of(s) >= share(o->recycle_calls, m))
        return POOL_RETIRED_CALLS;
    if (o->recycle_bytes != UINT64_MAX && arena_used(&s->arena) > o->recycle_bytes)
        return POOL_RETIRED_BYTES;
    return is_too_old(m) ? POOL_RETIRED_SECONDS : POOL_RETIRED_NOT;
}

/* The member leaves its place, and another is to be made there. False: it is in none, or a reload
 * is making that other one already. */
static bool retire(struct state *s, enum pool_retired why)
{
    struct pool *p = s->member->pool;
    unsigned place = s->member->place;
    ownership_queue_lock(&p->queue);
    bool retires = look_at(p, place) == s && !p->places[place].making;
    if (retires) {
        claim(p, place);
        take_out(p, place);
        p->retired[why]++;
    }
    ownership_queue_unlock(&p->queue);
    return retires;
}

/* The calling thread is inside, in no stay. */
static void replace(struct state *s, struct thread *self, enum pool_retired why)
{
    struct pool *p = s->member->pool;
    unsigned place = s->member->place;
    bool retires = retire(s, why);
    record_retain(&p->record);
    if (retires)
        give_up(s, self); /* leaving closes it; until then its interpreter keeps the record */
    stay_leave_state(s, self);
    if (retires)
        make_unseen(p, self, place);
    record_release(&p->record);
}

/* The same, or only leaves it. A reload flags what is busy after it has written what is to be
 * judged by: the judge looks again under the lock, which the reload has had. */
static void __attribute__((noinline)) leave_or_replace(struct state *s, struct thread *self)
{
    struct pool *p = s->member->pool;
    bool stays = true;
    enum pool_retired why = judge(s);
    if (why == POOL_RETIRED_NOT && ownership_leave_unflagged(&s->ownership, self->number))
        return;
    if (why == POOL_RETIRED_NOT) {
        ownership_queue_lock(&p->queue);
        why = judge(s);
        if (why == POOL_RETIRED_NOT)
            stays = ownership_leave_locked(&s->ownership, self->number);
        ownership_queue_unlock(&p->queue);
    }
    if (why != POOL_RETIRED_NOT)
        replace(s, self, why);
    else if (!stays)
        closing_begin(s, self);
}

static void judge_soon(struct member *m)
{
    atomic_store_explicit(&m->judged_from, 0, memory_order_relaxed);
}

void pool_note_limit(struct member *m)
{
    m->ran_into_limit = true;
    judge_soon(m);
}

void pool_end_stay(struct stay *stay)
{
    struct state *s = stay->state;
    uint64_t judged_from = atomic_load_explicit(&s->member->judged_from, memory_order_relaxed);
    stay_unlink(stay);
    if (__builtin_expect(calls_of(s) < judged_from, 1) &&
        __builtin_expect(ownership_leave_unflagged(&s->ownership, stay->self->number), 1))
        return;
    leave_or_replace(s, stay->self);
}

/* ---- reload ---- */

/*
 * No caller misses a member for a reload: what is in a place goes on answering until the next one
 * is ready, and that is idle when it gets there.
 */

bool pool_make_next(struct pool *p, struct plan *plan, struct setup *s, lua_State *host,
                    struct thread *self)
{
    *s = (struct setup){.host = host};
    ownership_queue_lock(&p->queue);
    bool open = p->plan != NULL;
    uint64_t number = ++p->reloads;
    unsigned place = find_best(p, number);
    if (open && place < p->options.size)
        claim(p, place);
    else if (open)
        p->living++;
    ownership_queue_unlock(&p->queue);
    return open && make(p, plan, number, s, host, self, place);
}

/* The next member, idle, into the place that was claimed for it. False: the pool has a newer plan,
 * or none, or there was no such place, and it was closed. */
static bool swap_in(struct pool *p, struct state *s, struct thread *self)
{
    struct state *old = NULL;
    unsigned place = s->member->place;
    ownership_queue_lock(&p->queue);
    bool fits =
        p->plan != NULL && place < p->options.size && s->member->generation == generation(p);
    if (fits) {
        old = take_out(p, place);
        if (old != NULL)
            p->retired[state_is_closed(old) ? POOL_RETIRED_CLOSED : POOL_RETIRED_RELOAD]++;
        put_in(p, s);
        ownership_offer(&s->ownership);
    } else if (place < p->options.size) {
        p->places[place].making = false;
        ownership_queue_set_full(&p->queue, false);
        ownership_wake_all(&p->queue);
    }
    ownership_queue_unlock(&p->queue);
    if (!fits)
        record_disown(&s->record, self);
    give_up(old, self);
    return fits;
}

/* Where a member of an older plan is idle. One that is busy is replaced by the thread that leaves
 * it: flagged, that has to look once more. */
static bool claim_idle(struct pool *p, unsigned place)
{
    ownership_queue_lock(&p->queue);
    enum fit here = p->plan != NULL ? fit(p, place, generation(p)) : FIT_NOT;
    bool is_idle =
        here == FIT_IDLE || (here == FIT_BUSY && !ownership_flag(&look_at(p, place)->ownership) &&
                             !state_is_closed(look_at(p, place)));
    if (is_idle)
        claim(p, place);
    ownership_queue_unlock(&p->queue);
    return is_idle;
}

/* Replaces the member in a place that was claimed. False: not, since the pool has a newer plan. */
static bool replace_from_outside(struct pool *p, unsigned place, struct thread *self)
{
    struct setup s;
    bool done = true;
    if (make_by_plan(p, &s, NULL, self, place)) {
        stay_leave_state(s.state, self);
        done = swap_in(p, s.state, self);
    }
    if (s.state != NULL)
        record_release(&s.state->record);
    return done;
}

static void replace_idle(struct pool *p, struct thread *self)
{
    for (unsigned i = 0; i < p->options.size; i++)
        while (thread_may_nest(self) && claim_idle(p, i) && !replace_from_outside(p, i, self))
            ;
}

bool pool_reload(struct pool *p, struct plan *plan, bool is_new, struct state *s,
                 struct thread *self)
{
    struct plan *old = plan;
    stay_leave_state(s, self);
    ownership_queue_lock(&p->queue);
    bool open = p->plan != NULL;
    if (open && (is_new || p->plan == plan)) {
        old = p->plan;
        p->plan = plan;
        atomic_store_explicit(&p->generation, s->member->generation, memory_order_relaxed);
        for (unsigned i = 0; i < p->options.size; i++)
            if (look_at(p, i) != NULL)
                judge_soon(look_at(p, i)->member);
    }
    ownership_queue_unlock(&p->queue);
    swap_in(p, s, self);
    plan_release(old);
    replace_idle(p, self);
    return open;
}

/* ---- members from outside ---- */

struct state *pool_member(struct pool *p, unsigned place)
{
    ownership_queue_lock(&p->queue);
    struct state *s = place < p->options.size ? look_at(p, place) : NULL;
    if (s != NULL)
        record_retain(&s->record);
    ownership_queue_unlock(&p->queue);
    return s;
}

struct pool_counts pool_count(struct pool *p)
{
    struct pool_counts c = {0};
    ownership_queue_lock(&p->queue);
    for (unsigned i = 0; i < p->options.size; i++) {
        struct state *s = look_at(p, i);
        if (s == NULL || state_is_closed(s))
            continue;
        c.members++;
        *(ownership_inside(&s->ownership) != 0 ? &c.busy : &c.idle) += 1;
    }
    c.waiting = ownership_count_waiting(&p->queue);
    c.made = p->made;
    memcpy(c.retired, p->retired, sizeof c.retired);
    ownership_queue_unlock(&p->queue);
    return c;
}
