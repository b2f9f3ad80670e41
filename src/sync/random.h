/* Numbers that nobody outside of the process can foresee, and hashes that depend on them. */
#ifndef MTSTATES_RANDOM_H
#define MTSTATES_RANDOM_H

#include <stddef.h>
#include <stdint.h>

struct random_key {
    uint64_t low, high;
};

/* A new key, from the system's random source; if that fails, from clocks and addresses. */
struct random_key random_key_new(void);

/*
 * SipHash-1-3 of the bytes (Jean-Philippe Aumasson and Daniel J. Bernstein, 2012; one and three
 * rounds as hash tables use it; the length is a word of its own): who does not know the key cannot
 * choose bytes that collide.
 */
uint64_t random_hash(const struct random_key *key, const void *bytes, size_t length);

#endif
