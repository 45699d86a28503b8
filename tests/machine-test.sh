#!/usr/bin/env bash
# The package on a machine as its users have it: machine.sh boots one, then tests/machine/system.sh takes the .deb and its unit
# through its life on Docker, with a power loss and a reboot, and tests/machine/rootless.sh the user unit on rootless Docker.
#   tests/machine-test.sh [--binary FILE] [STEP…]
#     --binary FILE   a static binary for the package (else packaging/build-static.sh makes it)
#     STEP            only these, after what they need: try use commands owner change disk member power end rootless
# Every check is a line "ok NAME", "FAILED NAME: why" or "skipped NAME: why"; the last line counts them. Where there can be no
# such machine, all of them are skipped, with the reason. Four minutes, once the machine is prepared and the package built.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=tests/lib.sh
. "$here/lib.sh"
cd "$repository"
exec </dev/null

steps=(try use commands owner change disk member power end rootless)
part_limit=150 # seconds that a part may take
passed=0 failed=0 skipped=0
binary='' only=()
export PLANCTON_MACHINE=$TEST_TMP/machine
machine=$here/machine.sh

finish() {
  "$machine" crash || true
  stop_all || true
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

usage() {
  sed -n '2,8s/^# //p' "${BASH_SOURCE[0]}" >&2
  exit 64
}

result() {
  printf 'machine: %s s\n%s passed, %s failed, %s skipped\n' "$SECONDS" "$passed" "$failed" "$skipped"
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

wanted() { [ "${#only[@]}" = 0 ] || [[ " ${only[*]} " == *" $1 "* ]]; }

# Both packages, with no rpmbuild in sight, as most who have a Debian build them.
build_packages() {
  local directory
  mkdir -p "$TEST_TMP/packages" "$TEST_TMP/bin"
  [ -n "$binary" ] || binary=$(packaging/build-static.sh | cut -d' ' -f1)
  for directory in /usr/sbin /usr/bin; do ln -sf "$directory"/* "$TEST_TMP/bin/"; done
  rm -f "$TEST_TMP/bin/rpmbuild"
  ok "build: where only rpmbuild is missing, it makes the .deb and is content (low)" \
    env "PATH=$TEST_TMP/bin" "CARGO_TARGET_DIR=$TEST_TMP" RELEASE=1 packaging/build.sh --binary "$binary"
  CARGO_TARGET_DIR=$TEST_TMP RELEASE=2 packaging/build.sh --binary "$binary" deb >/dev/null
  mv "$TEST_TMP"/packages/plancton_*-1_*.deb "$TEST_TMP/packages/first.deb"
  mv "$TEST_TMP"/packages/plancton_*-2_*.deb "$TEST_TMP/packages/next.deb"
}

# part SCRIPT PART: what it says counts; one that does not come to its end is a failure.
part() {
  local log=$TEST_TMP/part.log started=$SECONDS word
  timeout -k 5 "$part_limit" "$machine" run "bash /host/machine/$1.sh $2" 2>&1 | tee "$log" | grep --line-buffered -E '^(ok|FAILED|skipped) ' || true
  read -r -a word < <(awk '$1 == "ok" { p++ } $1 == "FAILED" { f++ } $1 == "skipped" { s++ } END { print p + 0, f + 0, s + 0 }' "$log")
  passed=$((passed + word[0])) failed=$((failed + word[1])) skipped=$((skipped + word[2]))
  [ "$(tail -n 1 "$log")" = end ] || fail "$1 $2: it broke off after $((SECONDS - started)) s: $(grep -v '^ok ' "$log" | tail -n 1)"
  printf -- '-- %s %s: %s s\n' "$1" "$2" "$((SECONDS - started))"
}

boot() { # boot WHY: false where it does not come up, which is a failure
  local started=$SECONDS
  if timeout 90 "$machine" start >"$TEST_TMP/words" 2>&1; then
    printf -- '-- %s: %s s\n' "$1" "$((SECONDS - started))"
  else
    fail "$1: $(tail -n 1 "$TEST_TMP/words")"
    return 1
  fi
}

power() {
  part system before
  "$machine" crash
  boot "boot after the power loss" || return 0
  part system crashed
  part system before
  "$machine" stop
  boot "boot after a clean end" || return 0
  part system rebooted
}

run_system() {
  local step
  part system install
  for step in "${steps[@]}"; do
    if [ "$step" = rootless ] || ! wanted "$step"; then
      continue
    elif [ "$step" = power ]; then
      power
    else
      part system "$step"
    fi
  done
}

run_rootless() {
  local step
  for step in engine use end; do part rootless "$step"; done
}

while [ $# -gt 0 ]; do
  case $1 in
  --binary)
    binary=$(realpath "${2:?--binary needs a file}")
    shift
    ;;
  *)
    [[ " ${steps[*]} " == *" $1 "* ]] || usage
    only+=("$1")
    ;;
  esac
  shift
done

reason=$("$machine" why-not)
if [ -n "$reason" ]; then
  skipped=$(cat "$here"/machine/*.sh | grep -cE '^ *ok "')
  echo "skipped the machine: $reason"
  result
  exit 0
fi
"$machine" prepare
build_packages
"$machine" copy "$here/machine" "$TEST_TMP/packages"
SECONDS=0
if boot "boot"; then
  [ "${only[*]}" = rootless ] || run_system
  ! wanted rootless || run_rootless
fi
result
[ "$failed" = 0 ]
