/*
 * Grace periods: what a writer has unlinked is freed when no reader can look at it any more.
 * Readers take no lock and wait for nobody.
 *
 * A reader notes the epoch in which it begins (struct thread_entry, `reading`), and 0 when it has
 * done. A writer unlinks, stamps what it has unlinked with the epoch, and begins the next one. Who
 * reads in a later epoch than the stamp began after the unlinking and cannot meet it; so it may go
 * when no thread reads in that epoch or an earlier one.
 *
 * `epoch` is written by writers, who keep each other out (release, G1), and read by readers
 * (acquire, G2): who sees the new epoch sees what was unlinked before.
 *
 * `reading` is written by its thread: at the beginning before it looks at anything, and the fence
 * G3 between pairs with the writer's fence G4 between unlinking and looking at `reading`: either
 * the writer sees the reader, or the reader sees that it is unlinked. At the end with release (G5);
 * the writer's acquire (G6) puts the reader's last look before the free.
 *
 * Only listed threads may read so. The cost of looking at all threads is spread: a writer looks
 * when so many more things are waiting than last time as a fourth of the threads that live; threads
 * that are gone cost nothing. The idea is that of epoch-based reclamation (Keir Fraser, 2004);
 * ck_epoch is not used since it never lets go of the record of a thread that is gone.
 */
#ifndef MTSTATES_GRACE_H
#define MTSTATES_GRACE_H

#include "thread.h"

/* Embedded in what is retired. */
struct retired {
    struct retired *next;
    void (*destroy)(struct retired *);
    uint64_t stamp;
};

extern _Atomic uint64_t grace_epoch;

static inline void grace_begin(struct thread_entry *self)
{
    uint64_t now = atomic_load_explicit(&grace_epoch, memory_order_acquire); /* G2 */
    atomic_store_explicit(&self->reading, now, memory_order_relaxed);
    atomic_thread_fence(memory_order_seq_cst); /* G3 */
}

static inline void grace_end(struct thread_entry *self)
{
    atomic_store_explicit(&self->reading, 0, memory_order_release); /* G5 */
}

/* Writers, one at a time: `r` is unlinked, and `destroy` is to be called when nobody looks. */
void grace_retire(struct retired *r, void (*destroy)(struct retired *));

/* Writers, one at a time: takes those whose time has come, to be destroyed by grace_destroy. */
struct retired *grace_take(void);

/* Whoever took them, with no lock held. */
void grace_destroy(struct retired *first);

#endif
