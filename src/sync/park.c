#if defined(__linux__)
#define _GNU_SOURCE /* syscall */
#endif

#include "park.h"

#include "clock.h"

#if defined(__linux__)
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

/* FUTEX_WAIT_BITSET takes an absolute time of the monotonic clock. */
static void word_wait(_Atomic uint32_t *word, const struct timespec *deadline)
{
    syscall(SYS_futex, word, FUTEX_WAIT_BITSET_PRIVATE, 0, deadline, NULL, FUTEX_BITSET_MATCH_ANY);
}

static void word_wake(_Atomic uint32_t *word)
{
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

#elif defined(__APPLE__)
#include <os/clock.h>
#include <os/os_sync_wait_on_address.h>

/* macOS 14.4 has futexes by another name, with relative times. */
static void word_wait(_Atomic uint32_t *word, const struct timespec *deadline)
{
    if (deadline == NULL) {
        os_sync_wait_on_address(word, 0, sizeof *word, OS_SYNC_WAIT_ON_ADDRESS_NONE);
        return;
    }
    struct timespec now = clock_now();
    int64_t left = clock_elapsed_ns(&now, deadline);
    if (left > 0)
        os_sync_wait_on_address_with_timeout(word, 0, sizeof *word, OS_SYNC_WAIT_ON_ADDRESS_NONE,
                                             OS_CLOCK_MACH_ABSOLUTE_TIME, (uint64_t)left);
}

static void word_wake(_Atomic uint32_t *word)
{
    os_sync_wake_by_address_any(word, sizeof *word, OS_SYNC_WAKE_BY_ADDRESS_NONE);
}

#else
#error "park.c knows the futexes of Linux and macOS only"
#endif

bool park_wait(struct park *p, const struct timespec *deadline)
{
    while (atomic_load_explicit(&p->signal, memory_order_acquire) == 0) {
        if (deadline != NULL) {
            struct timespec now = clock_now();
            if (clock_elapsed_ns(&now, deadline) <= 0)
                return false;
        }
        word_wait(&p->signal, deadline);
    }
    return true;
}

void park_wake(struct park *p)
{
    atomic_store_explicit(&p->signal, 1, memory_order_release);
    word_wake(&p->signal);
}
