/*
 * Static probes for profilers (perf, bpftrace, SystemTap), as <sys/sdt.h> makes them: a no-op
 * instruction and a note in the ELF file. Each has the state's id and its name (NULL: none):
 * call_enter and call_leave round a callback, call_refused, state_make, state_close. Only stays use
 * them.
 */
#ifndef MTSTATES_PROBE_H
#define MTSTATES_PROBE_H

#if MTSTATES_PROBES
#include <sys/sdt.h>
#define PROBE_STATE(event, s)                                                                      \
    DTRACE_PROBE2(mtstates, event, (long long)(s)->record.id, (s)->record.name)
#else
#define PROBE_STATE(event, s) ((void)(s))
#endif

#endif
