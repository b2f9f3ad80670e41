#!/bin/sh
# The protocols by spin: ownership.pml, waiting.pml and interrupt.pml hold in every order of their
# threads' steps, each line of them takes part in that, and every weakened copy is rejected:
# run.sh SPIN
set -eu
spin=$1
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cp test/model/*.pml "$folder"
cd "$folder"
failed=0

model=ownership

# search LABEL "DEFINITION..." [DEFINITION]: goes through all orders of steps, or up to an error.
# `found`: that error; "nothing"; or empty when the search was not complete.
search() {
    # -o3: merging statements would glue the step that follows an atomic one to it.
    # shellcheck disable=SC2086 # a list
    "$spin" -a -o3 $2 ${3:-} "$model.pml" >log || {
        cat log
        exit 1
    }
    cc -w -DSAFETY -DMEMLIM=4000 -o pan pan.c
    ./pan -m1000000 >report || true # the report says more than the status
    states=$(sed -n 's/^ *\([0-9.e+]*\) states, stored.*/\1/p' report)
    seconds=$(sed -n 's/^pan: elapsed time \(.*\) seconds/\1/p' report)
    found=$(sed -n 's/^pan:1: \(.*\) (at depth.*/\1/p' report)
    if grep -q 'errors: 0$' report && ! grep -q 'not completed\|too small' report; then
        found=nothing
    fi
    printf '%-24s %-32s %8s states %6s s  ' "$1" "$2" "$states" "$seconds"
}

fail() {
    echo "$1"
    failed=1
}

# Adds to `statements` each of the model's lines with what stands there, and whether it was reached.
note_reached() {
    ./pan -d >transitions
    awk '
        FILENAME == "report" && /^unreached in/ { process = $4 }
        FILENAME == "report" && match($0, /state [0-9]+/) {
            missed[process, substr($0, RSTART + 6, RLENGTH - 6)]
        }
        FILENAME == "transitions" && /^proctype/ { process = $2 == ":init:" ? "init" : $2 }
        FILENAME == "transitions" && match($0, /pml:[0-9]+ => /) {
            print ((process, $2) in missed ? "missed" : "reached"), substr($0, RSTART + 4)
        }' report transitions >>statements
}

never_reached() {
    sort -u statements | awk '
        { statement = substr($0, length($1) + 2) }
        $1 == "missed" { missed[statement] }
        $1 == "reached" { reached[statement] }
        END { for (s in missed) if (!(s in reached)) print "never reached: line " s }'
}

check_reached() {
    never=$(never_reached)
    [ -z "$never" ] || fail "$never"
    rm statements
}

holds() {
    search protocol "$1"
    case $found in
    nothing) echo "holds" ;;
    *) fail "FAILS: ${found:-search not complete}" ;;
    esac
    note_reached
}

rejected() {
    search "$1" "$2" "-DWEAK_$1"
    case $found in
    "invalid end state" | "assertion violated"*) echo "rejected as it should" ;;
    *) fail "NOT REJECTED" ;;
    esac
}

holds "-DTHREADS=2 -DWAIT -DLOOK_UP"
holds "-DTHREADS=3 -DWAIT"
holds "-DTHREADS=3 -DLOOK_UP"
check_reached

for weakening in ENTER_WITHOUT_SWAP LEAVE_STORES NO_CLOSE_AFTER_LEAVE ABANDON_ONLY_FLAGS \
    CLOSED_TOO_EARLY SLEEP_WITHOUT_FLAG SLEEP_WITHOUT_COMPARE RESET_AFTER_UNLOCK \
    TIME_UP_BEFORE_HANDED WAKE_ALL_UNLOCKED ABANDON_WAKES_NOBODY; do
    rejected $weakening "-DTHREADS=2 -DWAIT"
done
rejected NO_PASS_ON "-DTHREADS=3 -DWAIT"
rejected CLOSE_WAKES_NOBODY "-DTHREADS=3 -DWAIT"
rejected GIVE_UP_WAKES_NOBODY "-DTHREADS=2 -DWAIT -DLOOK_UP"
for weakening in RETAIN_FROM_ZERO OWN_FROM_ZERO NO_GRACE_PERIOD FIND_CLOSED; do
    rejected $weakening "-DTHREADS=2 -DLOOK_UP"
done

model=waiting
holds "-DTHREADS=4 -DWORDS=2"
holds "-DTHREADS=3 -DWORDS=2 -DROUNDS=2"
check_reached
for weakening in LOOK_WITHOUT_FLAG SLEEP_WITHOUT_COMPARE ENTER_WITHOUT_SWAP \
    SIGNAL_AFTER_UNLOCK; do
    rejected $weakening "-DTHREADS=2 -DWORDS=1 -DBLIND"
done
for weakening in NO_PASS_ON NO_LAST_TRY; do
    rejected $weakening "-DTHREADS=3 -DWORDS=1 -DBLIND"
done
for weakening in NO_TELL WAKE_THE_WOKEN; do
    rejected $weakening "-DTHREADS=4 -DWORDS=2 -DBLIND"
done
rejected NO_TELL "-DTHREADS=4 -DWORDS=2"
rejected STAYS_FULL "-DTHREADS=2 -DWORDS=1"

model=interrupt
holds ""
check_reached
for weakening in LOOK_BEFORE_ENTER SEND_LOOKS_FIRST TICKER_SENDS_NOT MEET_TICKS_NOT; do
    rejected $weakening ""
done
exit $failed
