#!/bin/sh
# Includes point one way: module may use watch, state and sync, watch may use state and sync, state
# may use sync. sync knows nothing of Lua, and registry.c alone knows ck. What is beside a file it
# names without a folder. Run in the project's folder.
set -eu
failed=0

# forbid WHY PATTERN FILE...
forbid() {
    why=$1 pattern=$2
    shift 2
    if grep -HnE "$pattern" "$@"; then
        echo "  $why"
        failed=1
    fi
}

forbid "sync includes from another room" '#include "[a-z_]+/' src/sync/*.[ch]
forbid "sync knows nothing of Lua" '#include <(lua|lauxlib|lualib)' src/sync/*.[ch]
forbid "state includes from a room above it" '#include "(module|watch|mtstates\.h)' src/state/*.[ch]
forbid "watch includes from a room above it" '#include "(module|mtstates\.h)' src/watch/*.[ch]
forbid "headers know nothing of ck" '#include <ck_' src/*/*.h src/*.h
forbid "registry.c alone knows ck" '#include <ck_' $(ls src/*/*.c | grep -v '^src/sync/registry.c$')
forbid "a file beside is named without its folder" '#include "module/' src/module/*.[ch]
forbid "a file beside is named without its folder" '#include "watch/' src/watch/*.[ch]
forbid "a file beside is named without its folder" '#include "state/' src/state/*.[ch]
exit $failed
