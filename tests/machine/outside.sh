# shellcheck shell=bash
# Outside of the machines of machine.sh: boots one for each life that a test leads, runs the life's parts in it, and counts what
# they say. Source it; its machines are ended, and their directories removed, with the script that did. A part is a function
# "part_NAME" of tests/machine/SCRIPT.sh. Every check is a line "ok NAME", "FAILED NAME: why" or "skipped NAME: why".
set -euo pipefail

# shellcheck source=tests/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

part_limit=200 # seconds that a part may take
machine=$repository/tests/machine.sh
lives=$TEST_TMP/lives # a directory for each life's machine, and beside it what was said there
mkdir -p "$lives"

finish() {
  local place
  jobs -p | xargs -r kill 2>/dev/null || true
  for place in "$lives"/*/; do
    [ ! -d "$place" ] || PLANCTON_MACHINE=${place%/} "$machine" crash || true
  done
  stop_all || true
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# Counts all that was said; the last line is for whoever called.
result() {
  local passed failed skipped
  read -r passed failed skipped < <(cat "$lives"/*.said 2>/dev/null |
    awk '$1 == "ok" { p++ } $1 == "FAILED" { f++ } $1 == "skipped" { s++ } END { print p + 0, f + 0, s + 0 }')
  printf '%s s in the machines\n%s passed, %s failed, %s skipped\n' "$SECONDS" "$passed" "$failed" "$skipped"
  [ "$failed" = 0 ]
}

tell() { tee -a "$lives/outside.said"; }

ok() { # ok NAME COMMAND…: a check on this side
  local name=$1
  shift
  if "$@" >"$TEST_TMP/words" 2>&1; then echo "ok     $name"; else echo "FAILED $name: $(tail -n 1 "$TEST_TMP/words")"; fi | tell
}

# Where there can be no machine: every check of these scripts is skipped, with the reason.
skip_without_machine() { # skip_without_machine SCRIPT…
  local reason script
  reason=$("$machine" why-not)
  [ -n "$reason" ] || return 0
  for script in "$@"; do
    sed -nE 's/^ *ok "([^"]*)".*/skipped \1: /p' "$repository/tests/machine/$script.sh" | sed "s|\$|$reason|" | tell
  done
  result
  exit
}

# ---- a life ----

# life NAME FUNCTION: on a machine of its own, in the background; wait for it with all_lives.
life() {
  mkdir -p "$lives/$1"
  lead "$1" "$2" 2>&1 | tee "$lives/$1.said" &
}

lead() {
  export PLANCTON_MACHINE=$lives/$1
  "$machine" copy "$repository/tests/machine" "$repository/packaging/ansible" "$TEST_TMP/packages"
  ! boot "$1: boot" || "$2"
  "$machine" crash
}

all_lives() { wait; }

# part SCRIPT PART: one that does not come to its end is a failure.
part() {
  local log=$PLANCTON_MACHINE/log started=$SECONDS
  timeout --foreground -k 5 "$part_limit" "$machine" run "bash /host/machine/$1.sh $2" 2>&1 | tee "$log" | grep --line-buffered -E '^(ok|FAILED|skipped) ' || true
  [ "$(tail -n 1 "$log")" = end ] || echo "FAILED $1 $2: it broke off after $((SECONDS - started)) s: $(grep -v '^ok ' "$log" | tail -n 1)"
  printf -- '-- %s %s: %s s\n' "$1" "$2" "$((SECONDS - started))"
}

boot() { # boot WHY: where it does not come up, that is a failure
  local started=$SECONDS
  if timeout --foreground 120 "$machine" start >"$PLANCTON_MACHINE/log" 2>&1; then
    printf -- '-- %s: %s s\n' "$1" "$((SECONDS - started))"
  else
    echo "FAILED $1: $(tail -n 1 "$PLANCTON_MACHINE/log")"
    return 1
  fi
}
