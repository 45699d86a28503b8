#!/usr/bin/env bash
# All tests with one command: formats, lints, unit and black-box tests beside the live ones against a real engine.
#   tests/run.sh [--without-engine] [--without-machine] [NAME…]      NAME: only tests/NAME.rs, or "machine"
# Starts what the live tests need and stops what it started. What cannot run here is named, with the reason, and
# counted as skipped. Live are tests/live*.rs; what a file cannot do without it names in a line "// needs: …" ("registry",
# "influxdb", "victoriametrics", "browser"), what some of its tests skip themselves without in "// wants: …"; "// threads: N" sets
# how many of its tests run at once (2), "// alone" that nothing runs beside it. All that is not live runs beside the live
# ones, and is shown after them. "machine" is tests/machine-test.sh: the package on a machine of its own.
# At the end every failure is named once more; the last line is "N passed, N failed, N skipped"; the exit code is 0 only
# if nothing failed.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=tests/lib.sh
. "$here/lib.sh"
cd "$repository"
exec </dev/null

limit=600 # seconds that each call of cargo may take
passed=0 failed=0 skipped=0
failures=()
without_engine=no
without_machine=no
machine_limit=2400 # seconds, with a first build of the package and of the machine's kernel in them
only=()
others=() # files that run in the background
declare -A running=() # pids by name

trap 'kill "${running[@]}" 2>/dev/null || true; stop_all' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

title() { printf '\n== %s\n' "$*"; }

skip() { # skip COUNT WHAT REASON
  skipped=$((skipped + $1))
  printf 'skipped: %s (%s): %s\n' "$2" "$1" "$3"
}

fail() { # fail WHAT: one more failure
  failed=$((failed + 1))
  failures+=("$1")
  echo "failed: $1"
}

check() { # check NAME COMMAND…: one check, which passes or fails as a whole
  local name=$1
  shift
  title "$name"
  if timeout -k 10 "$limit" "$@"; then
    passed=$((passed + 1))
  else
    fail "$name"
  fi
}

# begin NAME ARGUMENT…: runs tests in the background, until `finish NAME`.
begin() {
  local name=$1
  shift
  : >"$TEST_TMP/$name.log"
  PLANCTON_TEST_SKIPPED=$TEST_TMP/$name.skipped timeout -k 10 "$limit" cargo test --locked "$@" >"$TEST_TMP/$name.log" 2>&1 &
  running[$name]=$!
}

# finish NAME: shows and counts what the test programs report; one that ends without a report is a failure.
finish() {
  local name=$1 log=$TEST_TMP/$1.log status=0 counts test
  title "$name"
  # a long one is shown as it goes
  tail -n +1 -f -s 0.2 --pid="${running[$name]}" "$log"
  wait "${running[$name]}" || status=$?
  unset "running[$name]"
  read -r -a counts < <(sed -nE 's/^test result: [a-zA-Z]+\. ([0-9]+) passed; ([0-9]+) failed; ([0-9]+) ignored;.*/\1 \2 \3/p' "$log" |
    awk '{ p += $1; f += $2; i += $3 } END { print p + 0, f + 0, i + 0 }')
  passed=$((passed + counts[0])) failed=$((failed + counts[1])) skipped=$((skipped + counts[2]))
  # what a test said of itself, once a test
  while read -r test; do
    skip 1 "$name" "$test"
    passed=$((passed - 1))
  done < <([ ! -e "$TEST_TMP/$name.skipped" ] || sort -u -t : -k 1,1 "$TEST_TMP/$name.skipped")
  [ "$status" != 0 ] || return 0
  [ "${counts[1]}" != 0 ] || fail "$name ended with exit code $status (124: it took longer than $limit s)"
  # the list at the end of a report; the lines of the tests themselves may be torn by what a test prints
  while read -r test; do
    failures+=("$name: $test: $(grep -A 3 "^thread '$test' .*panicked at" "$log" | sed -E 's/.*panicked at //; /^(stack backtrace|note: )/,$d' | tr '\n' ' ' | cut -c 1-400)")
  done < <(awk '/^failures:$/ { names = "" } /^    [^ ]+$/ { names = names $1 "\n" } /^test result:/ { printf "%s", names; names = "" }' "$log")
}

count_tests() { # how many tests a file has, without running them
  timeout -k 10 "$limit" cargo test --locked --quiet --test "$1" -- --list 2>/dev/null | grep -c ': test$' || true
}

words_of() { # words_of KIND NAME: what stands in its line "// KIND:"
  sed -n "s|^// $1: *||p" "tests/$2.rs"
}

# begin_file NAME: once what it needs is there, which is named otherwise.
begin_file() {
  local word reason='' number
  for word in $(words_of wants "$1"); do "need_$word" >&2 || true; done
  for word in $(words_of needs "$1"); do
    [ -n "$reason" ] || "need_$word" >&2 || reason="no $word could be had, see above"
  done
  if [ -n "$reason" ]; then
    skip "$(count_tests "$1")" "$1" "$reason"
  else
    number=$(words_of threads "$1")
    begin "$1" --test "$1" -- --test-threads="${number:-2}"
  fi
}

finish_file() {
  [ -z "${running[$1]:-}" ] || finish "$1"
}

test_files() { # test_files live|other: the names of tests/*.rs, those that are to be alone last
  local file name kind alone=()
  for file in tests/*.rs; do
    name=$(basename "$file" .rs) kind=other
    [ "${#only[@]}" = 0 ] || [[ " ${only[*]} " == *" $name "* ]] || continue
    [[ $name != live* ]] || kind=live
    [ "$kind" = "$1" ] || continue
    if grep -q '^// alone' "$file"; then alone+=("$name"); else echo "$name"; fi
  done
  [ "${#alone[@]}" = 0 ] || printf '%s\n' "${alone[@]}"
}

static_checks() {
  local scripts
  if cargo fmt --version >/dev/null 2>&1; then
    check "formats" cargo fmt --check
  else
    skip 1 "formats" "no rustfmt in this toolchain"
  fi
  if cargo clippy --version >/dev/null 2>&1; then
    check "lints" cargo clippy --all-targets --locked -- -D warnings
  else
    skip 1 "lints" "no clippy in this toolchain"
  fi
  mapfile -t scripts < <(grep -lE '^#!.*\<(ba)?sh$' -r conf packaging tests .ci)
  if command -v shellcheck >/dev/null; then
    check "shell scripts" shellcheck -x "${scripts[@]}"
  else
    skip 1 "shell scripts" "no shellcheck here"
  fi
}

# Why there is no engine; nothing if there is one.
why_no_engine() {
  if [ "$without_engine" = yes ]; then
    echo "left out with --without-engine"
  elif ! need_engine >&2 || ! make_image >&2; then
    if [ "$(id -u)" = 0 ]; then echo "no engine could be had, see above"; else echo "no engine that you may use, and no root to start one"; fi
  fi
}

# Adds what machine-test.sh counts.
machine_tests() {
  local log=$TEST_TMP/machine.log status=0 counts line
  title "machine"
  if [ "$without_machine" = yes ]; then
    skip "$(cat tests/machine/{system,rootless}.sh | grep -cE '^ *ok "')" "machine" "left out with --without-machine"
    return 0
  fi
  timeout -k 10 "$machine_limit" tests/machine-test.sh 2>&1 | tee "$log" || status=$?
  if ! read -r -a counts < <(sed -nE '$s/^([0-9]+) passed, ([0-9]+) failed, ([0-9]+) skipped$/\1 \2 \3/p' "$log"); then
    fail "machine ended with exit code $status and counted nothing (124: it took longer than $machine_limit s)"
    return 0
  fi
  passed=$((passed + counts[0])) failed=$((failed + counts[1])) skipped=$((skipped + counts[2]))
  while read -r line; do
    failures+=("machine: $line")
  done < <(sed -n 's/^FAILED //p' "$log")
}

plancton_containers() {
  api GET '/containers/json?all=1&filters=%7B%22label%22%3A%5B%22io.plancton.instance%22%5D%7D' | grep -oE '"Id":"[0-9a-f]+"' | sort || true
}

live_tests() {
  local names name reason before
  mapfile -t names < <(test_files live)
  [ "${#names[@]}" -gt 0 ] || return 0
  title "engine"
  # not in a subshell: what it starts must be known here
  why_no_engine >"$TEST_TMP/reason"
  reason=$(cat "$TEST_TMP/reason")
  if [ -n "$reason" ]; then
    for name in "${names[@]}"; do
      skip "$(count_tests "$name")" "$name" "$reason"
    done
    # there the live tests are what is asked for
    if [ "${CI:-}" = true ] && [ "$without_engine" = no ]; then
      fail "live tests in CI, without an engine"
    fi
    return 0
  fi
  echo "engine: $PLANCTON_TEST_ENGINE, image: $PLANCTON_TEST_IMAGE"
  [ "$(id -u)" != 0 ] || export PLANCTON_TEST_ROOT=1
  before=$(plancton_containers)
  for name in "${names[@]}"; do
    ! grep -q '^// alone' "tests/$name.rs" || finish_others
    begin_file "$name"
    finish_file "$name"
  done
  # an engine that was there before may have other users
  [ "$ENGINE_STARTED" = no ] || check "nothing left behind" test "$(plancton_containers)" = "$before"
}

finish_others() {
  local name
  for name in "${others[@]}"; do finish_file "$name"; done
  others=()
}

given=("$@")
while [ $# -gt 0 ]; do
  case $1 in
  --without-engine) without_engine=yes ;;
  --without-machine) without_machine=yes ;;
  -*)
    sed -n '2,11s/^# //p' "${BASH_SOURCE[0]}" >&2
    exit 64
    ;;
  *)
    [ "$1" = machine ] || [ -e "tests/$1.rs" ] || { echo "tests/$1.rs: no such file" >&2; exit 64; }
    only+=("$1")
    ;;
  esac
  shift
done

# Beside a load of every core pilots, which run at idle priority, get next to nothing. A group of the tests' own, which the engine
# that they start takes for the whole machine, gets what any other program gets.
wants_group() {
  [ -z "${PLANCTON_TESTS_INSIDE:-}" ] && [ "$(id -u)" = 0 ] && [ "$without_engine" = no ] && ! has_systemd && ! engine_find &&
    unshare -m -C sh -ec 'cd /sys/fs/cgroup; umount cpu; mount -t cgroup -o cpu cgroup cpu' 2>/dev/null
}

in_own_group() { # in_own_group COMMAND…
  local group=/sys/fs/cgroup/cpu/plancton-tests-$$ status=0
  mkdir "$group"
  (
    echo "$BASHPID" >"$group/cgroup.procs"
    PLANCTON_TESTS_INSIDE=1 exec unshare -m -C --propagation private "$@"
  ) || status=$?
  find "$group" -depth -type d -exec rmdir {} +
  exit "$status"
}

mount_own_groups() {
  local mounts what at type options
  mounts=$(cat /proc/mounts)
  while read -r what at type options _; do
    [[ $type != cgroup* ]] || { umount "$at" && mount -t "$type" -o "$options" "$what" "$at"; }
  done <<<"$mounts"
}

wants_machine() { [ "${#only[@]}" = 0 ] || [[ " ${only[*]} " == *" machine "* ]]; }

! wants_group || in_own_group "$0" "${given[@]}"
[ -z "${PLANCTON_TESTS_INSIDE:-}" ] || mount_own_groups
[ "${#only[@]}" -gt 0 ] || static_checks
if [ "${only[*]}" = machine ]; then
  : # nothing of cargo's
elif title "build of the tests" && timeout -k 10 "$limit" cargo test --locked --no-run; then
  mapfile -t others < <(test_files other)
  for name in "${others[@]}"; do begin_file "$name"; done
  if [ "${#only[@]}" = 0 ]; then
    begin unit --bins
    others=(unit "${others[@]}")
  fi
  live_tests
  finish_others
else
  fail "the tests do not build, so none ran"
fi
! wants_machine || machine_tests

title "end"
engine_report
[ "${#failures[@]}" = 0 ] || printf 'failed: %s\n' "${failures[@]}"
printf 'total time: %s s\n' "$SECONDS"
printf '%s passed, %s failed, %s skipped\n' "$passed" "$failed" "$skipped"
[ "$failed" = 0 ]
