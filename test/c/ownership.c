/*
 * The ownership word: each transition alone, then all at random from many threads.
 */
#include "sync/ownership.h"
#include "check.h"
#include "sync/clock.h"
#include "sync/park.h"
#include "sync/thread.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

enum { ME = 1 * THREAD_NUMBER_STEP, OTHER = 2 * THREAD_NUMBER_STEP, THREADS_MAX = 65 };

static void init_idle(struct ownership *o)
{
    CHECK(ownership_init(o, ME, NULL));
    CHECK(ownership_leave(o, ME));
}

static void an_idle_state_is_entered_and_left(void)
{
    struct ownership o;
    init_idle(&o);
    CHECK(ownership_enter(&o, ME) == ENTRY_ENTERED);
    CHECK(ownership_enter(&o, ME) == ENTRY_NESTED);
    CHECK(ownership_enter(&o, OTHER) == ENTRY_BUSY);
    CHECK(ownership_leave(&o, ME));
    CHECK(ownership_enter(&o, OTHER) == ENTRY_ENTERED);
    ownership_destroy(&o);
}

static void a_busy_state_is_not_closed(void)
{
    struct ownership o;
    init_idle(&o);
    CHECK(ownership_enter(&o, ME) == ENTRY_ENTERED);
    CHECK(ownership_begin_close(&o, OTHER) == ENTRY_BUSY);
    CHECK(ownership_begin_close(&o, ME) == ENTRY_NESTED);
    CHECK(!ownership_is_closed(&o));
    CHECK(ownership_leave(&o, ME));
    ownership_destroy(&o);
}

static void a_closed_state_stays_closed(void)
{
    struct ownership o;
    init_idle(&o);
    CHECK(ownership_begin_close(&o, ME) == ENTRY_ENTERED);
    CHECK(ownership_is_closed(&o));
    CHECK(ownership_enter(&o, ME) == ENTRY_CLOSED);
    CHECK(ownership_begin_close(&o, OTHER) == ENTRY_BUSY);
    CHECK(ownership_begin_close(&o, ME) == ENTRY_NESTED);
    ownership_end_close(&o);
    CHECK(ownership_begin_close(&o, OTHER) == ENTRY_CLOSED);
    CHECK(ownership_enter(&o, OTHER) == ENTRY_CLOSED);
    CHECK(!ownership_abandon(&o, OTHER));
    ownership_destroy(&o);
}

static void an_abandoned_state_is_closed_by_who_is_inside(void)
{
    struct ownership o;
    init_idle(&o);
    CHECK(ownership_enter(&o, ME) == ENTRY_ENTERED);
    CHECK(!ownership_abandon(&o, OTHER));
    CHECK(ownership_is_closed(&o));
    CHECK(ownership_enter(&o, OTHER) == ENTRY_CLOSED);
    CHECK(ownership_enter(&o, ME) == ENTRY_NESTED);
    CHECK(!ownership_leave(&o, ME)); /* the caller closes */
    ownership_end_close(&o);
    ownership_destroy(&o);
    init_idle(&o);
    CHECK(ownership_abandon(&o, ME)); /* idle: the caller closes */
    ownership_destroy(&o);
}

static void a_wait_ends_in_time(void)
{
    struct ownership o;
    init_idle(&o);
    CHECK(ownership_enter(&o, OTHER) == ENTRY_ENTERED);
    double start = test_clock();
    struct timespec deadline = clock_after(0.05);
    CHECK(ownership_enter_wait(&o, ME, &deadline) == ENTRY_BUSY);
    CHECK(test_clock() - start >= 0.05);
    CHECK(ownership_leave(&o, OTHER));
    CHECK(ownership_enter_wait(&o, ME, &deadline) == ENTRY_ENTERED);
    CHECK(ownership_enter_wait(&o, ME, &deadline) == ENTRY_NESTED);
    ownership_destroy(&o);
}

static void *wait_and_leave(void *argument)
{
    struct ownership *o = argument;
    uint64_t number = thread_self()->number;
    CHECK(ownership_enter_wait(o, number, NULL) == ENTRY_ENTERED);
    usleep(100000);
    CHECK(ownership_leave(o, number));
    return NULL;
}

static void who_has_waited_long_is_handed_the_state(void)
{
    struct ownership o;
    pthread_t waiter;
    uint64_t number = thread_self()->number;
    CHECK(ownership_init(&o, number, NULL));
    CHECK(pthread_create(&waiter, NULL, wait_and_leave, &o) == 0);
    usleep(50000);
    CHECK(ownership_leave(&o, number));
    CHECK(ownership_enter(&o, number) == ENTRY_BUSY); /* sooner than the waiter can wake */
    pthread_join(waiter, NULL);
    CHECK(ownership_enter(&o, number) == ENTRY_ENTERED);
    ownership_destroy(&o);
}

/* ---- what the word orders; a thread sanitizer sees it if it does not ---- */

static long kept; /* plain: what the word guards */
static _Atomic bool left;

static void *use_once(void *argument)
{
    struct ownership *o = argument;
    uint64_t number = thread_self()->number;
    CHECK(ownership_enter(o, number) == ENTRY_ENTERED);
    kept++;
    CHECK(ownership_leave(o, number));
    atomic_store_explicit(&left, true, memory_order_relaxed); /* orders nothing */
    return NULL;
}

static void use_in_another_thread(pthread_t *user, struct ownership *o)
{
    init_idle(o);
    kept = 0;
    atomic_store(&left, false);
    CHECK(pthread_create(user, NULL, use_once, o) == 0);
    while (!atomic_load_explicit(&left, memory_order_relaxed))
        usleep(100);
}

static void whoever_enters_or_closes_sees_what_was_done_inside(void)
{
    struct ownership o;
    pthread_t user;
    use_in_another_thread(&user, &o);
    CHECK(ownership_enter(&o, ME) == ENTRY_ENTERED && kept == 1);
    pthread_join(user, NULL);
    ownership_destroy(&o);
    use_in_another_thread(&user, &o);
    CHECK(ownership_enter_wait(&o, ME, NULL) == ENTRY_ENTERED && kept == 1);
    pthread_join(user, NULL);
    ownership_destroy(&o);
    use_in_another_thread(&user, &o);
    CHECK(ownership_begin_close(&o, ME) == ENTRY_ENTERED && kept == 1);
    pthread_join(user, NULL);
    ownership_destroy(&o);
    use_in_another_thread(&user, &o);
    CHECK(ownership_abandon(&o, ME) && kept == 1);
    pthread_join(user, NULL);
    ownership_destroy(&o);
}

/* ---- at random ---- */

static struct ownership shared;
static int threads;
static _Atomic int started;
static double deadline; /* of thread 0, from when all have started */
static uint64_t seed;
static long inside; /* plain: only who is inside may touch it */
static long entered_in_all;
static _Atomic long turns[THREADS_MAX];
static _Atomic int closers;

static bool stay(uint64_t number, uint64_t *random, int self)
{
    CHECK(inside++ == 0);
    entered_in_all++;
    if (random_below(random, 64) == 0) /* sometimes long enough to let the others sleep */
        for (volatile int i = 0; i < 100000; i++)
            ;
    inside--;
    atomic_fetch_add_explicit(&turns[self], 1, memory_order_relaxed);
    return ownership_leave(&shared, number);
}

static void *stress(void *argument)
{
    int self = (int)(intptr_t)argument;
    uint64_t number = thread_self()->number, random = seed * 131 + (uint64_t)self + 1;
    bool closed = false;
    atomic_fetch_add(&started, 1);
    while (atomic_load(&started) < threads)
        sched_yield();
    if (self == 0)
        deadline = test_clock() + test_seconds() / 3;
    while (!closed) {
        enum entry entry;
        struct timespec soon = clock_after(1e-6 * (double)random_below(&random, 2000));
        switch (random_below(&random, 4)) {
        case 0:
            entry = ownership_enter(&shared, number);
            break;
        case 1:
            entry = ownership_enter_wait(&shared, number, &soon);
            break;
        default:
            entry = ownership_enter_wait(&shared, number, NULL);
            break;
        }
        CHECK(entry != ENTRY_NESTED);
        closed = entry == ENTRY_CLOSED;
        bool closes = entry == ENTRY_ENTERED && !stay(number, &random, self);
        if (!closes && self == 0 && test_clock() > deadline) {
            /* the end: abandon or close, from a state that is most likely busy */
            closes = seed & 1 ? ownership_abandon(&shared, number)
                              : ownership_begin_close(&shared, number) == ENTRY_ENTERED;
        }
        if (closes) {
            CHECK(inside == 0);
            atomic_fetch_add(&closers, 1);
            ownership_end_close(&shared);
        }
    }
    return NULL;
}

static void round_of_stress(void)
{
    pthread_t ids[THREADS_MAX];
    inside = entered_in_all = 0;
    atomic_store(&closers, 0);
    for (int i = 0; i < threads; i++)
        atomic_store(&turns[i], 0);
    init_idle(&shared);
    atomic_store(&started, 0);
    for (int i = 0; i < threads; i++)
        CHECK(pthread_create(&ids[i], NULL, stress, (void *)(intptr_t)i) == 0);
    long sum = 0, least = 0;
    for (int i = 0; i < threads; i++) {
        pthread_join(ids[i], NULL);
        long mine = atomic_load(&turns[i]);
        sum += mine;
        least = i == 0 || mine < least ? mine : least;
    }
    printf("%d threads, %ld stays, the least %ld\n", threads, sum, least);
    CHECK(atomic_load(&closers) == 1);
    CHECK(sum == entered_in_all);
    CHECK(least > 0);
    ownership_destroy(&shared);
}

int main(void)
{
    an_idle_state_is_entered_and_left();
    a_busy_state_is_not_closed();
    a_closed_state_stays_closed();
    an_abandoned_state_is_closed_by_who_is_inside();
    a_wait_ends_in_time();
    who_has_waited_long_is_handed_the_state();
    whoever_enters_or_closes_sees_what_was_done_inside();
    seed = test_seed();
    threads = test_threads() < THREADS_MAX ? test_threads() : THREADS_MAX;
    for (int i = 0; i < 3; i++, seed++)
        round_of_stress();
    return 0;
}
