#include "ticker.h"

#include "clock.h"
#include "park.h"

#include <pthread.h>
#include <signal.h>
#include <stddef.h>

enum { IDLE_MS = 1000 }; /* after which the thread ends */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* guards all that follows */
static struct tick *first;
static bool running; /* there is a thread */
static struct park park;
static double pace = TICKER_SECONDS; /* from look to look: the least that is asked for */

static void unlink_tick(struct tick *t)
{
    *(t->previous ? &t->previous->next : &first) = t->next;
    if (t->next != NULL)
        t->next->previous = t->previous;
    t->listed = false;
}

static void look_at_all(void)
{
    pace = TICKER_SECONDS;
    for (struct tick *t = first, *next; t != NULL; t = next) {
        next = t->next;
        t->looks++;
        if (!t->look(t))
            unlink_tick(t);
        else if (t->seconds < pace)
            pace = t->seconds;
    }
}

static void *run(void *unused)
{
    pthread_mutex_lock(&lock);
    for (;;) {
        bool idle = first == NULL;
        struct timespec until = clock_after(idle ? IDLE_MS / 1e3 : pace);
        pthread_mutex_unlock(&lock);
        bool called = park_wait(&park, &until);
        pthread_mutex_lock(&lock);
        park_reset(&park);
        if (first != NULL && !called)
            look_at_all();
        else if (first == NULL && idle && !called)
            break;
    }
    running = false;
    pthread_mutex_unlock(&lock);
    return unused;
}

/* Under the lock. */
static void start(void)
{
    enum { STACK = 256 * 1024 };
    pthread_attr_t attributes;
    pthread_t thread;
    sigset_t all, before;
    if (pthread_attr_init(&attributes) != 0)
        return;
    pthread_attr_setstacksize(&attributes, STACK);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    park_reset(&park);
    running = pthread_create(&thread, &attributes, run, NULL) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
}

bool ticker_add(struct tick *t, bool (*look)(struct tick *), double seconds)
{
    pthread_mutex_lock(&lock);
    bool is_sooner = first == NULL || seconds < pace;
    t->looks = 0;
    t->seconds = seconds;
    if (seconds < pace)
        pace = seconds;
    if (!t->listed) {
        t->look = look;
        t->previous = NULL;
        t->next = first;
        if (first != NULL)
            first->previous = t;
        first = t;
        t->listed = true;
    }
    if (!running)
        start();
    else if (is_sooner)
        park_wake(&park);
    bool will_look = running;
    pthread_mutex_unlock(&lock);
    return will_look;
}

/* Nobody adds it any more, so one that is not listed stays so. */
void ticker_remove(struct tick *t)
{
    if (!t->listed)
        return;
    pthread_mutex_lock(&lock);
    if (t->listed)
        unlink_tick(t);
    pthread_mutex_unlock(&lock);
}

void ticker_fork_begin(void)
{
    pthread_mutex_lock(&lock);
}

void ticker_fork_end(bool is_child)
{
    if (is_child)
        running = false;
    pthread_mutex_unlock(&lock);
}
