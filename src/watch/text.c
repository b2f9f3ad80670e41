#include "text.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool make_room(struct text *t, size_t more)
{
    if (t->failed || t->room - t->length > more)
        return !t->failed;
    size_t room = 2 * (t->room + more) + 1024;
    char *bytes = realloc(t->bytes, room);
    t->failed = bytes == NULL;
    if (t->failed)
        return false;
    t->bytes = bytes;
    t->room = room;
    return true;
}

void text_add(struct text *t, const void *bytes, size_t length)
{
    if (!make_room(t, length))
        return;
    memcpy(t->bytes + t->length, bytes, length);
    t->length += length;
}

void text_print(struct text *t, const char *format, ...)
{
    char line[256];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    text_add(t, line, (size_t)length);
}

/* How many bytes of well-formed UTF-8 begin here, without control characters; 0: none. */
static size_t well_formed(const unsigned char *s, size_t left)
{
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    size_t length = s[0] < 0x80 ? 1 : s[0] < 0xc2 ? 0 : s[0] < 0xe0 ? 2 : s[0] < 0xf0 ? 3 : 4;
    if (length == 0 || length > left || s[0] > 0xf4 || s[0] < 0x20 || s[0] == 0x7f)
        return 0;
    uint32_t point = length == 1 ? s[0] : s[0] & (0xffu >> (length + 1));
    for (size_t i = 1; i < length; i++) {
        if ((s[i] & 0xc0) != 0x80)
            return 0;
        point = point << 6 | (s[i] & 0x3f);
    }
    bool is_surrogate = point >= 0xd800 && point < 0xe000;
    return point < least[length] || point > 0x10ffff || is_surrogate ? 0 : length;
}

void text_add_quoted(struct text *t, const char *bytes, size_t length)
{
    text_add(t, "\"", 1);
    for (size_t i = 0, step; i < length; i += step) {
        const unsigned char *s = (const unsigned char *)bytes + i;
        step = well_formed(s, length - i);
        if (s[0] == '"' || s[0] == '\\')
            text_print(t, "\\%c", s[0]);
        else if (s[0] == '\n')
            text_print(t, "\\n");
        else if (step == 0)
            text_print(t, "\\\\x%02x", s[0]);
        else
            text_add(t, s, step);
        step = step == 0 ? 1 : step;
    }
    text_add(t, "\"", 1);
}

void text_add_clean(struct text *t, const char *bytes, size_t length)
{
    for (size_t i = 0, step; i < length; i += step) {
        const unsigned char *s = (const unsigned char *)bytes + i;
        step = well_formed(s, length - i);
        if (step == 0)
            text_print(t, "\\x%02x", s[0]);
        else
            text_add(t, s, step);
        step = step == 0 ? 1 : step;
    }
}

char *text_end(struct text *t, size_t *length)
{
    *length = t->length;
    if (!t->failed && make_room(t, 1))
        return t->bytes;
    free(t->bytes);
    return NULL;
}
