/*
 * Profiles as Lua sees them: mtstates.profile.
 */
#ifndef MTSTATES_PROFILE_HANDLE_H
#define MTSTATES_PROFILE_HANDLE_H

#include <lua.h>

/* Pushes the table with start and stop. [-0, +1, e] */
void profile_push_functions(lua_State *L);

#endif
