/*
 * Static probes for profilers (perf, bpftrace, SystemTap), as <sys/sdt.h> makes them: a no-op
 * instruction and a note in the ELF file. Each has the id and the name (NULL: none) of a state, or
 * where it says so of a pool:
 *
 * - state_make, state_close
 * - call_enter, call_leave: round a callback; besides its lua_State, and how many calls the state
 *   has had before this one
 * - call_refused: of a call that did not wait, or waited in vain
 * - wait_begin, wait_end: of a call that waits, for a state or for a pool
 * - error: a callback has ended by one
 * - interrupt, time_limit: has struck
 * - memory_limit: a callback has ended by it
 *
 * Arguments are added at the end only, so that scripts stay right.
 */
#ifndef MTSTATES_PROBE_H
#define MTSTATES_PROBE_H

#if MTSTATES_PROBES
#include <sys/sdt.h>
#define PROBE_RECORD(event, r) DTRACE_PROBE2(mtstates, event, (long long)(r)->id, (r)->name)
#define PROBE_CALL(event, s, L)                                                                    \
    DTRACE_PROBE4(mtstates, event, (long long)(s)->record.id, (s)->record.name, L,                 \
                  (long long)atomic_load_explicit(&(s)->counters.calls, memory_order_relaxed))
#else
#define PROBE_RECORD(event, r) ((void)(r))
#define PROBE_CALL(event, s, L) ((void)(s), (void)(L))
#endif

#define PROBE_STATE(event, s) PROBE_RECORD(event, &(s)->record)

#endif
