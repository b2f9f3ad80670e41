#!/bin/sh
# luarocks make, into a tree, and programs that find the module in it.
set -eu
cd "$(dirname "$0")/../.."
. test/install/helpers.sh

make_rock() {
    command -v luarocks >/dev/null || {
        echo "luarocks is missing: apt install luarocks"
        return 1
    }
    luarocks --lua-version 5.4 --tree /tree make "$@"
}

refused 'apt install luarocks$' make_rock
fetch luarocks lua5.4 gcc libc6-dev cmake make
refused 'You may have to install CK ' make_rock
fetch libck-dev
refused 'Lua header files. You may need to install them' make_rock
fetch liblua5.4-dev
make_old_lua
refused 'needs Lua 5.4, .* has 5.4.2: .*apt install liblua5.4-dev' make_rock LUA_INCDIR=/old

quietly make_rock LUA_INCDIR=/usr/include/lua5.4
if grep Warning /tmp/output; then
    exit 1
fi
eval "$(luarocks --lua-version 5.4 --tree /tree path)"
cd /
lua5.4 /mtstates/test/install/use.lua
mtstates-profile -o /tmp/use.folded /mtstates/test/install/use.lua
there /tmp/use.folded /tree/share/lua/5.4/mtstates.d.lua /tree/lib/lua/5.4/mtstates-gdb.py
