/*
 * The registry of src without interpreters behind its records, for C++, which does not know C's
 * atomics. One population at a time.
 */
#ifndef MTSTATES_BENCH_RECORDS_H
#define MTSTATES_BENCH_RECORDS_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Registers `count` records without names. 0: out of memory. */
int records_make(size_t count);

/* Looks up `n` ids, random ones or the first, and drops the references. */
void records_find(size_t n, int at_random);

void records_remove(void);

/* A ring of `count` blocks in random order, which a look-up can be compared with: from each to the
 * next go two memory accesses, into an array and into the block, one after the other. 0: out of
 * memory. */
int stops_make(size_t count);

/* Goes on by `n` blocks. */
size_t stops_follow(size_t n);

void stops_remove(void);

#ifdef __cplusplus
}
#endif

#endif
