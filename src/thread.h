/*
 * What the module knows of an OS thread: a number for ownership words and how much C stack is left.
 * Nobody announces threads; a thread gets its record when it first comes by.
 */
#ifndef MTSTATES_THREAD_H
#define MTSTATES_THREAD_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Thread numbers are multiples of this: an ownership word keeps its flags in the bits below. */
#define THREAD_NUMBER_STEP 8u

/*
 * States that one thread may be inside of at a time. Lua allows 200 C calls in one state
 * (LUAI_MAXCCALLS in its llimits.h); this is the same figure for states inside states.
 */
#define THREAD_DEPTH_MAX 200u

struct thread {
    uint64_t number;      /* never given twice in a process; 0: this record is not filled in yet */
    uintptr_t stack_low;  /* lowest address of the C stack; 0: unknown */
    size_t stack_reserve; /* bytes above stack_low that no further state may start in */
    unsigned depth;       /* states that this thread is inside of */
};

/*
 * The thread's own variable, so nobody else reads or writes it. Initial-exec saves a function call
 * per access; glibc keeps room for such variables of modules loaded late, musl does not.
 */
#if defined(__GLIBC__)
#define THREAD_LOCAL_MODEL __attribute__((tls_model("initial-exec")))
#else
#define THREAD_LOCAL_MODEL
#endif
extern _Thread_local struct thread thread_record THREAD_LOCAL_MODEL;

/* Fills in the calling thread's record. */
void thread_begin(void);

static inline struct thread *thread_self(void)
{
    if (__builtin_expect(thread_record.number == 0, 0))
        thread_begin();
    return &thread_record;
}

/* What a part of the module has to do when a thread ends, however it ends. A static variable. */
struct thread_watch {
    void (*end)(void *value);
    pthread_key_t key;  /* made when first needed, since the system has few */
    _Atomic bool ready; /* written with release, once `key` is there; read with acquire */
};

/*
 * Has `w->end(value)` called when the calling thread ends; NULL: not any more. `end` may use the
 * module, and may watch again. False: out of memory.
 */
bool thread_watch_end(struct thread_watch *w, const void *value);

/*
 * Whether the calling thread has C stack for code of one more state. The difference is unsigned, so
 * a C stack that is not the thread's own (a C coroutine's) passes.
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
