/*
 * How often something took how long, by powers of two: count i is of what took at most 2^i us, and
 * more than half of that; the last one, of all that took longer. Up to 2^31 us, 36 minutes.
 */
#ifndef MTSTATES_HISTOGRAM_H
#define MTSTATES_HISTOGRAM_H

#include "count.h"

enum { HISTOGRAM_COUNTS = 33 };

/* Written by one thread at a time, read by everybody; relaxed. */
struct histogram {
    _Atomic uint64_t counts[HISTOGRAM_COUNTS];
};

static inline void histogram_add(struct histogram *h, uint64_t nanoseconds)
{
    uint64_t us = (nanoseconds + 999) / 1000;
    unsigned i = us <= 1 ? 0 : 64 - (unsigned)__builtin_clzll(us - 1);
    count_add(&h->counts[i < HISTOGRAM_COUNTS ? i : HISTOGRAM_COUNTS - 1], 1);
}

#endif
