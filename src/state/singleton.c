#include "singleton.h"

#include "sync/park.h"

#include <stdlib.h>
#include <string.h>

/* A thread asleep until a making ends; on its own stack. */
struct waiting {
    struct waiting *next;
    uint64_t thread;
    const struct singleton_making *making;
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

static _Thread_local struct thread_end maker_end;

static void end_makings(struct thread_end *e)
{
    (void)e;
    uint64_t thread = thread_self()->number;
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
static struct singleton_answer find_and_own(const char *name, size_t length)
{
    struct record *r;
    switch (registry_find_name(&registry_states, name, length, &r)) {
    case REGISTRY_AMBIGUOUS:
        return (struct singleton_answer){.kind = SINGLETON_AMBIGUOUS};
    case REGISTRY_UNKNOWN:
        return (struct singleton_answer){.kind = SINGLETON_MAKE};
    default:
        break;
    }
    struct state *s = state_of_record(r);
    if (record_own(r))
        return (struct singleton_answer){.kind = SINGLETON_FOUND, .found = s};
    record_release(r); /* its last owner has just gone */
    return (struct singleton_answer){.kind = SINGLETON_MAKE};
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
static void wait_for(const struct singleton_making *m, struct thread *self)
{
    struct waiting w = {.next = waitings, .thread = self->number, .making = m};
    park_reset(&w.park);
    waitings = &w;
    pthread_mutex_unlock(&mutex);
    park_wait(&w.park, NULL);
    pthread_mutex_lock(&mutex);
}

/* Under the mutex, which it returns while it sleeps: whoever made it meanwhile had registered it
 * before it ended the making. The caller's making is `fresh`. */
static struct singleton_answer wait_or_make(struct singleton_making *fresh, struct thread *self)
{
    const struct singleton_making *m;
    while ((m = find_making(fresh->name, fresh->length)) != NULL) {
        if (closes_circle(m, self->number))
            return (struct singleton_answer){.kind = SINGLETON_CIRCLE};
        wait_for(m, self);
    }
    struct singleton_answer answer = find_and_own(fresh->name, fresh->length);
    if (answer.kind == SINGLETON_MAKE) {
        fresh->next = makings;
        makings = answer.making = fresh;
    }
    return answer;
}

struct singleton_answer singleton_begin(const char *name, size_t length, struct thread *self)
{
    struct singleton_answer answer = find_and_own(name, length);
    if (answer.kind != SINGLETON_MAKE)
        return answer;
    struct singleton_making *fresh = making_new(name, length, self->number);
    maker_end.run = end_makings;
    if (fresh == NULL || !thread_at_end(self, &maker_end)) {
        free(fresh);
        return (struct singleton_answer){.kind = SINGLETON_NO_MEMORY};
    }
    pthread_mutex_lock(&mutex);
    answer = wait_or_make(fresh, self);
    pthread_mutex_unlock(&mutex);
    if (answer.kind != SINGLETON_MAKE)
        free(fresh);
    return answer;
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

/* ---- fork ---- */

void singleton_fork_begin(void)
{
    pthread_mutex_lock(&mutex);
}

void singleton_fork_end(bool is_child)
{
    if (is_child) {
        struct singleton_making **m = &makings;
        waitings = NULL;
        while (*m != NULL) { /* those of threads that are not there leak */
            if ((*m)->maker == thread_record.number)
                m = &(*m)->next;
            else
                *m = (*m)->next;
        }
    }
    pthread_mutex_unlock(&mutex);
}
