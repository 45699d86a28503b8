#!/usr/bin/env bash
# Both packages in every way to install them: on a machine of machine.sh that has dnf, OpenRC and Ansible beside apt, the .deb
# is watched, removed and back again, the .rpm goes from installation over upgrade and reboot to removal, then the Ansible role
# with both, and OpenRC. What the .deb does on a machine with systemd is machine-test.sh, which is part of run.sh; this is not.
#   tests/packages.sh [--binary FILE]     FILE: a static binary (else packaging/build-static.sh makes it)
# Every check is a line "ok NAME", "FAILED NAME: why" or "skipped NAME: why"; the last line counts them. About five minutes,
# the first time some more: the machine's disk is made, and rpmbuild is installed where it is missing.
set -euo pipefail

export PLANCTON_MACHINE_PACKAGES='rpm dnf ansible-core python3-apt python3-cffi-backend'
# shellcheck source=tests/machine/outside.sh
. "$(dirname "${BASH_SOURCE[0]}")/machine/outside.sh"
cd "$repository"
exec </dev/null

binary=''
if [ "${1:-}" = --binary ]; then binary=$(realpath "${2:?--binary needs a file}"); fi

# dnf finds what every distribution of rpm packages has in a package that provides it.
make_stand_in() {
  printf '%s\n' 'Name: stand-in' 'Version: 1' 'Release: 1' 'Summary: What a distribution has anyway' 'License: MIT' 'BuildArch: noarch' \
    'Provides: /bin/sh shadow-utils' %description '%{summary}' %files >"$TEST_TMP/stand-in.spec"
  rpmbuild -bb --quiet --define "_topdir $TEST_TMP/rpmbuild" --define "_rpmdir $TEST_TMP/packages" "$TEST_TMP/stand-in.spec"
}

build_packages() {
  local number
  command -v rpmbuild >/dev/null || install_packages rpm rpm-build
  [ -n "$binary" ] || binary=$(packaging/build-static.sh | cut -d' ' -f1)
  for number in 1 2; do
    CARGO_TARGET_DIR=$TEST_TMP RELEASE=$number packaging/build.sh --binary "$binary" >/dev/null
  done
  make_stand_in
  mkdir "$TEST_TMP/packages/openrc"
  (cd "$TEST_TMP/packages/openrc" && apt-get -qq -o APT::Sandbox::User=root download openrc librc1 libeinfo1)
  mv "$TEST_TMP"/packages/plancton_*-1_*.deb "$TEST_TMP/packages/first.deb"
  mv "$TEST_TMP"/packages/plancton_*-2_*.deb "$TEST_TMP/packages/next.deb"
}

every_way() {
  local name
  for name in deb rpm; do part packages "$name"; done
  "$machine" stop
  boot "reboot: boot" || return 0
  for name in rpm_rebooted ansible_apt ansible_dnf openrc; do part packages "$name"; done
}

skip_without_machine packages
"$machine" prepare
build_packages
SECONDS=0
life packages every_way
all_lives
result
