#!/usr/bin/env bash
# The life of both packages on a machine of its own: a container that boots systemd, beside a container engine of its own.
#   tests/packages.sh [--binary FILE]     FILE: a static binary (else packaging/build-static.sh makes it)
# Installs, configures, drains as a member of the group, upgrades under running pilots, reboots, removes, purges; then
# compares files, users, groups, cgroups, units, containers and images with those from before. Then the user unit, the
# Ansible role, and OpenRC in a box without systemd. Needs root, dockerd, docker, debootstrap, rpmbuild and a Debian mirror;
# about five minutes and the first time some more, so it is not part of run.sh.
# Each check is a line "ok …" or "failed …"; the last line counts them.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=tests/lib.sh
. "$here/lib.sh"
cd "$repository"
exec </dev/null

# Kept between runs: a root file system that boots, about 500 MB.
cache=${PLANCTON_TEST_CACHE:-${CARGO_TARGET_DIR:-$repository/target}/packages-bed}
box=plancton-box-$$
bed=plancton-bed:1
bed_packages=systemd,systemd-sysv,dbus,libpam-systemd,dbus-user-session,rpm,dnf,openrc,ansible-core,python3-apt,python3-cffi-backend
passed=0 failed=0
engine_pid=''

finish() {
  docker rm -fv "$box" >/dev/null 2>&1 || true
  if [ -n "$engine_pid" ]; then
    kill -TERM "$engine_pid" 2>/dev/null || true
    wait_gone 20 "$engine_pid" || kill -KILL "$engine_pid" 2>/dev/null || true
  fi
  stop_all || true
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

ok() { # ok WHAT COMMAND…
  local what=$1
  shift
  if "$@"; then
    passed=$((passed + 1))
    echo "ok     $what"
  else
    failed=$((failed + 1))
    echo "failed $what"
  fi
}

becomes() { # becomes SECONDS COMMAND…: polls
  local end=$((SECONDS + $1))
  shift
  until "$@"; do
    [ "$SECONDS" -lt "$end" ] || return 1
    sleep 0.1
  done
}

# ---- the engine, the bed, the box ----

# With mounts and a network of its own, so that it takes no bridge away; its containers have none.
start_engine() {
  local dir=$TEST_TMP/engine
  mkdir -p "$dir"
  # shellcheck disable=SC2016 # expanded by that shell
  setsid unshare -m -n --propagation private sh -c 'ip link set lo up
    exec dockerd -H "unix://$0/docker.sock" --pidfile "$0/docker.pid" --data-root "$0/data" --exec-root "$0/exec" \
      --bridge none --iptables=false --ip6tables=false' "$dir" >"$dir/log" 2>&1 &
  engine_pid=$!
  export PLANCTON_TEST_ENGINE=$dir/docker.sock DOCKER_HOST=unix://$dir/docker.sock
  becomes 30 engine_answers "$PLANCTON_TEST_ENGINE" || { tail -n 5 "$dir/log" >&2; return 1; }
}

make_bed() {
  local mirror
  if [ "$(cat "$cache/ready" 2>/dev/null)" != "$bed_packages" ]; then
    rm -rf "$cache"
    mkdir -p "$cache"
    # shellcheck disable=SC2016 # a word of apt's
    mirror=$(apt-get indextargets --format '$(SITE)' | grep -v security | sort -u | head -n 1)
    say "making a Debian that boots in $cache"
    debootstrap --variant=minbase --include="$bed_packages" bookworm "$cache/root" "$mirror" >"$TEST_TMP/debootstrap.log"
    chroot "$cache/root" useradd -m volunteer
    chroot "$cache/root" systemctl -q mask systemd-networkd-wait-online.service apt-daily.timer apt-daily-upgrade.timer
    rm -f "$cache"/root/var/cache/apt/archives/*.deb
    echo "$bed_packages" >"$cache/ready"
  fi
  tar -C "$cache/root" --numeric-owner -c . | docker import - "$bed" >/dev/null
}

# The hierarchies of its own cgroup namespace are made writable for the systemd inside; the host's are out of its reach.
# Without the link systemd makes a directory of that name, which is no hierarchy.
start_box() { # start_box [COMMAND]: what its first process is, if not systemd
  # An idle machine, whatever this one is doing.
  printf 'cpu  100 0 100 100000 0 0 0 0 0 0\ncpu0 50 0 50 50000 0 0 0 0 0 0\ncpu1 50 0 50 50000 0 0 0 0 0 0\nintr 0\nctxt 1\nbtime %s\nprocesses 1\nprocs_running 1\nprocs_blocked 0\n' \
    "$(sed -n 's/^btime //p' /proc/stat)" >"$TEST_TMP/stat"
  docker run -d --pull never --name "$box" --hostname box --network none --cgroupns private --cap-add ALL --cap-drop SYS_RESOURCE \
    --security-opt seccomp=unconfined --security-opt apparmor=unconfined --tmpfs /run --tmpfs /run/lock --tmpfs /tmp \
    --stop-signal SIGRTMIN+3 -v "$TEST_TMP/engine/docker.sock:/var/run/docker.sock" -v "$packages:/packages:ro" \
    -v "$repository/packaging/ansible:/role:ro" -v "$TEST_TMP/engine/data:$TEST_TMP/engine/data:ro" -v "$TEST_TMP/stat:/proc/stat:ro" "$bed" \
    /bin/sh -c 'for d in /sys/fs/cgroup /sys/fs/cgroup/*; do [ -L $d ] || mount -o remount,bind,rw $d; done; ln -sfn cpu /sys/fs/cgroup/cpu,cpuacct
      '"${1:-exec /sbin/init}" >/dev/null
  [ $# = 0 ] || return 0
  becomes 30 booted || { say "the box does not boot: $(docker inspect -f "{{json .State}}" "$box") $(inside systemctl is-system-running 2>&1)"; return 1; }
}

booted() { [[ "$(inside systemctl is-system-running 2>/dev/null)" =~ ^(running|degraded) ]]; }

inside() { docker exec "$box" "$@"; }

as_volunteer() { inside runuser -u volunteer -- "$@"; }

# ---- what is looked at ----

state() { inside plancton status --json 2>/dev/null | sed -n 's/^  "state": "\(.*\)",$/\1/p'; }
is_state() { [ "$(state)" = "$1" ]; }
reason() { inside plancton status --json 2>/dev/null | grep -A1 '"reason"' | sed -n 's/.*"code": "\(.*\)",$/\1/p'; }
is_reason() { [ "$(reason)" = "$1" ]; }
pilots() { docker ps -q --no-trunc --filter label=io.plancton.instance "$@" | sort; }
runs_pilots() { [ "$(pilots --filter status=running | wc -l)" = "$1" ]; }
is_active() { [ "$(inside systemctl is-active plancton.service)" = active ]; }
main_pid() { inside systemctl show -p MainPID --value plancton.service; }
has_denials() { inside journalctl --no-pager -o cat -u plancton.service -u plancton-reap.service | grep -iE 'denied|not permitted|read-only file system'; }
no_denials() { ! has_denials; }
no_warnings() { ! inside journalctl --no-pager -o cat -u plancton.service | grep -E '^(warn|error)'; }

# Everything that a package could leave behind, one line each.
snapshot() {
  inside find / -xdev \( -path /proc -o -path /sys -o -path /tmp -o -path /run -o -path /dev -o -path /var/log -o -path /var/cache -o -path /var/tmp \
    -o -path /var/lib/dpkg -o -path /var/lib/rpm -o -path /var/lib/dnf -o -path '/etc/*-' -o -path /root \) -prune -o -printf '%y %m %u:%g %l %p\n' | sort
  inside find /run -path '*plancton*' -not -path '/run/systemd/journal/*'
  inside sort /etc/passwd /etc/group /etc/gshadow
  inside find /sys/fs/cgroup -type d -path '*plancton*'
  inside systemctl list-unit-files --no-legend --plain '*plancton*'
  inside systemctl list-units --all --no-legend --plain '*plancton*'
  docker ps -aq --no-trunc | sort
  docker images -aq --no-trunc | sort
}

same_as_before() {
  snapshot >"$TEST_TMP/after" 2>/dev/null || true
  diff "$TEST_TMP/before" "$TEST_TMP/after"
}

write_config() { # write_config [FILE]
  docker exec -i "$box" sh -c "cat >${1:-/etc/plancton/config.toml}" <<'TOML'
# edited by the administrator
[loop]
interval = "1s"
[share]
cpus = 8
reserve-cpus = 0
reserve-memory = "64MiB"
reserve-disk = "64MiB"
max-pilots = 2
[owner]
calm-for = "1s"
[[pilot]]
name = "sleeper"
image = "plancton-test/busybox:1"
command = ["/bin/busybox", "sleep", "3600"]
cpus = 0.01
memory = "16MiB"
network = "none"
stop-grace = "1s"
max = 1
[[pilot]]
name = "builtin"
image = "builtin"
command = ["pilot", "--for", "1h"]
cpus = 0.05
memory = "32MiB"
network = "none"
stop-grace = "1s"
max = 1
TOML
}

# ---- one life of a package: life KIND INSTALL UPGRADE REMOVE, each a command inside the box ----

install_and_use() {
  local start first
  snapshot >"$TEST_TMP/before" 2>/dev/null || true
  start=$(date +%s%N)
  ok "$1: install" inside sh -c "$2"
  first=$(date +%s%N)
  ok "$1: active within 2 s" becomes 2 is_active
  echo "       installation $(((first - start) / 1000000)) ms, active $((($(date +%s%N) - first) / 1000000)) ms later"
  ok "$1: it waits for a pilot to be configured" becomes 5 is_reason no-pilot
  ok "$1: status says how to begin" grep -q 'plancton config --default' <<<"$(inside plancton status)"
  write_config
  inside usermod -aG plancton volunteer
  ok "$1: reload" inside systemctl reload plancton
  ok "$1: pilots run" becomes 120 runs_pilots 2
  ok "$1: one of them is the built-in one" grep -q plancton-builtin <<<"$(docker ps --format '{{.Image}}')"
  ok "$1: drain by a member of the group" as_volunteer plancton drain
  ok "$1: it drains" becomes 5 is_state draining
  ok "$1: resume by a member of the group" as_volunteer plancton resume
  ok "$1: it is active again" becomes 5 is_state active
  ok "$1: snooze pauses" as_volunteer plancton snooze 1h
  ok "$1: pilots are paused" becomes 10 test_paused
  as_volunteer plancton resume >/dev/null
  ok "$1: pilots go on" becomes 10 runs_pilots 2
  # Read back from a pilot it cannot be here: that one is in the host's groups, which the box does not see.
  ok "$1: the group is made, and idle" is_idle
  ok "$1: kill of one" inside plancton kill "$(pilots | head -n 1)"
  ok "$1: another one takes its place" becomes 120 runs_pilots 2
  ok "$1: reap by its unit" inside systemctl start plancton-reap.service
  ok "$1: the timer is set" inside systemctl is-active plancton-reap.timer
}

is_idle() { [ "$(inside sh -c 'cat /sys/fs/cgroup/cpu/plancton/cpu.idle || cat /sys/fs/cgroup/plancton/cpu.idle' 2>/dev/null)" = 1 ]; }
test_paused() { [ "$(pilots --filter status=paused | wc -l)" = 2 ]; }

# With a short watchdog it is seen to live through, and a stopped daemon is started again.
watchdog() {
  local pid
  inside sh -c 'mkdir -p /run/systemd/system/plancton.service.d
    printf "[Service]\nWatchdogSec=1s\nRestartSec=100ms\n" >/run/systemd/system/plancton.service.d/test.conf
    systemctl daemon-reload; systemctl restart plancton'
  pid=$(main_pid)
  sleep 4
  ok "$1: the watchdog is fed" test "$(main_pid)" = "$pid"
  inside sh -c "kill -STOP $pid"
  ok "$1: a daemon that hangs is started again" becomes 20 other_pid "$pid"
  inside sh -c 'rm -r /run/systemd/system/plancton.service.d; systemctl daemon-reload; systemctl restart plancton'
}

other_pid() { is_active && [ "$(main_pid)" != "$1" ] && [ "$(main_pid)" != 0 ]; }

upgrade_and_reboot() {
  local before pid
  before=$(pilots) pid=$(main_pid)
  ok "$1: upgrade" inside sh -c "$2"
  ok "$1: the new daemon runs" becomes 10 other_pid "$pid"
  ok "$1: it looks at pilots" becomes 10 is_state active
  ok "$1: the same pilots run" test "$(pilots --filter status=running)" = "$before"
  ok "$1: the configuration is as it was edited" inside grep -q 'edited by the administrator' /etc/plancton/config.toml
  as_volunteer plancton drain >/dev/null
  docker restart -t 20 "$box" >/dev/null
  ok "$1: the machine is up again" becomes 30 booted
  ok "$1: the daemon as well" becomes 5 is_active
  ok "$1: the drain holds" becomes 10 is_state draining
  as_volunteer plancton resume >/dev/null
  ok "$1: pilots after the reboot" becomes 120 runs_pilots 2
  ok "$1: the daemon's journal names no denial" no_denials
}

remove_deb() {
  as_volunteer plancton drain >/dev/null
  ok "deb: remove" inside dpkg -r plancton
  ok "deb: pilots, images and groups are gone" same_parts
  ok "deb: a drain is kept" inside test -e /var/lib/plancton/control/drain
  ok "deb: install again" inside sh -c 'dpkg -i /packages/plancton_0.0.2-1_*.deb'
  ok "deb: still drained" becomes 10 is_state draining
  ok "deb: purge" inside dpkg -P plancton
}

same_parts() {
  [ -z "$(docker ps -aq --filter label=io.plancton.instance)$(docker images -q plancton-builtin)" ] &&
    [ -z "$(inside find /sys/fs/cgroup -type d -path '*plancton*')" ]
}

# An engine that does not answer keeps nobody from removing the package, and what is left is named.
remove_without_engine() {
  inside sh -c 'dpkg -i /packages/plancton_0.0.1-1_*.deb' >/dev/null 2>&1
  write_config
  inside systemctl reload plancton
  becomes 120 runs_pilots 2
  inside umount /run/docker.sock
  inside dpkg -P plancton >"$TEST_TMP/words" 2>&1 || true
  ok "without an engine: purge ends" test -z "$(inside sh -c 'dpkg-query -W plancton 2>/dev/null')"
  ok "without an engine: it says what is left" grep -q 'docker rm -fv' "$TEST_TMP/words"
  pilots -a | xargs -r docker rm -fv >/dev/null
  docker images -q plancton-builtin | xargs -r docker rmi -f >/dev/null
}

# dnf finds what every distribution of rpm packages has in a package that provides it.
make_stand_in() {
  printf '%s\n' 'Name: stand-in' 'Version: 1' 'Release: 1' 'Summary: What a distribution has anyway' 'License: MIT' 'BuildArch: noarch' \
    'Provides: /bin/sh shadow-utils' %description '%{summary}' %files >"$TEST_TMP/stand-in.spec"
  rpmbuild -bb --quiet --define "_topdir $TEST_TMP/rpmbuild" --define "_rpmdir $packages" "$TEST_TMP/stand-in.spec"
}

as_packaged() { ! inside rpm -V plancton | grep -v ' c /etc/plancton/config.toml$'; }

# ---- the other ways to run it ----

as_user() { inside runuser -u volunteer -- env HOME=/home/volunteer XDG_RUNTIME_DIR=/run/user/1000 "$@"; }
user_runs() { as_user systemctl --user -q is-active plancton; }

# A volunteer's own daemon, on an engine that is open to that user.
user_unit() {
  local before config=/home/volunteer/.config/plancton
  inside sh -c 'dpkg -i /packages/plancton_0.0.1-1_*.deb' >/dev/null 2>&1
  inside chgrp volunteer /run/docker.sock
  inside loginctl enable-linger volunteer
  as_user mkdir -p "$config"
  write_config "$config/config.toml"
  ok "user: enable" becomes 10 as_user systemctl --user -q enable --now plancton
  ok "user: pilots run" becomes 120 runs_pilots 2
  before=$(pilots)
  ok "user: reload" as_user systemctl --user reload plancton
  ok "user: drain" as_user plancton drain
  as_user plancton resume >/dev/null
  docker restart -t 20 "$box" >/dev/null
  becomes 30 booted
  ok "user: it comes back with the machine" becomes 10 user_runs
  ok "user: the same pilots run" test "$(pilots --filter status=running)" = "$before"
  ok "user: disable" as_user systemctl --user -q disable --now plancton
  ok "user: purge" as_user plancton purge
  ok "user: nothing is left but the configuration" \
    test "$(pilots)$(inside find /home/volunteer /run/user -name '*plancton*')" = "$config"
  inside dpkg -P plancton >/dev/null 2>&1
}

# role PACKAGE-MANAGER PACKAGE: the Ansible role on the box itself; the manager is told, since the box has both.
role() {
  docker exec -i "$box" sh -c 'cat >/root/play.yml' <<YAML
- hosts: localhost
  connection: local
  pre_tasks: [{ ansible.builtin.set_fact: { pkg_mgr: $1, cacheable: true } }]
  module_defaults: { ansible.builtin.dnf: { releasever: "39" } }
  roles: [/role]
  vars:
    plancton_package: /packages/$2
    plancton_members: [volunteer]
    plancton_config: |
      [share]
      max-pilots = 3
YAML
  ok "ansible, $1: the role" plays 'failed=0'
  ok "ansible, $1: a second time changes nothing" plays 'changed=0 .*failed=0'
  ok "ansible, $1: a dry run" plays 'failed=0' --check
  inside sed -i 's/max-pilots = 3/max-pilots = "many"/' /root/play.yml
  ok "ansible, $1: a bad configuration is refused" plays 'failed to validate'
  ok "ansible, $1: the good one stays" inside grep -q 'max-pilots = 3' /etc/plancton/config.toml
  ok "ansible, $1: the daemon runs" is_active
}

plays() { # plays PATTERN [OPTION]: that the playbook says this
  local said
  said=$(inside ansible-playbook /root/play.yml "${@:2}" 2>&1) || true
  grep -q "$1" <<<"$said" || { printf '%s\n' "$said" >&2; return 1; }
}

# The pid in the lock file, whatever started it.
daemon_pid() { inside cat /run/plancton/lock; }
other_daemon() { [ "$(daemon_pid)" != "$1" ] && inside test -d "/proc/$(daemon_pid)"; }
no_daemon() { ! inside grep -qx plancton -r /proc --include=comm 2>/dev/null; }

# In a box whose first process only waits for its children.
openrc() {
  local before pid
  docker rm -fv "$box" >/dev/null
  start_box 'while :; do sleep 1; done'
  # what openrc makes when it boots a machine
  inside sh -c 'mkdir /run/openrc && cd /run/openrc && touch softlevel && mkdir exclusive started starting stopping inactive wasinactive failed hotplugged \
    daemons options scheduled tmp
    dpkg -i /packages/plancton_0.0.1-1_*.deb
    install -m 755 /usr/share/doc/plancton/examples/openrc-plancton /etc/init.d/plancton' >/dev/null 2>&1
  write_config
  ok "openrc: start" inside rc-service -q plancton start
  ok "openrc: pilots run" becomes 120 runs_pilots 2
  before=$(pilots) pid=$(daemon_pid)
  ok "openrc: reload" inside rc-service -q plancton reload
  inside sh -c "kill -KILL $pid"
  ok "openrc: a daemon that died is started again" becomes 30 other_daemon "$pid"
  pid=$(daemon_pid)
  ok "openrc: upgrade" inside sh -c 'dpkg -i /packages/plancton_0.0.2-1_*.deb'
  ok "openrc: the new daemon runs" becomes 10 other_daemon "$pid"
  ok "openrc: under its supervisor" inside rc-service -q plancton status
  ok "openrc: the same pilots run" test "$(pilots --filter status=running)" = "$before"
  ok "openrc: it has a log" inside grep -q 'plancton .* on ' /var/lib/plancton/plancton.log
  ok "openrc: purge" inside dpkg -P plancton
  ok "openrc: pilots, images and groups are gone" same_parts
  ok "openrc: no daemon is left" no_daemon
}

[ "$(id -u)" = 0 ] || { echo "packages.sh needs root" >&2; exit 1; }
for program in docker dockerd debootstrap rpmbuild dpkg-deb; do
  command -v "$program" >/dev/null || install_packages 'docker.io debootstrap rpm dpkg' 'moby-engine debootstrap rpm-build dpkg'
done
packages=$TEST_TMP/packages
mkdir "$packages"
binary=${2:-}
[ -n "$binary" ] || binary=$(packaging/build-static.sh | cut -d' ' -f1)
for version in 0.0.1 0.0.2; do
  VERSION=$version CARGO_TARGET_DIR=$TEST_TMP packaging/build.sh --binary "$binary"
done
make_stand_in
start_engine
make_image
make_bed

start_box
install_and_use deb 'dpkg -i /packages/plancton_0.0.1-1_*.deb'
watchdog deb
upgrade_and_reboot deb 'dpkg -i /packages/plancton_0.0.2-1_*.deb'
remove_deb
ok "deb: nothing is left" same_as_before

dnf='dnf -y -q --releasever=39 --setopt=reposdir=/nowhere --nogpgcheck'
inside sh -c "$dnf install /packages/noarch/*.rpm"
install_and_use rpm "$dnf install /packages/plancton-0.0.1-1.*.rpm"
upgrade_and_reboot rpm "$dnf upgrade /packages/plancton-0.0.2-1.*.rpm"
ok "rpm: files are as packaged" as_packaged
ok "rpm: remove" inside sh -c "$dnf remove plancton"
inside rm -rf /etc/plancton
ok "rpm: nothing is left but the edited configuration" same_as_before

user_unit
role apt "$(cd "$packages" && echo plancton_0.0.1-1_*.deb)"
inside dpkg -P plancton
role dnf "$(cd "$packages" && echo plancton-0.0.1-1.*.rpm)"
inside sh -c "$dnf remove plancton"

remove_without_engine
openrc
printf '%s passed, %s failed, %s s\n' "$passed" "$failed" "$SECONDS"
[ "$failed" = 0 ]
