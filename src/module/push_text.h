/*
 * Texts from malloc, as strings of Lua's: they are freed whatever fails.
 */
#ifndef MTSTATES_PUSH_TEXT_H
#define MTSTATES_PUSH_TEXT_H

#include <lua.h>
#include <stddef.h>

/* Before there is the text. [-0, +1, m] */
void push_text_begin(lua_State *L);

/* Frees it, after the same; `function` is of an error without memory for it. [-1, +1, m] */
int push_text_end(lua_State *L, char *text, size_t length, const char *function);

#endif
