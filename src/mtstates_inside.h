/*
 * Which states a thread is inside of, for profilers and debuggers that look at the process from
 * outside: from the thread's `mtstates_current` to the innermost state, and from each to the one
 * around it. Plain memory that only the thread itself writes, so look while it stands still: in a
 * signal's handler, under ptrace, in a core. A stay writes it where it begins and ends.
 */
#ifndef MTSTATES_INSIDE_H
#define MTSTATES_INSIDE_H

#include <stddef.h>
#include <stdint.h>

#if defined(__cplusplus)
extern "C" {
#endif

/* Of what stands here; other fields may come at the end. */
#define MTSTATES_INSIDE_VERSION 1

/* A state. */
struct mtstates_inside {
    uint32_t version; /* MTSTATES_INSIDE_VERSION of the module */
    uint32_t reserved;
    int64_t id;
    const char *name;                     /* NULL: none; else with a zero after it */
    size_t name_length;                   /* there may be zeros in it, too */
    struct lua_State *main;               /* its main coroutine */
    const struct mtstates_inside *around; /* NULL: the thread is inside of no other */
};

struct mtstates_thread {
    const struct mtstates_inside *innermost; /* NULL: the thread is inside of none */
};

/* NULL: the thread never used the module. */
extern __attribute__((
    visibility("default"),
    tls_model("initial-exec"))) __thread const struct mtstates_thread *mtstates_current;

#if defined(__cplusplus)
}
#endif

#endif
