#!/usr/bin/env bash
# The package on machines as its users have them: machine.sh boots three, side by side. On two of them tests/machine/system.sh takes
# the .deb and its unit through their life on Docker, with a power loss, a reboot and a purge; on the third that is beside
# tests/machine/rootless.sh, a user unit on rootless Docker. The first and the last have two cores, the second has one: the
# smallest that is rented, and cheaper beside the others.
#   tests/machine-test.sh [--binary FILE] [STEP…]
#     --binary FILE   a static binary for the package (else packaging/build-static.sh makes it)
#     STEP            only these, after what they need: use try owner without | disk change engine power end | commands member rootless
# Every check is a line "ok NAME", "FAILED NAME: why" or "skipped NAME: why"; the last line counts them. Where there can be no
# such machine, all of them are skipped, with the reason. Four minutes, once the machine is prepared and the package built.
set -euo pipefail

# shellcheck source=tests/machine/outside.sh
. "$(dirname "${BASH_SOURCE[0]}")/machine/outside.sh"
cd "$repository"
exec </dev/null

steps=(use try owner without disk change engine power end commands member rootless)
binary='' only=()

usage() {
  sed -n '2,10s/^# //p' "${BASH_SOURCE[0]}" >&2
  exit 64
}

# Two of them, with no rpmbuild in sight, as most who have a Debian build them.
build_packages() {
  mkdir -p "$TEST_TMP/packages" "$TEST_TMP/bin"
  [ -n "$binary" ] || binary=$(packaging/build-static.sh | cut -d' ' -f1)
  ln -sf /usr/sbin/* /usr/bin/* "$TEST_TMP/bin/"
  rm -f "$TEST_TMP/bin/rpmbuild"
  ok "build: where only rpmbuild is missing, it makes the .deb and is content (low)" \
    env "PATH=$TEST_TMP/bin" "CARGO_TARGET_DIR=$TEST_TMP" RELEASE=1 packaging/build.sh --binary "$binary"
  CARGO_TARGET_DIR=$TEST_TMP RELEASE=2 packaging/build.sh --binary "$binary" deb >/dev/null
  mv "$TEST_TMP"/packages/plancton_*-1_*.deb "$TEST_TMP/packages/first.deb"
  mv "$TEST_TMP"/packages/plancton_*-2_*.deb "$TEST_TMP/packages/next.deb"
}

# ---- three lives ----

is_wanted() { [ "${#only[@]}" = 0 ] || [[ " ${only[*]} " == *" $1 "* ]]; }

run_steps() { # run_steps FIRST STEP…: those that are wanted, after the first
  local step
  part system "$1"
  for step in "${@:2}"; do
    if ! is_wanted "$step"; then
      continue
    elif declare -F "step_$step" >/dev/null; then
      "step_$step"
    else
      part system "$step"
    fi
  done
}

owner_life() { run_steps begin use try owner without; }
package_life() { run_steps install disk change engine power end; }
user_life() { run_steps begin commands member rootless; }

step_power() {
  part system before
  "$machine" crash
  boot "crash: boot" || return 0
  part system crashed
  part system before
  "$machine" stop
  boot "reboot: boot" || return 0
  part system rebooted
}

step_rootless() {
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

skip_without_machine system rootless
"$machine" prepare
build_packages
SECONDS=0
if is_wanted use || is_wanted try || is_wanted owner || is_wanted without; then life owner owner_life; fi
if is_wanted disk || is_wanted change || is_wanted engine || is_wanted power || is_wanted end; then
  PLANCTON_MACHINE_CPUS=1 life package package_life
fi
if is_wanted commands || is_wanted member || is_wanted rootless; then life user user_life; fi
all_lives
result
