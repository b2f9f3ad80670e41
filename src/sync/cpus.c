#if defined(__linux__)
#define _GNU_SOURCE /* sched_getaffinity */
#include <sched.h>
#endif

#include "cpus.h"

#include <unistd.h>

unsigned cpus_count(void)
{
#if defined(__linux__)
    cpu_set_t allowed; /* the kernel refuses it where there are more CPUs than it has room for */
    if (sched_getaffinity(0, sizeof allowed, &allowed) == 0)
        return (unsigned)CPU_COUNT(&allowed);
#endif
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    return online > 0 ? (unsigned)online : 1;
}
