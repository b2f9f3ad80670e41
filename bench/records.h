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

/* Looks up `n` ids, `step` apart in the order of their making, and drops the references. */
void records_find(size_t n, size_t step);

void records_remove(void);

#ifdef __cplusplus
}
#endif

#endif
