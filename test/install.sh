#!/bin/sh
# Each way to install, in a Debian 12 of its own with nothing in it: install.sh FOLDER makes that Debian by
# debootstrap, from where apt has its packages here, and in copies of it runs
#   words   the README's first command; the second one is what runs this
#   rock    luarocks make
#   prefix  cmake --install, and C programs that have the module inside
#   deb     the package: built in the copy `prefix`, installed and removed in one without compilers
# each with something missing first, which has to be told in one line. Only chroot is needed, no mounts.
set -eu
. cmake/prepare.sh
need debootstrap
folder=$1
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
base=$folder/base

# mirror tells where Debian 12 comes from.
mirror() {
    # shellcheck disable=SC2016 # apt's, not the shell's
    apt-get indextargets 'Created-By: Packages' 'Origin: Debian' 'Codename: bookworm' 'Component: main' \
        --format '$(REPO_URI)' | head -n 1
}

# inside ROOT COMMAND... runs that in the root.
inside() {
    root=$folder/$1
    shift
    as_root chroot "$root" env HOME=/root LC_ALL=C DEBIAN_FRONTEND=noninteractive \
        PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
        ${http_proxy:+"http_proxy=$http_proxy"} ${https_proxy:+"https_proxy=$https_proxy"} "$@"
}

# The base has all packages downloaded that copies of it are going to install.
make_base() {
    [ -n "$(mirror)" ] || as_root apt-get -qq update # apt knows what is Debian's only after an update
    mirror=$(mirror)
    include=
    case $mirror in https:*) include=--include=ca-certificates ;; esac
    as_root rm -rf "$base" "$base.new"
    # shellcheck disable=SC2086 # nothing where it is empty
    as_root debootstrap --variant=minbase $include bookworm "$base.new" "$mirror" >"$base.log" || {
        tail "$base.log" >&2
        exit 1
    }
    as_root cp /etc/resolv.conf "$base.new/etc/"
    apt-config dump --format '%F "%v";%n' Acquire | grep -E '^Acquire::(https?|Check|Retries)' |
        as_root tee "$base.new/etc/apt/apt.conf.d/90host" >/dev/null
    as_root mv "$base.new" "$base" # only now, so that it is there as a whole or not at all
}

# step ROOT COMMAND... runs that in a new copy of the base, with the files that git knows in /mtstates.
step() {
    echo "-- $1"
    as_root rm -rf "${folder:?}/$1"
    as_root cp -a "$base" "$folder/$1"
    as_root mkdir "$folder/$1/mtstates"
    git ls-files -z | tar -c --null --files-from=- | as_root tar -x --no-same-owner -C "$folder/$1/mtstates"
    if [ -n "${deb:-}" ]; then
        as_root cp "$deb" "$folder/$1/tmp/"
    fi
    inside "$@"
}

[ -d "$base" ] || make_base
inside base apt-get -qq update
inside base apt-get -qq -y --no-install-recommends --download-only install gcc libc6-dev cmake ninja-build \
    pkg-config make luarocks lua5.4 lua-luv liblua5.4-dev libck-dev dpkg-dev file >/dev/null
step words sh /mtstates/test/install/words.sh
step rock sh /mtstates/test/install/rock.sh
step prefix sh /mtstates/test/install/prefix.sh
deb=$(echo "$folder"/prefix/mtstates/build/deb/*.deb)
step deb sh /mtstates/test/install/deb.sh
for root in words rock prefix deb; do
    as_root rm -rf "${folder:?}/$root"
done
