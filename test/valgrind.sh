#!/bin/sh
# Memcheck on the module as built: valgrind.sh BUILD_FOLDER. Fails on any error or definite leak.
set -eu
build=$1
check() {
    echo "valgrind: $*"
    valgrind --quiet --error-exitcode=1 --leak-check=full --show-leak-kinds=definite \
        --errors-for-leak-kinds=definite --fair-sched=yes "$@"
}
export MTSTATES_TEST_SECONDS=1
export LUA_CPATH="$build/?.so;;"
check "$build/test_ownership"
check "$build/test_interrupt"
check "$build/test_shutdown"
sed -n '/^```lua$/,/^```$/{/^```/d;p}' README.md >"$build/readme.lua"
check lua5.4 "$build/readme.lua"
check lua5.4 test/examples/wordcount/wordcount.lua --threads 2 --states 4 src
