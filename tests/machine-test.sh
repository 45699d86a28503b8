#!/usr/bin/env bash
# The package on a machine as its users have it: machine.sh boots one, then tests/machine/system.sh takes the .deb and its unit
# through its life on Docker, with a power loss and a reboot, and tests/machine/rootless.sh the user unit on rootless Docker.
#   tests/machine-test.sh [--binary FILE] [STEP…]
#     --binary FILE   a static binary for the package (else packaging/build-static.sh makes it)
#     STEP            only these, after what they need: try use commands owner change disk member power end rootless
# Every check is a line "ok NAME", "FAILED NAME: why" or "skipped NAME: why"; the last line counts them. Where there can be no
# such machine, all of them are skipped, with the reason. Four minutes, once the machine is prepared and the package built.
set -euo pipefail

# shellcheck source=tests/machine/outside.sh
. "$(dirname "${BASH_SOURCE[0]}")/machine/outside.sh"
cd "$repository"
exec </dev/null

steps=(try use commands owner change disk member power end rootless)
binary='' only=()

usage() {
  sed -n '2,8s/^# //p' "${BASH_SOURCE[0]}" >&2
  exit 64
}

wanted() { [ "${#only[@]}" = 0 ] || [[ " ${only[*]} " == *" $1 "* ]]; }

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

skip_without_machine system rootless
"$machine" prepare
build_packages
"$machine" copy "$repository/tests/machine" "$TEST_TMP/packages"
SECONDS=0
if boot "boot"; then
  [ "${only[*]}" = rootless ] || run_system
  ! wanted rootless || run_rootless
fi
result
