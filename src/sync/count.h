/*
 * Counts that one thread writes at a time and everybody reads; relaxed, each is a number for
 * itself.
 */
#ifndef MTSTATES_COUNT_H
#define MTSTATES_COUNT_H

#include <stdatomic.h>
#include <stdint.h>

/* By the one who writes it. */
static inline void count_add(_Atomic uint64_t *count, uint64_t more)
{
    uint64_t before = atomic_load_explicit(count, memory_order_relaxed);
    atomic_store_explicit(count, before + more, memory_order_relaxed);
}

#endif
