# What the build needs: Lua and Concurrency Kit. In LUA_INCDIR, LUA_LIBDIR, CK_INCDIR and CK_LIBDIR, as
# luarocks names them, where they are given; else where pkg-config says, or where compilers look. Nothing is
# remembered, so that what was installed since is found.

find_package(PkgConfig QUIET)
if(PKG_CONFIG_FOUND)
  pkg_search_module(PC_LUA QUIET lua5.4>=5.4.4 lua-5.4>=5.4.4 lua54>=5.4.4 lua5.5 lua-5.5 lua55
                    lua>=5.4.4)
  pkg_check_modules(PC_CK QUIET ck)
endif()

# mtstates_find(command result given hints option...): find_path or find_library, only in the folder that
# the variable `given` names if it does, else in `hints` first.
macro(mtstates_find command result given hints)
  if(${given})
    cmake_language(CALL ${command} ${result} ${ARGN} PATHS "${${given}}" NO_DEFAULT_PATH NO_CACHE)
  else()
    cmake_language(CALL ${command} ${result} ${ARGN} HINTS ${hints} NO_CACHE)
  endif()
endmacro()

# mtstates_missing(what package options): ends with one line, which a space in front keeps in one.
function(mtstates_missing what package options)
  message(FATAL_ERROR " ${what}: install it (Debian: apt install ${package}) or say where it is, by"
                      " ${options}")
endfunction()

set(lua_names lua5.4 lua-5.4 lua54 lua5.5 lua-5.5 lua55 lua)
mtstates_find(find_path MTSTATES_LUA_HEADERS LUA_INCDIR "${PC_LUA_INCLUDE_DIRS}"
              NAMES lua.h PATH_SUFFIXES ${lua_names})
if(NOT MTSTATES_LUA_HEADERS)
  mtstates_missing("mtstates needs Lua 5.4, of which there is no lua.h" liblua5.4-dev -DLUA_INCDIR=FOLDER)
endif()
file(STRINGS "${MTSTATES_LUA_HEADERS}/lua.h" release
     REGEX "define[ \t]+LUA_VERSION_(MAJOR|MINOR|RELEASE)(_N)?[ \t]+\"?[0-9]") # _N: 5.5
list(TRANSFORM release REPLACE ".*[ \t]\"?([0-9]+).*" "\\1")
list(JOIN release . release)
if(release VERSION_LESS 5.4.4 OR release VERSION_GREATER_EQUAL 5.6) # see src/state/lua_inside.h
  mtstates_missing("mtstates needs Lua 5.4, from 5.4.4 on, or 5.5, but ${MTSTATES_LUA_HEADERS} has ${release}"
                   liblua5.4-dev -DLUA_INCDIR=FOLDER)
endif()
if(release VERSION_GREATER_EQUAL 5.5)
  message(NOTICE "mtstates has not yet been tested with Lua 5.5")
endif()
string(REGEX MATCH "^[0-9]+[.][0-9]+" MTSTATES_LUA_VERSION "${release}")

# A static ck goes into the module, which then depends on nothing at run time.
mtstates_find(find_path MTSTATES_CK_HEADERS CK_INCDIR "${PC_CK_INCLUDE_DIRS}" NAMES ck_hs.h)
mtstates_find(find_library MTSTATES_CK CK_LIBDIR "${PC_CK_LIBRARY_DIRS}" NAMES libck.a ck)
if(NOT MTSTATES_CK_HEADERS OR NOT MTSTATES_CK)
  mtstates_missing("mtstates needs Concurrency Kit, of which there is no ck_hs.h or libck" libck-dev
                   "-DCK_INCDIR=FOLDER -DCK_LIBDIR=FOLDER")
endif()
cmake_path(GET MTSTATES_CK EXTENSION LAST_ONLY extension)
string(COMPARE EQUAL "${extension}" .a MTSTATES_CK_IS_STATIC)

# Only for programs that have a Lua inside, which the module has not.
mtstates_find(find_library MTSTATES_LUA LUA_LIBDIR "${PC_LUA_LIBRARY_DIRS}" NAMES ${lua_names})
