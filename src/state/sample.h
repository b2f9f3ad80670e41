/*
 * Samples of what a thread runs: its Lua stack, state by state. The ticker asks a thread for one
 * (watch/profile.h) that it sees inside of a state, by a signal. A signal's handler may not look at
 * a Lua stack, which may just be changing. So it notes the states that the thread is inside of, and
 * the thread itself copies the stacks at the next place where they are whole: in the hook of
 * interrupts (interrupt.c), at an operation, a call or a return; or before it enters another state
 * or coroutine. So nobody looks at the stack of a thread that runs, and nothing is kept of a state
 * that may close.
 *
 * A thread may leave before that: then the sample shows states only. It may even have left before
 * the signal arrives, which some virtual machines let happen at system calls only: then the sample
 * is owed, and shows the state that the ticker saw if the thread enters that next.
 *
 * Each thread has one slot, until it ends, whose stage says who may write it:
 *
 * - SAMPLE_EMPTY: the ticker, which asks: SAMPLE_WANTED.
 * - SAMPLE_WANTED: nobody. The thread's handler takes it: SAMPLE_TAKING; or who ends the profile
 *   takes it back: SAMPLE_EMPTY.
 * - SAMPLE_TAKING: the thread. When it has written: SAMPLE_HELD, SAMPLE_TAKEN, or SAMPLE_EMPTY.
 * - SAMPLE_HELD: the thread. It has the states, or none; PENDING_SAMPLE says that more is to come.
 * - SAMPLE_TAKEN: the ticker, or who ends the profile, or the thread, under the list's lock. When
 *   it was read: SAMPLE_EMPTY.
 *
 * Each step is a release, and who takes over acquires. What keeps a thread longer than a tick, C
 * code for one, adds to the weight of the sample that is already wanted; so no slot overflows.
 */
#ifndef MTSTATES_SAMPLE_H
#define MTSTATES_SAMPLE_H

#include "sync/thread.h"

#include <lua.h>

enum sample_stage { SAMPLE_EMPTY, SAMPLE_WANTED, SAMPLE_TAKING, SAMPLE_HELD, SAMPLE_TAKEN };

enum sample_kind {
    SAMPLE_FUNCTION,   /* of Lua */
    SAMPLE_MAIN,       /* main chunk */
    SAMPLE_C_FUNCTION, /* or one whose name is all that is known */
    SAMPLE_DEEPER,     /* there are more than were asked for */
    SAMPLE_STATE,      /* all before is in this state */
    SAMPLE_POOL        /* the same, in a member of this pool */
};

/* Texts are cut where they are too long, and end with a zero. */
enum { SAMPLE_TEXT = 60 };

struct sample_frame {
    char kind;                /* enum sample_kind */
    int32_t defined, line;    /* of functions: the first line, and the one that runs */
    char source[SAMPLE_TEXT]; /* of Lua's functions, as Lua shows it in messages */
    char name[SAMPLE_TEXT];   /* "": none */
    bool is_local;            /* the name is that of a variable, perhaps a parameter */
    int64_t state, pool;      /* ids, of SAMPLE_STATE and SAMPLE_POOL */
};

/* Functions of one sample, at most. */
#define SAMPLE_DEPTH_MAX 200

struct interrupt;
struct state;

struct sample_slot {
    _Atomic int stage;            /* enum sample_stage */
    _Atomic uint64_t nanoseconds; /* since it is wanted; the ticker adds, the thread reads */
    /* The ticker's, written before it asks: */
    uint64_t profile;           /* which one asks */
    uint64_t thread, thread_id; /* whose slot it is: the module's number, and the system's */
    int depth;                  /* so many functions, SAMPLE_DEPTH_MAX at most */
    unsigned looks;             /* since then */
    const struct mtstates_inside *seen; /* the innermost state; only to be compared */
    /* The thread's, until it is taken: */
    const struct mtstates_inside *held; /* the innermost state as the signal came; NULL: owed */
    uint64_t weight;                    /* nanoseconds */
    int count;
    struct sample_frame frames[SAMPLE_DEPTH_MAX + 2 * THREAD_DEPTH_MAX]; /* innermost first */
};

/* The thread: whether a sample is held. */
static inline bool sample_is_pending(void)
{
    return atomic_load_explicit(&thread_record.place->pending, memory_order_relaxed) &
           PENDING_SAMPLE;
}

/* In the handler of a thread that is inside of these states; NULL: of none. */
void sample_hold(const struct mtstates_inside *innermost);

/* The thread, which runs coroutine `L` of the state with that interrupt: gives the sample that is
 * held, if there is one, with the functions from that level on. Pushes nothing on `L`, which may
 * have no room. */
void sample_take(struct interrupt *i, lua_State *L, int level);

/* The thread, which has just entered that state: the same, of what was before. */
void sample_leave(struct state *entered);

#endif
