/*
 * Tables of options as arguments. While one is traversed, an option's name and value are on top of
 * the stack. All raise argument errors about argument 1 of the function of that name.
 */
#ifndef MTSTATES_OPTIONS_H
#define MTSTATES_OPTIONS_H

#include <lua.h>
#include <stdbool.h>
#include <stdint.h>

/* Whether it is the option of that name. [-0, +0, -] */
bool option_is(lua_State *L, const char *option);

/* Raises that there is no such option. [-0, +0, v] */
int option_raise_unknown(lua_State *L, const char *function);

/* [-0, +0, v] */
void option_check_type(lua_State *L, const char *option, int type, const char *function);

/* A boolean. [-0, +0, v] */
bool option_check_flag(lua_State *L, const char *option, const char *function);

/* A positive number. [-0, +0, v] */
double option_check_limit(lua_State *L, const char *option, const char *function);

/* A whole number from 1 to `most`. [-0, +0, v] */
uint64_t option_check_count(lua_State *L, const char *option, lua_Integer most,
                            const char *function);

#endif
