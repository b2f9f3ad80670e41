/*
 * A text that grows.
 */
#ifndef MTSTATES_TEXT_H
#define MTSTATES_TEXT_H

#include <stdbool.h>
#include <stddef.h>

/* All 0 at first. */
struct text {
    char *bytes;
    size_t length, room;
    bool failed; /* out of memory; nothing is added any more */
};

void text_add(struct text *t, const void *bytes, size_t length);

/* Of less than 256 bytes. */
void text_print(struct text *t, const char *format, ...) __attribute__((format(printf, 2, 3)));

/*
 * In quotation marks; these, backslashes and new lines each after a backslash, as JSON and
 * Prometheus have it. Other control characters, and bytes that are no UTF-8, are written as
 * `\xNN`, whose backslash is one of the text: `\\xNN`.
 */
void text_add_quoted(struct text *t, const char *bytes, size_t length);

/* As UTF-8 without control characters: what is none of that is written as `\xNN`. */
void text_add_clean(struct text *t, const char *bytes, size_t length);

/* The bytes, for the caller to free, and how many; NULL: there was no memory. */
char *text_end(struct text *t, size_t *length);

#endif
