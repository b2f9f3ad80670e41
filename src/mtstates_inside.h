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

/*
 * Where a debugger finds the same without asking for a thread's own variables, which it cannot in a
 * core: a list of all threads that use the module, and what stands where, in bytes. src/
 * mtstates-gdb.py reads it.
 */
struct mtstates_layout {
    uint32_t version;          /* MTSTATES_INSIDE_VERSION */
    int32_t thread_next;       /* in a thread's entry: the next one, NULL: none, */
    int32_t thread_id;         /* the system's number of the thread, a pid_t (Linux), */
    int32_t thread_inside;     /* and a struct mtstates_thread */
    int32_t inside_running;    /* from a struct mtstates_inside on: the coroutine that runs, */
    int32_t inside_resumed;    /* and the innermost one that waits for one that it resumed */
    int32_t resumed_coroutine; /* in such: the coroutine, */
    int32_t resumed_before;    /* and the one before it, NULL: none */
    const void *const *first_thread; /* points to the list's first entry */
};

extern __attribute__((visibility("default"))) const struct mtstates_layout mtstates_layout;

#if defined(__cplusplus)
}
#endif

#endif
