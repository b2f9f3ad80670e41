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

/* Odd. Written by registry_init before anything is hashed, as another one in each process. */
extern uint64_t random_multiplier;

/*
 * Of an address, as lua_topointer gives it: those of neighbours differ in few bits, which the
 * product spreads over its upper half. Cheaper than random_hash, and enough for what code can
 * choose: which of its objects to keep, by addresses that it knows.
 */
static inline uint32_t random_hash_address(const void *address)
{
    return (uint32_t)(((uint64_t)(uintptr_t)address * random_multiplier) >> 32);
}

#endif
