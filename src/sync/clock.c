#include "clock.h"

#define NS_PER_SECOND 1000000000L

struct timespec clock_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now;
}

struct timespec clock_after(double seconds)
{
    struct timespec t = clock_now();
    time_t whole = (time_t)seconds;
    t.tv_sec += whole;
    t.tv_nsec += (long)((seconds - (double)whole) * NS_PER_SECOND);
    if (t.tv_nsec >= NS_PER_SECOND) {
        t.tv_sec++;
        t.tv_nsec -= NS_PER_SECOND;
    }
    return t;
}

int64_t clock_elapsed_ns(const struct timespec *start, const struct timespec *end)
{
    return (int64_t)(end->tv_sec - start->tv_sec) * NS_PER_SECOND + (end->tv_nsec - start->tv_nsec);
}
