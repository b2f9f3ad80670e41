#!/bin/sh
# cmake --install into a folder, a C program that has the module inside, by pkg-config and by CMake; with a
# static libck, and where only a shared one is. Makes the Debian package as well.
set -eu
cd "$(dirname "$0")/../.."
. test/install/helpers.sh

# try_prefix BUILD CHECK: installs it, and runs what uses it; `CHECK libck` on what they load.
try_prefix() {
    rm -rf /prefix /tmp/program
    quietly cmake --install "$1" --prefix /prefix
    export PKG_CONFIG_PATH=/prefix/lib/pkgconfig
    # shellcheck disable=SC2046 # lists
    gcc $(pkg-config --cflags mtstates) -o /tmp/with_pkg_config test/install/program.c \
        $(pkg-config --static --libs mtstates)
    quietly cmake -S test/install -B /tmp/program -DCMAKE_PREFIX_PATH=/prefix
    quietly cmake --build /tmp/program
    for program in /tmp/with_pkg_config /tmp/program/program; do
        $program
        ldd $program | "$2" libck
    done
    export LUA_CPATH="/prefix/lib/lua/5.4/?.so"
    lua5.4 test/install/use.lua
    ldd /prefix/lib/lua/5.4/mtstates.so | "$2" libck
    /prefix/bin/mtstates-profile -o /tmp/use.folded test/install/use.lua
    there /prefix/share/lua/5.4/mtstates.d.lua /prefix/lib/lua/5.4/mtstates-gdb.py
    unset LUA_CPATH
}

has() {
    grep -q "$@"
}

has_not() {
    ! grep "$@"
}

fetch gcc libc6-dev cmake ninja-build pkg-config lua5.4
export CMAKE_GENERATOR=Ninja
refused 'needs Lua 5.4.*: .*apt install liblua5.4-dev' cmake --preset module
fetch liblua5.4-dev
refused 'needs Concurrency Kit.*: .*apt install libck-dev' cmake --preset module
fetch libck-dev
make_old_lua
refused 'needs Lua 5.4, .* has 5.4.2: .*apt install liblua5.4-dev' cmake -S . -B /tmp/old -DLUA_INCDIR=/old
make_new_lua
quietly cmake -S . -B /tmp/new -DLUA_INCDIR=/new
quietly cmake --build /tmp/new --target mtstates # as far as compilers see

# In the build folder that has been refused before: nothing of that is remembered.
quietly cmake --preset module
quietly cmake --build --preset module
try_prefix build/module has_not

refused 'apt install dpkg-dev file$' cmake --workflow --preset deb
fetch dpkg-dev file
quietly cmake --workflow --preset deb

# Without pkg-config's help for the module.
multiarch=$(gcc -print-multiarch)
rm "/usr/lib/$multiarch/libck.a"
quietly env PKG_CONFIG=/bin/false cmake -S . -B /tmp/shared -DLUA_INCDIR=/usr/include/lua5.4 \
    -DLUA_LIBDIR="/usr/lib/$multiarch" -DCK_INCDIR=/usr/include -DCK_LIBDIR="/usr/lib/$multiarch"
quietly cmake --build /tmp/shared
try_prefix /tmp/shared has
