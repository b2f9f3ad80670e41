#if defined(__linux__)
#define _DEFAULT_SOURCE /* getentropy */
#endif

#include "random.h"

#include "clock.h"

#include <string.h>
#include <unistd.h>

#if defined(__APPLE__)
#include <sys/random.h> /* getentropy */
#endif

uint64_t random_multiplier = 1;

static inline uint64_t rotate(uint64_t x, int bits)
{
    return x << bits | x >> (64 - bits);
}

struct sip {
    uint64_t v0, v1, v2, v3;
};

static inline void sip_round(struct sip *s)
{
    s->v0 += s->v1;
    s->v2 += s->v3;
    s->v1 = rotate(s->v1, 13) ^ s->v0;
    s->v3 = rotate(s->v3, 16) ^ s->v2;
    s->v0 = rotate(s->v0, 32);
    s->v2 += s->v1;
    s->v0 += s->v3;
    s->v1 = rotate(s->v1, 17) ^ s->v2;
    s->v3 = rotate(s->v3, 21) ^ s->v0;
    s->v2 = rotate(s->v2, 32);
}

static inline void sip_add(struct sip *s, uint64_t word)
{
    s->v3 ^= word;
    sip_round(s);
    s->v0 ^= word;
}

/* In the machine's byte order: the hash never leaves the process. */
static inline uint64_t word_at(const unsigned char *bytes, size_t length)
{
    uint64_t word = 0;
    memcpy(&word, bytes, length);
    return word;
}

uint64_t random_hash(const struct random_key *key, const void *bytes, size_t length)
{
    const unsigned char *at = bytes;
    struct sip s = {key->low ^ 0x736f6d6570736575u, key->high ^ 0x646f72616e646f6du,
                    key->low ^ 0x6c7967656e657261u, key->high ^ 0x7465646279746573u};
    for (size_t left = length; left >= 8; left -= 8, at += 8)
        sip_add(&s, word_at(at, 8));
    sip_add(&s, word_at(at, length % 8));
    sip_add(&s, length);
    s.v2 ^= 0xff;
    sip_round(&s);
    sip_round(&s);
    sip_round(&s);
    return s.v0 ^ s.v1 ^ s.v2 ^ s.v3;
}

struct random_key random_key_new(void)
{
    struct random_key key;
    if (getentropy(&key, sizeof key) == 0)
        return key;
    struct timespec now = clock_now();
    key.low = (uint64_t)now.tv_nsec << 32 ^ (uint64_t)now.tv_sec;
    key.high = (uint64_t)(uintptr_t)&key ^ (uint64_t)getpid() << 48;
    return key;
}
