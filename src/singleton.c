#include "singleton.h"

#include "park.h"

#include <stdlib.h>
#include <string.h>

/* A thread asleep until a making ends; on its own stack. */
struct waiting {
    struct waiting *next;
    uint64_t thread;
    struct singleton_making *making;
    struct park park;
};

struct singleton_making {
    struct singleton_making *next;
    uint64_t maker;
    size_t length;
    char name[];
};

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static struct singleton_making *makings;
static struct waiting *waitings;

/* ---- a maker whose thread ends inside setup leaves its makings to the others ---- */

static void end_makings_of(void *self)
{
    uint64_t thread = ((struct thread *)self)->number;
    for (;;) {
        pthread_mutex_lock(&mutex);
        struct singleton_making *m = makings;
        while (m != NULL && m->maker != thread)
            m = m->next;
        pthread_mutex_unlock(&mutex);
        if (m == NULL)
            return;
        singleton_end(m);
    }
}

static struct thread_watch maker_watch = {.end = end_makings_of};

/* ---- under the mutex ---- */

static struct singleton_making *find_making(const char *name, size_t length)
{
    struct singleton_making *m = makings;
    while (m != NULL && (m->length != length || memcmp(m->name, name, length) != 0))
        m = m->next;
    return m;
}

static struct waiting *find_waiting(uint64_t thread)
{
    struct waiting *w = waitings;
    while (w != NULL && w->thread != thread)
        w = w->next;
    return w;
}

/* Whether `thread`, if it waited for `m`, would in the end wait for itself. */
static bool closes_circle(const struct singleton_making *m, uint64_t thread)
{
    while (m->maker != thread) {
        const struct waiting *w = find_waiting(m->maker);
        if (w == NULL)
            return false;
        m = w->making;
    }
    return true;
}

/* ---- */

/* The living state of that name, with a reference and an owner more for the caller. */
static enum registry_result find_and_own(const char *name, size_t length, struct thread *self,
                                         struct state **found)
{
    struct record *r;
    enum registry_result result = registry_find_name(name, length, &r);
    if (result != REGISTRY_FOUND)
        return result;
    struct state *s = state_of_record(r);
    if (state_own(s)) {
        if (!state_is_closed(s)) {
            *found = s;
            return REGISTRY_FOUND;
        }
        state_disown(s, self);
    }
    registry_remove(r); /* whoever closes it is about to; then it cannot clash with a new one */
    record_release(r);
    return REGISTRY_UNKNOWN;
}

static struct singleton_making *making_new(const char *name, size_t length, uint64_t maker)
{
    struct singleton_making *m = malloc(sizeof *m + length);
    if (m == NULL)
        return NULL;
    m->maker = maker;
    m->length = length;
    memcpy(m->name, name, length);
    return m;
}

/* Under the mutex: sleeps without it until `m` has ended. */
static void wait_for(struct singleton_making *m, struct thread *self)
{
    struct waiting w = {.next = waitings, .thread = self->number, .making = m};
    park_reset(&w.park);
    waitings = &w;
    pthread_mutex_unlock(&mutex);
    park_wait(&w.park, NULL);
    pthread_mutex_lock(&mutex);
}

enum singleton singleton_begin(const char *name, size_t length, struct thread *self,
                               struct state **found, struct singleton_making **making)
{
    static const enum singleton results[] = {
        [REGISTRY_FOUND] = SINGLETON_FOUND,
        [REGISTRY_UNKNOWN] = SINGLETON_MAKE,
        [REGISTRY_AMBIGUOUS] = SINGLETON_AMBIGUOUS,
        [REGISTRY_NO_MEMORY] = SINGLETON_NO_MEMORY,
    };
    enum registry_result result = find_and_own(name, length, self, found);
    if (result != REGISTRY_UNKNOWN)
        return results[result];
    struct singleton_making *fresh = making_new(name, length, self->number);
    if (fresh == NULL || !thread_watch_end(&maker_watch, self)) {
        free(fresh);
        return SINGLETON_NO_MEMORY;
    }

    struct singleton_making *m;
    bool circle = false;
    pthread_mutex_lock(&mutex);
    while ((m = find_making(name, length)) != NULL && !(circle = closes_circle(m, self->number)))
        wait_for(m, self);
    /* Whoever made it before had registered it before it ended the making. */
    if (!circle)
        result = find_and_own(name, length, self, found);
    if (!circle && result == REGISTRY_UNKNOWN) {
        fresh->next = makings;
        makings = *making = fresh;
        fresh = NULL;
    }
    pthread_mutex_unlock(&mutex);
    free(fresh);
    return circle ? SINGLETON_CIRCLE : results[result];
}

void singleton_end(struct singleton_making *making)
{
    pthread_mutex_lock(&mutex);
    struct singleton_making **m = &makings;
    while (*m != making)
        m = &(*m)->next;
    *m = making->next;
    struct waiting **w = &waitings;
    while (*w != NULL) {
        struct waiting *waiting = *w;
        if (waiting->making == making) {
            *w = waiting->next;
            park_wake(&waiting->park);
        } else {
            w = &waiting->next;
        }
    }
    pthread_mutex_unlock(&mutex);
    free(making);
}
