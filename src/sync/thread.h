/*
 * What the module knows of an OS thread: a number for ownership words, how much C stack is left,
 * what it is inside of, what there is to do when it ends. Nobody announces threads; a thread gets
 * its record when it first comes by.
 *
 * The record is the thread's own variable. What others have to reach is apart from it, in an entry
 * of a list: to send the thread a signal (thread_signal.h), or to see whether it reads the registry
 * (grace.h). So nobody ever looks at memory that goes with a thread. The entry goes when the thread
 * ends; if that happens where no end can be seen, in the last destructor of another variable of the
 * thread's, it goes when somebody finds that there is no such thread.
 *
 * Without memory for an entry a thread can do all that others do, but no interrupt reaches an
 * endless loop there; the next look-up or making tries again.
 */
#ifndef MTSTATES_THREAD_H
#define MTSTATES_THREAD_H

#include "mtstates_inside.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct time_limits;
struct sample_slot;

/* Thread numbers are multiples of this: an ownership word keeps its flags in the bits below. */
#define THREAD_NUMBER_STEP 8u

/*
 * States that one thread may be inside of at a time. Lua allows 200 C calls in one state
 * (LUAI_MAXCCALLS in its llimits.h); this is the same figure for states inside states.
 */
#define THREAD_DEPTH_MAX 200u

/* What a thread has to look at before the next operation of Lua. */
enum thread_pending {
    PENDING_LIMIT = 1, /* a time limit is to strike: state/time_limit.h */
    PENDING_SAMPLE = 2 /* a sample is to be finished: state/sample.h; set by the handler */
};

/*
 * Where a thread is: its own and its signal handler's. But of `inside.innermost` the ticker reads
 * whether there is one, relaxed; and in `pending` it sets PENDING_LIMIT.
 */
struct thread_place {
    struct mtstates_thread inside; /* the states that it is inside of */
    _Atomic int pending;           /* enum thread_pending, or several */
};

/* Something to do when a thread ends, however it ends. `run` may use the module. */
struct thread_end {
    struct thread_end *next;
    void (*run)(struct thread_end *);
    bool listed;
};

/* What others know of a thread. The padding keeps its line apart from those of other threads. */
struct thread_entry {
    char before[64];

    /*
     * The registry's epoch in which the thread began to read, 0 while it does not. Written by the
     * thread, read by writers; see grace.h.
     */
    _Atomic uint64_t reading;

    /* See state/time_limit.h. NULL: it never was in a state with such a limit. */
    struct time_limits *_Atomic limits;

    /* See state/sample.h. NULL: its stack was never sampled. */
    struct sample_slot *_Atomic sample;

    struct thread_place place;

    uint64_t number;
#if defined(__linux__)
    pid_t id; /* the system's: it tells when there is no such thread */
#else
    pthread_t id;
    _Atomic bool signalled; /* set by whoever sends the signal; taken by the thread's handler */
#endif
    struct thread_entry *next, *previous; /* the list's lock guards these */
    char after[64];
};

struct thread {
    uint64_t number;      /* never given twice in a process; 0: this record is not filled in yet */
    uintptr_t stack_low;  /* lowest address of the C stack */
    size_t stack_reserve; /* bytes above stack_low that nothing further may start in */
    unsigned depth;       /* stays that it is in */
    struct thread_place *place; /* the entry's, or this one: */
    struct thread_place unlisted;
    struct time_limits *limits; /* the entry's */
    struct thread_end *ends;
    struct thread_entry *entry; /* NULL: not listed */
};

/*
 * The thread's own variable. Initial-exec saves a function call per access; glibc keeps room for
 * such variables of modules loaded late, musl does not.
 */
#if defined(__GLIBC__)
#define THREAD_LOCAL_MODEL __attribute__((tls_model("initial-exec")))
#else
#define THREAD_LOCAL_MODEL
#endif
extern _Thread_local struct thread thread_record THREAD_LOCAL_MODEL;

/* Fills in the calling thread's record, and lists it if there is memory for that. */
void thread_begin(void);

static inline struct thread *thread_self(void)
{
    if (__builtin_expect(thread_record.number == 0, 0))
        thread_begin();
    return &thread_record;
}

/* Lists the calling thread if it is not yet. False: no memory. */
bool thread_list(struct thread *self);

/* The calling thread's entry, or NULL; also in a signal handler. */
struct thread_entry *thread_entry_here(void);

/* Has `e` run once when the calling thread ends. False: no memory. */
bool thread_at_end(struct thread *self, struct thread_end *e);

/* The calling thread takes that back. */
void thread_not_at_end(struct thread *self, struct thread_end *e);

/*
 * Entries stay listed between these two, in any thread; no thread ends meanwhile, so keep it short.
 * `thread_first_locked` gives one of them, their `next` the one after.
 */
struct thread_entry *thread_first_locked(void);
void thread_unlock(void);

/* Between the two: there is no such thread any more. */
void thread_drop(struct thread_entry *e);

/* Has `drop(slot)` called with the slot of an entry that goes, under the lock. Always the same. */
void thread_at_drop(void (*drop)(struct sample_slot *slot));

/* The first entry, the list's lock's: for debuggers (watch/layout.c). */
extern struct thread_entry *thread_first;

/* How many are listed; to anybody who holds no lock an estimate. */
unsigned thread_count(void);

/* The forks that led to this process, since the module was loaded. */
unsigned thread_forks(void);

/* Round a fork: in the child, only the thread that called it is left. */
void thread_fork_begin(void);
void thread_fork_end(bool is_child);

/*
 * Whether the calling thread has C stack for Lua code that counts its C calls from zero: a state,
 * or a coroutine that is closed. The difference is unsigned, so a C stack that is not the thread's
 * own (a C coroutine's) passes.
 */
static inline bool thread_has_stack(const struct thread *t)
{
    uintptr_t here = (uintptr_t)__builtin_frame_address(0);
    return here - t->stack_low >= t->stack_reserve;
}

/* Whether the calling thread may enter one more state. */
static inline bool thread_may_nest(const struct thread *t)
{
    return t->depth < THREAD_DEPTH_MAX && thread_has_stack(t);
}

#endif
