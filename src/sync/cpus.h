#ifndef MTSTATES_CPUS_H
#define MTSTATES_CPUS_H

/* The CPUs that this process may use, 1 or more. */
unsigned cpus_count(void);

#endif
