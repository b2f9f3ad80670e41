#include "refusal.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* A key takes about so many bytes at most. */
enum { KEY_BYTES = 32 };

void refusal_add(struct refusal *r, const char *format, ...)
{
    va_list arguments;
    size_t room = sizeof r->why - r->length;
    va_start(arguments, format);
    int length = vsnprintf(r->why + r->length, room, format, arguments);
    va_end(arguments);
    if (length > 0)
        r->length += (size_t)length < room ? (size_t)length : room - 1;
}

/* The same whatever the program's locale says. */
static bool is_letter(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static bool is_reserved(const char *word)
{
    static const char words[] = " and break do else elseif end false for function goto if in local "
                                "nil not or repeat return then true until while ";
    char with_spaces[KEY_BYTES + 3];
    snprintf(with_spaces, sizeof with_spaces, " %s ", word);
    return strstr(words, with_spaces) != NULL;
}

/* Whether it can be written as a field, `.name`. */
static bool is_name(const char *bytes, size_t length)
{
    if (length == 0 || length > KEY_BYTES || is_digit(bytes[0]))
        return false;
    for (size_t i = 0; i < length; i++)
        if (!is_letter(bytes[i]) && !is_digit(bytes[i]))
            return false;
    return !is_reserved(bytes);
}

void refusal_add_quoted(struct refusal *r, const char *bytes, size_t length)
{
    size_t shown = length;
    if (length > KEY_BYTES) /* UTF-8 is cut off between characters */
        for (shown = KEY_BYTES - 3; shown > 0 && (bytes[shown] & 0xC0) == 0x80; shown--)
            ;
    refusal_add(r, "\"");
    for (size_t i = 0; i < shown; i++) {
        unsigned char c = (unsigned char)bytes[i];
        if (c < ' ' || c == 127)
            refusal_add(r, "\\%03u", c);
        else
            refusal_add(r, c == '"' || c == '\\' ? "\\%c" : "%c", c);
    }
    refusal_add(r, shown < length ? "...\"" : "\"");
}

static void add_key(struct refusal *r, lua_State *L, int key, bool is_first)
{
    size_t length;
    const char *bytes;
    switch (lua_type(L, key)) {
    case LUA_TSTRING:
        bytes = lua_tolstring(L, key, &length);
        if (is_name(bytes, length)) {
            refusal_add(r, is_first ? "%s" : ".%s", bytes);
            return;
        }
        refusal_add(r, "[");
        refusal_add_quoted(r, bytes, length);
        refusal_add(r, "]");
        return;
    case LUA_TNUMBER:
        if (lua_isinteger(L, key))
            refusal_add(r, "[%lld]", (long long)lua_tointeger(L, key));
        else
            refusal_add(r, "[%.14g]", (double)lua_tonumber(L, key));
        return;
    case LUA_TBOOLEAN:
        refusal_add(r, "[%s]", lua_toboolean(L, key) ? "true" : "false");
        return;
    default:
        refusal_add(r, "[%s]", lua_typename(L, lua_type(L, key)));
    }
}

void refusal_path_begin(struct refusal_path *path, size_t length)
{
    path->length = length;
    path->added = 0;
    path->count = 0;
}

void refusal_path_add(struct refusal_path *path, int key, bool in_key)
{
    size_t i = path->added++;
    bool is_shown =
        path->length <= REFUSAL_STEPS || i < REFUSAL_ENDS || i >= path->length - REFUSAL_ENDS;
    if (!is_shown && i != REFUSAL_ENDS)
        return;
    path->steps[path->count].key = is_shown ? key : 0;
    path->steps[path->count].in_key = is_shown && in_key;
    path->count++;
}

/* Adds `'a.b[3]'`. */
static void add_fields(struct refusal *r, lua_State *L, const struct refusal_path *path, int first,
                       int end)
{
    enum { LONGEST = 300 }; /* leaves room for the reason */
    bool leaves_out = true;
    refusal_add(r, "'");
    for (int i = first; i < end; i++) {
        bool is_shown = path->steps[i].key != 0 && r->length < LONGEST;
        if (is_shown)
            add_key(r, L, path->steps[i].key, leaves_out);
        else if (!leaves_out || i == first)
            refusal_add(r, "...");
        leaves_out = !is_shown;
    }
    refusal_add(r, "'");
}

/* From the inside: the fields that lead to the value, if it has some; then of which key; and so
 * on. */
void refusal_begin_at(struct refusal *r, lua_State *L, const struct refusal_path *path)
{
    refusal_begin(r);
    for (int first, end = path->count; end > 0; end = first - 1) {
        refusal_add(r, end == path->count ? "in " : " of ");
        for (first = end; first > 0 && !path->steps[first - 1].in_key;)
            first--;
        if (first < end) {
            refusal_add(r, "field ");
            add_fields(r, L, path, first, end);
        }
        if (first == 0)
            break;
        refusal_add(r, first < end ? " of a key" : "a key");
    }
    if (path->count > 0)
        refusal_add(r, ": ");
}
