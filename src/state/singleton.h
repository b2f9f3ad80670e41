/*
 * At most one thread at a time makes the singleton of a name; others that ask for it wait.
 *
 * A slow path with one lock for all names, under which nothing waits and no Lua code runs. Who
 * waits for whom is known under that lock, so a circle of makers is found before the last one
 * closes it.
 */
#ifndef MTSTATES_SINGLETON_H
#define MTSTATES_SINGLETON_H

#include "state.h"

enum singleton {
    SINGLETON_FOUND,     /* `found` has a reference and an owner more, the caller's */
    SINGLETON_MAKE,      /* the caller makes it, and then calls singleton_end with `making` */
    SINGLETON_AMBIGUOUS, /* two living states bear the name */
    SINGLETON_CIRCLE,    /* the caller's thread is making it, or is waited for by who is */
    SINGLETON_NO_MEMORY
};

struct singleton_making;

struct singleton_answer {
    enum singleton kind;
    struct state *found;
    struct singleton_making *making;
};

/* Finds the living state of that name, waits while one is made, or puts the caller in charge. */
struct singleton_answer singleton_begin(const char *name, size_t length, struct thread *self);

/* Made, or failed: who waited looks again, and if it failed one of them is in charge. */
void singleton_end(struct singleton_making *making);

/* Round a fork: in the child nothing is in the making but what the calling thread makes. */
void singleton_fork_begin(void);
void singleton_fork_end(bool is_child);

#endif
