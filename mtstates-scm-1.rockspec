-- For `luarocks make` in a clone of the repository; CMake finds what the module needs, and builds.
rockspec_format = "3.0"
package = "mtstates"
version = "scm-1"
source = { url = "." } -- here: there is nothing to fetch
description = {
    summary = "Lua states that any thread can call",
    license = "MIT",
}
supported_platforms = { "linux", "macosx" }
dependencies = { "lua >= 5.4, < 5.6" }
external_dependencies = {
    CK = { header = "ck_hs.h", library = "ck" }, -- Concurrency Kit; Debian: libck-dev
}
build = {
    type = "cmake",
    variables = { -- not LUA_LIBDIR: modules leave Lua's symbols to whoever loads them
        CMAKE_BUILD_TYPE = "Release",
        MTSTATES_LTO = "ON",
        LUA_INCDIR = "$(LUA_INCDIR)",
        CK_INCDIR = "$(CK_INCDIR)",
        CK_LIBDIR = "$(CK_LIBDIR)",
    },
    install_pass = false, -- luarocks has folders of its own
    install = {
        lib = { "build.luarocks/mtstates.so", "src/mtstates-gdb.py" },
        lua = { "src/mtstates.d.lua" },
        bin = { ["mtstates-profile"] = "src/mtstates-profile.lua" },
    },
}
