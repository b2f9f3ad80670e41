/*
 * A place where one thread sleeps until another wakes it: a futex word.
 *
 * `signal` is 0 while nobody has woken the sleeper, 1 after. The waker stores 1 (release) and then
 * wakes; the sleeper loads it (acquire) before it sleeps, and the kernel compares it once more
 * under its own lock, so a wake between the two is not lost.
 */
#ifndef MTSTATES_PARK_H
#define MTSTATES_PARK_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct timespec;

struct park {
    _Atomic uint32_t signal;
};

/* Forgets an earlier wake. Only while no waker can reach the park (both hold the same lock). */
static inline void park_reset(struct park *p)
{
    atomic_store_explicit(&p->signal, 0, memory_order_relaxed);
}

/*
 * Sleeps until park_wake or until the monotonic clock has reached `deadline` (NULL: no limit).
 * False: the time is up and nobody called. Burns no CPU; no cancellation point.
 */
bool park_wait(struct park *p, const struct timespec *deadline);

void park_wake(struct park *p);

#endif
