/*
 * Classes: metatables that a Lua state has given a name, so that tables with them can cross, and
 * find on the other side the metatable that has that name there.
 */
#ifndef MTSTATES_CLASS_H
#define MTSTATES_CLASS_H

#include <lua.h>
#include <stdbool.h>

/* Gives the metatable on top of the stack the name below it. [-2, +0, m] */
void class_define(lua_State *L);

/* Replaces the metatable on top of the stack by its name, or by nil. [-1, +1, -] */
void class_get_name(lua_State *L);

/* Replaces the name on top of the stack by its metatable, or by nil. [-1, +1, -] */
void class_get_metatable(lua_State *L);

#endif
