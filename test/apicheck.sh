#!/bin/sh
# Makes Lua from Debian's source package, with assertions in Lua and checks of what C code asks of it:
# apicheck.sh FOLDER puts lua5.4, liblua5.4.so and lua5.4.pc there, unless they are there already.
set -eu
folder=$1
[ ! -x "$folder/lua5.4" ] || exit 0 # which is made last
. cmake/prepare.sh
need dpkg-dev
echo "Making a Lua that checks"
rm -rf "$folder"
mkdir -p "$folder/apt/lists/partial" "$folder/apt/cache"
cd "$folder"
folder=$PWD

# Debian's archive as this system has it enabled, but for sources.
sources() {
    # shellcheck disable=SC2016 # apt's, not the shell's
    apt-get indextargets 'Created-By: Packages' 'Origin: Debian' 'Component: main' --format \
        'deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $(REPO_URI) $(RELEASE) main' |
        sort -u
}

# apt_get ARGUMENT... with these sources only, in the folder: the system's list of them stays as it is.
apt_get() {
    apt-get -qq -o Dir::Etc::SourceList="$folder/apt/sources.list" -o Dir::Etc::SourceParts=/dev/null \
        -o Dir::State::Lists="$folder/apt/lists" -o Dir::Cache="$folder/apt/cache" "$@"
}

sources >apt/sources.list
if [ ! -s apt/sources.list ]; then # apt knows what is Debian's only after an update
    as_root apt-get -qq update
    sources >apt/sources.list
fi
apt_get update
apt_get source lua5.4 >source.log 2>&1 || {
    cat source.log >&2
    exit 1
}
rm -r apt
mv lua5.4-*/src src
cd src

compile() {
    gcc -std=gnu99 -O2 -g -fPIC -DLUA_COMPAT_5_3 -DLUA_USE_LINUX -DLUA_USE_APICHECK "$@"
}

compile -DLUAI_ASSERT -c l*.c
# luv's new_thread fills a luaL_Buffer that lies below a function: luv's mistake, which does harm only when
# the dump outgrows the buffer's own kilobyte. So lauxlib.c goes without its three assertions.
compile -c lauxlib.c
rm lua.o luac.o
gcc -shared -Wl,-soname,liblua5.4.so.0 -o "$folder/liblua5.4.so.0" l*.o -lm
ln -s liblua5.4.so.0 "$folder/liblua5.4.so"
cat >"$folder/lua5.4.pc" <<end
Name: Lua
Description: Lua with assertions
Version: $(sed -n 's/^#define LUA_VERSION_RELEASE.*"\(.*\)"$/5.4.\1/p' lua.h)
Cflags: -I$folder/src
Libs: -L$folder -llua5.4
end
compile -o "$folder/lua5.4" lua.c -L"$folder" -llua5.4 -Wl,-rpath,"$folder"
