#!/bin/sh
# The Debian package, in /tmp, is installed with what it needs, used and removed, and leaves nothing.
set -eu
cd "$(dirname "$0")/../.."
. test/install/helpers.sh

# What there is, but for the package manager's own notes.
list() {
    find / -xdev \( -path /var -o -path /tmp -o -path /proc -o -path /sys -o -path /dev \) -prune \
        -o -print | sort
}

list >/tmp/before
fetch /tmp/*.deb
cd /
lua5.4 /mtstates/test/install/use.lua
mtstates-profile -o /tmp/use.folded /mtstates/test/install/use.lua
dpkg --verify lua-mtstates
there /usr/share/lua/5.4/mtstates.d.lua /usr/include/mtstates.h /tmp/use.folded
quietly apt-get -qq -y --purge --autoremove remove lua-mtstates
list >/tmp/after
diff /tmp/before /tmp/after
