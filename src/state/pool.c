#include "pool.h"

#include "parcel.h"
#include "sync/clock.h"
#include "sync/park.h"

#include <stdlib.h>
#include <string.h>

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

struct plan *pool_plan(struct pool *p, uint64_t *generation)
{
    ownership_queue_lock(&p->queue);
    struct plan *plan = p->plan;
    *generation = atomic_load_explicit(&p->generation, memory_order_relaxed);
    if (plan != NULL)
        atomic_fetch_add_explicit(&plan->refs, 1, memory_order_relaxed);
    ownership_queue_unlock(&p->queue);
    return plan;
}

/* ---- pools come and go ---- */

static void destroy(struct record *r)
{
    struct pool *p = pool_of_record(r);
    ownership_queue_destroy(&p->queue);
    free(p->places);
    free(p);
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

/* The same; another is to be made there. */
static struct state *take_out_for_next(struct pool *p, unsigned place)
{
    p->places[place].making = true;
    p->living++;
    return take_out(p, place);
}

/* What was taken out; closes it, or has it closed by the thread inside. Without the lock. */
static void give_up(struct state *s, struct thread *self)
{
    if (s == NULL)
        return;
    record_disown(&s->record, self);
    record_release(&s->record);
}

void pool_shut(struct pool *p, struct thread *self)
{
    ownership_queue_lock(&p->queue);
    struct plan *plan = p->plan;
    p->plan = NULL;
    atomic_store_explicit(&p->closed, true, memory_order_relaxed);
    ownership_wake_all(&p->queue);
    ownership_queue_unlock(&p->queue);
    if (plan == NULL)
        return;
    registry_remove(&p->record);
    for (unsigned i = 0; i < p->options.size; i++) {
        ownership_queue_lock(&p->queue);
        struct state *s = take_out(p, i);
        ownership_queue_unlock(&p->queue);
        give_up(s, self);
    }
    plan_release(plan);
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

struct pool *pool_new(const struct pool_options *o, struct plan *plan)
{
    struct pool *p = malloc(sizeof *p + o->name_length);
    if (p == NULL)
        return NULL;
    *p = (struct pool){.plan = plan, .options = *o};
    p->places = calloc(o->size, sizeof *p->places);
    if (p->places == NULL || !ownership_queue_init(&p->queue)) {
        free(p->places);
        free(p);
        return NULL;
    }
    if (o->name != NULL)
        memcpy(p->name, o->name, o->name_length);
    record_init(&p->record, o->name != NULL ? p->name : NULL, o->name_length, &pool_kind);
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

static bool is_inside(const struct pool *p, const struct thread *self)
{
    const struct state *s = self->place->innermost;
    while (s != NULL && (s->member == NULL || s->member->pool != p))
        s = s->around;
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

/* Under the lock: the first place where one may be made; the pool's size: there is none. A member
 * that somebody closed makes room. */
static unsigned find_vacant(struct pool *p)
{
    unsigned i = 0;
    for (; i < p->options.size; i++) {
        struct state *s = look_at(p, i);
        if (!p->places[i].making && (s == NULL || state_is_closed(s)))
            break;
    }
    return i;
}

/* Under the lock, of a pool whose members are busy. */
static enum entry room(struct pool *p)
{
    if (p->plan == NULL)
        return ENTRY_CLOSED;
    return find_vacant(p) < p->options.size ? ENTRY_VACANT : ENTRY_BUSY;
}

bool pool_claim(struct pool *p, unsigned *place)
{
    struct state *closed = NULL;
    ownership_queue_lock(&p->queue);
    *place = p->plan != NULL ? find_vacant(p) : p->options.size;
    bool claimed = *place < p->options.size;
    if (claimed) {
        closed = take_out_for_next(p, *place);
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
    p->places[place].making = false;
    if (!existed)
        note_gone(p);
    ownership_wake_all(&p->queue);
    ownership_queue_unlock(&p->queue);
}

static struct member *member_new(struct pool *p, unsigned place, uint64_t generation)
{
    struct member *m = malloc(sizeof *m);
    if (m == NULL)
        return NULL;
    *m = (struct member){.pool = p, .place = place, .generation = generation, .since = clock_now()};
    record_retain(&p->record);
    return m;
}

/* Under the lock, by the thread inside: a new member goes into its place. Who waits gets to know of
 * it when it is left. */
static void put_in(struct pool *p, struct state *s)
{
    record_retain(&s->record);
    atomic_store_explicit(&p->places[s->member->place].member, s, memory_order_release);
    ownership_join(&s->ownership);
    p->made++;
}

/* The new one goes into its place, which the caller has claimed. False: the pool is closed. */
static bool move_in(struct pool *p, struct state *s)
{
    ownership_queue_lock(&p->queue);
    bool open = p->plan != NULL;
    p->places[s->member->place].making = false;
    if (open)
        put_in(p, s);
    ownership_queue_unlock(&p->queue);
    return open;
}

/* As pool_make, but the member has yet to move in. */
static bool make(struct pool *p, struct plan *plan, uint64_t generation, struct setup *s,
                 struct thread *self, unsigned place)
{
    struct state_options options = p->options.state;
    options.member = member_new(p, place, generation);
    if (options.member == NULL) {
        s->failure = SETUP_NO_MEMORY;
        return false;
    }
    setup_make_from(s, self, &options, &plan->parcel);
    if (s->state == NULL)
        member_destroy(options.member);
    return s->failure == SETUP_WELL;
}

/* Closes a member that has not moved in, or no more is. */
static void leave_and_close(struct state *s, struct thread *self)
{
    record_disown(&s->record, self);
    stay_leave_state(s, self);
}

bool pool_make(struct pool *p, struct setup *s, lua_State *host, struct thread *self,
               unsigned place)
{
    uint64_t generation;
    struct plan *plan = pool_plan(p, &generation);
    *s = (struct setup){.host = host};
    bool made = plan != NULL && make(p, plan, generation, s, self, place);
    if (!made)
        give_back(p, place, s->state != NULL);
    else if (!(made = move_in(p, s->state)))
        leave_and_close(s->state, self);
    if (plan != NULL)
        plan_release(plan);
    return made;
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

/* Enters the first idle member from `*last` on, which it sets; NULL: there is none, and `*nested`
 * is one that the thread is inside of, if there is. */
static struct state *enter_idle(struct pool *p, uint64_t number, unsigned *last,
                                struct state **nested)
{
    unsigned place = *last < p->options.size ? *last : 0;
    for (unsigned left = p->options.size; left > 0; left--) {
        struct state *s = look_at(p, place);
        enum entry entry = s != NULL ? ownership_enter(&s->ownership, number) : ENTRY_CLOSED;
        if (entry == ENTRY_ENTERED) {
            *last = place;
            return s;
        }
        if (entry == ENTRY_NESTED && *nested == NULL)
            *nested = s;
        place = place + 1 < p->options.size ? place + 1 : 0;
    }
    return NULL;
}

/* What is entered stays, since the thread is inside. */
static struct state *enter_safely(struct pool *p, struct thread *self, unsigned *last,
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

static enum entry look_for_room(struct pool *p)
{
    ownership_queue_lock(&p->queue);
    enum entry entry = room(p);
    ownership_queue_unlock(&p->queue);
    return entry;
}

enum entry pool_begin(struct pool *p, struct stay *stay, struct thread *self, unsigned *last)
{
    struct state *nested = NULL;
    if (!thread_may_nest(self))
        return ENTRY_TOO_DEEP;
    struct state *s = enter_safely(p, self, last, &nested);
    if (__builtin_expect(s != NULL, 1))
        return stay_begun(stay, s, self);
    enum entry entry = look_for_room(p);
    if (entry == ENTRY_BUSY && nested != NULL)
        return stay_not_begun(stay, nested, self, ENTRY_NESTED);
    return entry;
}

/* A caller that waits for any member. */
struct pool_waiter {
    struct ownership_set set;
    struct pool *pool;
};

static enum entry take_any(struct ownership_set *set, uint64_t number, struct ownership **entered)
{
    struct pool *p = ((struct pool_waiter *)set)->pool;
    for (unsigned i = 0; i < p->options.size; i++) {
        struct state *s = look_at(p, i);
        if (s == NULL || ownership_take_or_flag(&s->ownership, number) != ENTRY_ENTERED)
            continue;
        *entered = &s->ownership;
        return ENTRY_ENTERED;
    }
    return room(p);
}

enum entry pool_begin_wait(struct pool *p, struct stay *stay, struct thread *self, unsigned *last,
                           const struct timespec *deadline)
{
    enum entry entry = pool_begin(p, stay, self, last);
    if (entry != ENTRY_BUSY)
        return entry;
    struct pool_waiter w = {{&p->queue, take_any}, p};
    struct ownership *entered;
    entry = ownership_enter_any_wait(&w.set, self->number, deadline, &entered);
    if (entry != ENTRY_ENTERED)
        return entry;
    struct state *s = (void *)((char *)entered - offsetof(struct state, ownership));
    *last = s->member->place;
    return stay_begun(stay, s, self);
}

/* ---- replacing members ---- */

/* So much of what a member may do before it is replaced that those of a pool do not go together:
 * from all of it for the first place down to three quarters for the last. */
static uint64_t share(uint64_t most, const struct member *m)
{
    uint64_t quarter = most / 4;
    unsigned size = m->pool->options.size;
    return most - quarter / size * m->place - quarter % size * m->place / size;
}

static bool is_too_old(const struct member *m)
{
    uint64_t most = m->pool->options.recycle_milliseconds;
    if (most == UINT64_MAX)
        return false;
    struct timespec now = clock_now();
    return (uint64_t)(clock_elapsed_ns(&m->since, &now) / 1000000) >= share(most, m);
}

/* By the thread inside, as it leaves. */
static enum pool_retired judge(struct state *s)
{
    struct member *m = s->member;
    const struct pool_options *o = &m->pool->options;
    if (m->ran_into_limit)
        return POOL_RETIRED_LIMIT;
    if (m->generation != atomic_load_explicit(&m->pool->generation, memory_order_relaxed))
        return POOL_RETIRED_RELOAD;
    if (m->calls >= share(o->recycle_calls, m))
        return POOL_RETIRED_CALLS;
    if (o->recycle_bytes != UINT64_MAX && arena_used(&s->arena) > o->recycle_bytes)
        return POOL_RETIRED_BYTES;
    return is_too_old(m) ? POOL_RETIRED_SECONDS : POOL_RETIRED_NOT;
}

/* The member leaves its place, and another is to be made there. False: it is in none. */
static bool retire(struct state *s, enum pool_retired why)
{
    struct pool *p = s->member->pool;
    unsigned place = s->member->place;
    ownership_queue_lock(&p->queue);
    bool is_there = look_at(p, place) == s;
    if (is_there) {
        take_out_for_next(p, place);
        p->retired[why]++;
    }
    ownership_queue_unlock(&p->queue);
    return is_there;
}

/* The calling thread is inside, in no stay. */
static void replace(struct state *s, struct thread *self, enum pool_retired why)
{
    struct pool *p = s->member->pool;
    unsigned place = s->member->place;
    bool is_there = retire(s, why);
    record_retain(&p->record);
    if (is_there)
        give_up(s, self); /* leaving closes it; until then its interpreter keeps the record */
    stay_leave_state(s, self);
    if (is_there)
        make_unseen(p, self, place);
    record_release(&p->record);
}

/* The same, or only leaves it. */
static void leave_or_replace(struct state *s, struct thread *self)
{
    enum pool_retired why = judge(s);
    if (__builtin_expect(why == POOL_RETIRED_NOT, 1))
        stay_leave_state(s, self);
    else
        replace(s, self, why);
}

void pool_end_stay(struct stay *stay)
{
    stay->state->member->calls++;
    stay_unlink(stay);
    leave_or_replace(stay->state, stay->self);
}

/* Those that are idle. */
static void replace_idle(struct pool *p, struct thread *self)
{
    for (unsigned i = 0; i < p->options.size; i++) {
        struct state *s = pool_member(p, i);
        if (s == NULL)
            continue;
        if (ownership_enter(&s->ownership, self->number) == ENTRY_ENTERED)
            leave_or_replace(s, self);
        record_release(&s->record);
    }
}

bool pool_make_next(struct pool *p, struct plan *plan, struct setup *s, lua_State *host,
                    struct thread *self)
{
    *s = (struct setup){.host = host};
    ownership_queue_lock(&p->queue);
    p->living++;
    ownership_queue_unlock(&p->queue);
    bool made = make(p, plan, 0, s, self, 0); /* both numbers follow in pool_reload */
    if (s->state == NULL)
        pool_note_gone(p);
    return made;
}

/* Under the lock: where the first of the new ones goes. */
static unsigned find_room(struct pool *p)
{
    unsigned i = 0;
    while (i < p->options.size && (p->places[i].making || look_at(p, i) != NULL))
        i++;
    for (unsigned k = 0; i == p->options.size && k < p->options.size; k++)
        if (!p->places[k].making)
            i = k;
    return i;
}

bool pool_reload(struct pool *p, struct plan *plan, struct state *s, struct thread *self)
{
    struct plan *old = plan;
    struct state *displaced = NULL;
    ownership_queue_lock(&p->queue);
    bool open = p->plan != NULL;
    unsigned place = find_room(p);
    bool has_room = open && place < p->options.size;
    if (open) {
        old = p->plan;
        p->plan = plan;
        s->member->generation =
            atomic_fetch_add_explicit(&p->generation, 1, memory_order_relaxed) + 1;
    }
    if (has_room) {
        displaced = take_out(p, place);
        p->retired[POOL_RETIRED_RELOAD] += displaced != NULL;
        s->member->place = place;
        put_in(p, s);
    }
    ownership_queue_unlock(&p->queue);
    if (has_room)
        stay_leave_state(s, self);
    else
        leave_and_close(s, self);
    give_up(displaced, self);
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
