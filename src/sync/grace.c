#include "grace.h"

_Atomic uint64_t grace_epoch = 1;

/* The writers'; in the order of their stamps. */
static struct retired *first, **last = &first;
static size_t count, look_at; /* so many wait; at so many it is worth to look */

void grace_retire(struct retired *r, void (*destroy)(struct retired *))
{
    r->next = NULL;
    r->destroy = destroy;
    r->stamp = atomic_load_explicit(&grace_epoch, memory_order_relaxed);
    atomic_store_explicit(&grace_epoch, r->stamp + 1, memory_order_release); /* G1 */
    *last = r;
    last = &r->next;
    count++;
}

/* The earliest epoch in which a thread reads. */
static uint64_t earliest_reading(void)
{
    uint64_t earliest = UINT64_MAX;
    atomic_thread_fence(memory_order_seq_cst); /* G4 */
    for (struct thread_entry *t = thread_first_locked(); t != NULL; t = t->next) {
        uint64_t reading = atomic_load_explicit(&t->reading, memory_order_acquire); /* G6 */
        if (reading != 0 && reading < earliest)
            earliest = reading;
    }
    thread_unlock();
    return earliest;
}

struct retired *grace_take(void)
{
    struct retired *taken = first, **end = &taken;
    if (count == 0 || count < look_at)
        return NULL;
    uint64_t earliest = earliest_reading();
    while (*end != NULL && (*end)->stamp < earliest) {
        end = &(*end)->next;
        count--;
    }
    first = *end;
    if (first == NULL)
        last = &first;
    *end = NULL;
    look_at = count + thread_count() / 4;
    return taken;
}

void grace_destroy(struct retired *r)
{
    while (r != NULL) {
        struct retired *next = r->next;
        r->destroy(r);
        r = next;
    }
}
