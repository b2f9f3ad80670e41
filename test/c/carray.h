#ifndef MTSTATES_TEST_CARRAY_H
#define MTSTATES_TEST_CARRAY_H

#include <lua.h>

__attribute__((visibility("default"))) int luaopen_carray(lua_State *L);

#endif
