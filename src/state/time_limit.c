#include "time_limit.h"

#include "sync/clock.h"
#include "sync/thread_signal.h"
#include "sync/ticker.h"

#include <stdlib.h>

#define GET(object) atomic_load_explicit(&(object), memory_order_relaxed)
#define SET(object, value) atomic_store_explicit(&(object), value, memory_order_relaxed)

#define LOW_BITS UINT32_MAX

atomic_bool time_limit_watching;

/* ---- the ticker's ---- */

/* A thread that has to be woken first takes some of these nanoseconds until it is struck. */
enum { LEAST_BETWEEN = 20000000 };

/* The one that strikes always comes after as long again, but leaves half of that to the one before
 * where the ticker was late, and where that is little, a little more. */
static enum time_limit_strike strike_at(const struct limited_stay *l, const struct timespec *now)
{
    int64_t limit = (int64_t)(l->seen & LOW_BITS) * 1000000;
    int64_t lasted = clock_elapsed_ns(&l->since, now);
    if (l->sent == TIME_LIMIT_NONE)
        return lasted < limit ? TIME_LIMIT_NONE : TIME_LIMIT_ONCE;
    int64_t had = clock_elapsed_ns(&l->sent_at, now);
    bool had_time = had >= limit / 2 && had >= LEAST_BETWEEN;
    return lasted >= 2 * limit && had_time ? TIME_LIMIT_ALWAYS : l->sent;
}

/* The clock is read after the word was: the ticker may have been held up, and a stay that has begun
 * meanwhile would seem to have lasted as long. */
static void see(struct limited_stay *l, uint64_t word)
{
    l->seen = word;
    l->since = clock_now();
    l->sent = TIME_LIMIT_NONE;
}

static void send(struct limited_stay *l, enum time_limit_strike strike, const struct timespec *now)
{
    SET(l->strike, (l->seen & ~(uint64_t)LOW_BITS) | strike);
    l->sent = strike;
    l->sent_at = *now;
    l->looks = 0;
}

/* True: the thread needs a signal for this stay. */
static bool look_at_stay(struct limited_stay *l, const struct timespec *now)
{
    uint64_t word = GET(l->word);
    if (word != l->seen)
        see(l, word);
    if (word == 0)
        return false;
    enum time_limit_strike strike = strike_at(l, now);
    if (strike != l->sent)
        send(l, strike, now);
    bool is_taken = GET(l->strike) == 0;
    return strike != TIME_LIMIT_NONE && !is_taken && tick_is_turn(++l->looks);
}

/* Under the list's lock. False: the thread is in none. */
static bool look_at_thread(struct thread_entry *e, const struct timespec *now)
{
    struct time_limits *limits = atomic_load_explicit(&e->limits, memory_order_acquire); /* L2 */
    int count = limits != NULL ? GET(limits->count) : 0;
    bool needs_signal = false;
    for (int i = 0; i < count; i++)
        if (look_at_stay(&limits->stays[i], now))
            needs_signal = true;
    if (needs_signal) {
        atomic_fetch_or_explicit(&e->place.pending, PENDING_LIMIT, memory_order_release); /* L3 */
        thread_signal_send_locked(e);
    }
    return count > 0;
}

static bool look_at_threads(void)
{
    struct timespec now = clock_now();
    bool is_any = false;
    for (struct thread_entry *e = thread_first_locked(), *next; e != NULL; e = next) {
        next = e->next; /* a signal may find that the thread is gone */
        if (look_at_thread(e, &now))
            is_any = true;
    }
    thread_unlock();
    return is_any;
}

/* In the ticker; under its lock, as is the adding of the tick. */
static bool look(struct tick *t)
{
    enum { QUIET = 20 };
    static unsigned quiet; /* looks in a row that found none */
    (void)t;
    bool was_told = quiet >= QUIET && GET(time_limit_watching);
    if (look_at_threads() || was_told) {
        SET(time_limit_watching, true);
        quiet = 0;
        return true;
    }
    quiet++;
    if (quiet == QUIET)
        SET(time_limit_watching, false);
    return quiet <= QUIET;
}

struct limited_stay *time_limit_watch(struct thread *self, struct limited_stay *l)
{
    static struct tick tick;
    SET(time_limit_watching, true);
    if (ticker_add(&tick, look, TICKER_SECONDS))
        return l;
    SET(time_limit_watching, false);
    time_limit_end(self, l);
    return NULL;
}

void time_limit_fork_end(bool is_child)
{
    if (is_child)
        SET(time_limit_watching, false);
}

/* ---- the thread's ---- */

struct limited_stay *time_limit_begin_first(struct thread *self, uint32_t milliseconds)
{
    if (!thread_list(self) || (self->limits = calloc(1, sizeof *self->limits)) == NULL)
        return NULL;
    atomic_store_explicit(&self->entry->limits, self->limits, memory_order_release); /* L1 */
    return time_limit_begin(self, milliseconds);
}

/* Where stays do not end in the order in which they began, those that have ended leave gaps; and a
 * thread is not in so many stays that there is none. */
struct limited_stay *time_limit_find_gap(struct time_limits *limits)
{
    struct limited_stay *l = limits->stays;
    while (GET(l->word) != 0)
        l++;
    return l;
}

static enum time_limit_strike due_for(const struct limited_stay *l, uint64_t strike)
{
    bool is_named = (GET(l->word) ^ strike) >> TIME_LIMIT_NUMBER_SHIFT == 0;
    return is_named ? (enum time_limit_strike)(strike & LOW_BITS) : TIME_LIMIT_NONE;
}

bool time_limit_has_struck(const struct limited_stay *l)
{
    return l->struck || due_for(l, GET(l->strike)) != TIME_LIMIT_NONE;
}

enum time_limit_strike time_limit_due(void)
{
    const struct time_limits *limits = thread_record.limits;
    int count = limits != NULL ? GET(limits->count) : 0;
    enum time_limit_strike most = TIME_LIMIT_NONE;
    for (int i = 0; i < count; i++) {
        enum time_limit_strike due = due_for(&limits->stays[i], GET(limits->stays[i].strike));
        if (due > most)
            most = due;
    }
    return most;
}

void time_limit_note(struct thread *self)
{
    _Atomic int *pending = &self->place->pending;
    atomic_fetch_and_explicit(pending, ~PENDING_LIMIT, memory_order_acquire); /* L4 */
    if (time_limit_due() != TIME_LIMIT_NONE)
        atomic_fetch_or_explicit(pending, PENDING_LIMIT, memory_order_relaxed);
}

/* False: there is none that strikes once, or it has just become one that always does. */
static bool take_once(struct limited_stay *l)
{
    uint64_t strike = GET(l->strike);
    bool taken = due_for(l, strike) == TIME_LIMIT_ONCE &&
                 atomic_compare_exchange_strong_explicit(
                     &l->strike, &strike, 0, memory_order_relaxed, memory_order_relaxed);
    l->struck = l->struck || taken;
    return taken;
}

enum time_limit_strike time_limit_take(void)
{
    struct thread *self = &thread_record;
    struct time_limits *limits = self->limits;
    if (!(GET(self->place->pending) & PENDING_LIMIT))
        return TIME_LIMIT_NONE;
    enum time_limit_strike due = time_limit_due();
    if (due == TIME_LIMIT_ONCE) {
        int i = 0, count = GET(limits->count);
        while (i < count && !take_once(&limits->stays[i]))
            i++;
        if (i == count)
            due = TIME_LIMIT_ALWAYS;
    }
    time_limit_note(self);
    return due;
}
