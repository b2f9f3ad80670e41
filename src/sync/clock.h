/* The monotonic clock. */
#ifndef MTSTATES_CLOCK_H
#define MTSTATES_CLOCK_H

#include <stdint.h>
#include <time.h>

/* Now, and `seconds` (0 to 1e9) later. */
struct timespec clock_now(void);
struct timespec clock_after(double seconds);

/* Nanoseconds from `start` to `end`. */
int64_t clock_elapsed_ns(const struct timespec *start, const struct timespec *end);

#endif
