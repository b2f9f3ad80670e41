/* What the C tests share: checks that work in any thread, seeded random numbers, a time budget. */
#ifndef MTSTATES_TEST_CHECK_H
#define MTSTATES_TEST_CHECK_H

#include <inttypes.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: failed: %s\n", __FILE__, __LINE__, #condition);                \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

/* xorshift64* (Sebastiano Vigna, 2014); a state per thread, never 0. */
static inline uint64_t random_next(uint64_t *state)
{
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return *state * 0x2545f4914f6cdd1du;
}

static inline uint64_t random_below(uint64_t *state, uint64_t bound)
{
    return random_next(state) % bound;
}

/* From MTSTATES_TEST_SEED, or new; printed, so that a run can be had again. */
static inline uint64_t test_seed(void)
{
    const char *given = getenv("MTSTATES_TEST_SEED");
    uint64_t seed =
        given ? strtoull(given, NULL, 0) : (uint64_t)time(NULL) << 20 ^ (uint64_t)getpid();
    printf("MTSTATES_TEST_SEED=0x%" PRIx64 "\n", seed);
    return seed ? seed : 1;
}

/* Seconds that a stress test may take, from MTSTATES_TEST_SECONDS; short by default. */
static inline double test_seconds(void)
{
    const char *given = getenv("MTSTATES_TEST_SECONDS");
    return given ? strtod(given, NULL) : 1.5;
}

static inline double test_seconds_of(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static inline double test_clock(void)
{
    return test_seconds_of(CLOCK_MONOTONIC);
}

/* The processor's time that the calling thread has had. */
static inline double test_thread_clock(void)
{
    return test_seconds_of(CLOCK_THREAD_CPUTIME_ID);
}

/* One more than there are CPUs. */
static inline int test_threads(void)
{
    return (int)sysconf(_SC_NPROCESSORS_ONLN) + 1;
}

#endif
