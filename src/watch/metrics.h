/*
 * All that is counted as text for Prometheus, in its text format 0.0.4
 * (https://prometheus.io/docs/instrumenting/exposition_formats/), and with the "# EOF" of
 * OpenMetrics at its end. OpenMetrics itself wants counters' types without "_total" in the name,
 * which `promtool check metrics` takes for metrics without a type.
 */
#ifndef MTSTATES_METRICS_H
#define MTSTATES_METRICS_H

#include <stdbool.h>
#include <stddef.h>

/*
 * The text, for the caller to free; NULL: out of memory. `by_name`: states in no pool each under
 * its name. Any thread; takes no lock that callers meet, but that of each pool's queue for a
 * moment.
 */
char *metrics_text(bool by_name, size_t *length);

#endif
