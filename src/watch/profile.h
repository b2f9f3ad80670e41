/*
 * A profile: what Lua code ran in all states and threads of the process while it was taken, by
 * samples (state/sample.h). Every so often the ticker asks each thread that is inside of a state
 * for its stack, and at the next tick adds it up. One profile is taken at a time; the lock of the
 * list of threads guards it until it ends.
 *
 * Kept are distinct frames, distinct stacks of frames, and how long each thread was in each stack.
 * So memory grows with what there is to tell, not with time. The order of samples is not kept.
 */
#ifndef MTSTATES_PROFILE_H
#define MTSTATES_PROFILE_H

#include "intern.h"
#include "state/sample.h"

#include <time.h>

struct profile_options {
    double interval;      /* seconds */
    int depth;            /* functions of a stack, up to SAMPLE_DEPTH_MAX */
    int64_t *subjects;    /* ids of the states and pools that it is confined to; from malloc, the
                             profile's, which sorts them */
    size_t subject_count; /* 0: all states */
};

struct profile_frame {
    int32_t kind;           /* enum sample_kind */
    int32_t defined;        /* of Lua's functions, their first line */
    char text[SAMPLE_TEXT]; /* of Lua's functions their source, else the name */
    /* Of Lua's functions; not in the key: the first name that was seen, unless that was a local one
     * and another came. */
    char name[SAMPLE_TEXT];
    bool is_local;
};

struct profile_stack {
    uint32_t around; /* the stack without its innermost frame; INTERN_NONE: no other is there */
    uint32_t frame;
};

struct profile_thread {
    uint64_t number, id; /* the module's and the system's */
};

/* How long a thread was seen in a stack, and at that line of its innermost function. */
struct profile_time {
    uint32_t thread, stack;
    int32_t line, reserved;
    uint64_t nanoseconds; /* not in the key, nor this: */
    uint64_t samples;
};

struct profile {
    struct profile_options options;
    uint64_t number;             /* no other profile has it */
    unsigned forks;              /* of the process in which it began */
    struct timespec since, last; /* when it began, and threads were last asked */
    int64_t due;                 /* when they are asked next, in nanoseconds since it began */
    uint64_t nanoseconds;        /* from the first to its end */
    uint64_t samples, lost; /* those that were taken; and others, for which there was no memory */
    struct intern frames, stacks, threads, times;
};

enum profile_begun { PROFILE_BEGUN, PROFILE_RUNS, PROFILE_NO_MEMORY };

/* Begins one; takes the options' subjects over in any case. Any thread. */
enum profile_begun profile_begin(const struct profile_options *o);

/* Ends the one that runs, for the caller to free; NULL: none does. Any thread; waits for none. */
struct profile *profile_end(void);

void profile_free(struct profile *p);

/*
 * As text, each for the caller to free; NULL: out of memory. Any thread, as long as `p` is there.
 *
 * folded     a line per stack, frames from the outermost on with semicolons between, then
 *            microseconds: what Brendan Gregg's flamegraph.pl takes, and many others
 * speedscope the JSON of speedscope.app, with a profile per thread
 * pprof      the protocol buffers of google's pprof (its proto/profile.proto), not compressed
 * top        the `count` functions with the most time of their own, for people
 */
char *profile_folded(const struct profile *p, size_t *length);
char *profile_speedscope(const struct profile *p, size_t *length);
char *profile_pprof(const struct profile *p, size_t *length);
char *profile_top(const struct profile *p, size_t count, size_t *length);

#endif
