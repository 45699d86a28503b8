# shellcheck shell=bash
# Outside of the machine of machine.sh: boots one for a test, runs the test's parts in it, and counts what they say. Source it;
# the machine is ended, and its directory removed, with the script that did. A part is a function "part_NAME" of
# tests/machine/SCRIPT.sh. Every check is a line "ok NAME", "FAILED NAME: why" or "skipped NAME: why".
set -euo pipefail

# shellcheck source=tests/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

part_limit=150 # seconds that a part may take
passed=0 failed=0 skipped=0
export PLANCTON_MACHINE=$TEST_TMP/machine
machine=$repository/tests/machine.sh

finish() {
  "$machine" crash || true
  stop_all || true
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# The last line that a caller may read, and the exit code.
result() {
  printf 'seconds in the machine: %s\n%s passed, %s failed, %s skipped\n' "$SECONDS" "$passed" "$failed" "$skipped"
  [ "$failed" = 0 ]
}

fail() {
  failed=$((failed + 1))
  echo "FAILED $*"
}

ok() { # ok NAME COMMAND…: a check on this side
  local name=$1
  shift
  if "$@" >"$TEST_TMP/words" 2>&1; then
    passed=$((passed + 1))
    echo "ok     $name"
  else
    fail "$name: $(tail -n 1 "$TEST_TMP/words")"
  fi
}

# Where there can be no machine: every check of these scripts is skipped, with the reason.
skip_without_machine() { # skip_without_machine SCRIPT…
  local reason script
  reason=$("$machine" why-not)
  [ -n "$reason" ] || return 0
  for script in "$@"; do
    skipped=$((skipped + $(grep -cE '^ *ok "' "$repository/tests/machine/$script.sh")))
    echo "skipped $script: $reason"
  done
  result
  exit
}

# part SCRIPT PART: what it says counts; one that does not come to its end is a failure.
part() {
  local log=$TEST_TMP/part.log started=$SECONDS counts
  timeout --foreground -k 5 "$part_limit" "$machine" run "bash /host/machine/$1.sh $2" 2>&1 | tee "$log" | grep --line-buffered -E '^(ok|FAILED|skipped) ' || true
  read -r -a counts < <(awk '$1 == "ok" { p++ } $1 == "FAILED" { f++ } $1 == "skipped" { s++ } END { print p + 0, f + 0, s + 0 }' "$log")
  passed=$((passed + counts[0])) failed=$((failed + counts[1])) skipped=$((skipped + counts[2]))
  [ "$(tail -n 1 "$log")" = end ] || fail "$1 $2: it broke off after $((SECONDS - started)) s: $(grep -v '^ok ' "$log" | tail -n 1)"
  printf -- '-- %s %s: %s s\n' "$1" "$2" "$((SECONDS - started))"
}

boot() { # boot WHY: where it does not come up, that is a failure
  local started=$SECONDS
  if timeout --foreground 90 "$machine" start >"$TEST_TMP/words" 2>&1; then
    printf -- '-- %s: %s s\n' "$1" "$((SECONDS - started))"
  else
    fail "$1: $(tail -n 1 "$TEST_TMP/words")"
    return 1
  fi
}
