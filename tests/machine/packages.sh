#!/usr/bin/env bash
# Inside of the machine, which has rpm, dnf, OpenRC and Ansible for this: what the packages do beyond system.sh.
#   packages.sh PART…
# shellcheck disable=SC2016 # words of jq's and of shells

# shellcheck source=tests/machine/inside.sh
. "$(dirname "${BASH_SOURCE[0]}")/inside.sh"

offline_dnf() { dnf -y -q --releasever=39 --setopt=reposdir=/nowhere --nogpgcheck "$@"; }

install_deb() { dpkg -i "$packages/first.deb" >/dev/null 2>&1; }

parts_are_gone() {
  same '' "$(containers; docker images -q plancton-builtin; find /sys/fs/cgroup -type d -path '*plancton*')"
}

# ---- the .deb: watched, removed and back again ----

part_deb() {
  make_archive
  usermod -aG plancton volunteer 2>/dev/null
  snapshot >/root/before 2>/dev/null
  install_deb
  configure sleeper
  systemctl reload plancton
  ok "deb: a pilot runs" becomes 40 has_pilots 1
  watchdog
  plancton drain >/dev/null
  ok "deb: remove" dpkg -r plancton
  ok "deb: pilots and groups are gone" parts_are_gone
  ok "deb: a drain is kept" test -e /var/lib/plancton/control/drain
  ok "deb: install again" install_deb
  ok "deb: still drained" becomes 10 is_state draining
  ok "deb: purge" dpkg -P plancton
  docker rmi -f "$image" >/dev/null 2>&1
  ok "deb: all is as it was before" same_as_before
}

# With a short watchdog it is seen to live through, and a stopped daemon is started again.
watchdog() {
  local pid dropin=/run/systemd/system/plancton.service.d
  mkdir -p $dropin
  printf '[Service]\nWatchdogSec=1s\nRestartSec=100ms\n' >$dropin/test.conf
  systemctl daemon-reload
  systemctl restart plancton
  pid=$(main_pid)
  ok "deb: the watchdog is fed" stays 4 same "$pid" "$(main_pid)"
  ok "deb: that daemon is still there" same "$pid" "$(main_pid)"
  kill -STOP "$pid"
  ok "deb: a daemon that hangs is started again" becomes 20 is_other_daemon "$pid"
  rm -r $dropin
  systemctl daemon-reload
  systemctl restart plancton
}

# ---- the .rpm, on a machine whose packages dnf knows nothing of ----

part_rpm() {
  local before pid
  offline_dnf install $packages/noarch/*.rpm >/dev/null 2>&1
  snapshot >/root/before 2>/dev/null
  ok "rpm: install" offline_dnf install $packages/plancton-*-1.*.rpm
  systemctl start plancton.service
  ok "rpm: it waits for a pilot to be configured" becomes 5 is_reason no-pilot
  configure sleepers
  usermod -aG plancton volunteer
  ok "rpm: reload" systemctl reload plancton
  ok "rpm: pilots run" becomes 60 has_pilots 2
  ok "rpm: drain by a member of the group" runuser -u volunteer -- env -u XDG_RUNTIME_DIR plancton drain
  ok "rpm: it drains" becomes 5 is_state draining
  runuser -u volunteer -- env -u XDG_RUNTIME_DIR plancton resume >/dev/null
  becomes 5 is_state active >/dev/null
  before=$(ids) pid=$(main_pid)
  ok "rpm: upgrade" offline_dnf upgrade $packages/plancton-*-2.*.rpm
  ok "rpm: the new daemon runs" becomes 10 is_other_daemon "$pid"
  ok "rpm: the same pilots run" becomes 10 same_pilots "$before"
  plancton drain >/dev/null
}

part_rpm_rebooted() {
  ok "rpm: the daemon comes back with the machine" becomes 15 is_up
  ok "rpm: the drain holds" becomes 10 is_state draining
  plancton resume >/dev/null
  ok "rpm: pilots after the reboot" becomes 60 has_pilots 2
  ok "rpm: files are as packaged" as_packaged
  ok "rpm: remove" offline_dnf remove plancton
  rm -rf /etc/plancton
  docker rmi -f "$image" >/dev/null 2>&1
  ok "rpm: nothing is left but the edited configuration" same_as_before
}

same_pilots() { same "$1" "$(ids)"; }
as_packaged() { ! rpm -V plancton | grep -v ' c /etc/plancton/config.toml$'; }

# ---- the Ansible role, on the machine itself ----

part_ansible_apt() { role apt first.deb; dpkg -P plancton >/dev/null 2>&1; }
part_ansible_dnf() { role dnf "$(cd $packages && echo plancton-*-1.*.rpm)"; offline_dnf remove plancton >/dev/null 2>&1; }

role() { # role PACKAGE-MANAGER PACKAGE: the manager is told, since the machine has both
  cat >/root/play.yml <<YAML
- hosts: localhost
  connection: local
  pre_tasks: [{ ansible.builtin.set_fact: { pkg_mgr: $1, cacheable: true } }]
  module_defaults: { ansible.builtin.dnf: { releasever: "39" } }
  roles: [/host/ansible]
  vars:
    plancton_package: $packages/$2
    plancton_members: [volunteer]
    plancton_config: |
      [share]
      max-pilots = 3
YAML
  ok "ansible, $1: the role" plays 'failed=0'
  ok "ansible, $1: a second time changes nothing" plays 'changed=0 .*failed=0'
  ok "ansible, $1: a dry run" plays 'failed=0' --check
  sed -i 's/max-pilots = 3/max-pilots = "many"/' /root/play.yml
  ok "ansible, $1: a bad configuration is refused" plays 'failed to validate'
  ok "ansible, $1: the good one stays" grep -q 'max-pilots = 3' $config
  ok "ansible, $1: the daemon runs" is_up
}

plays() { # plays PATTERN [OPTION]: that the playbook says this
  local said
  said=$(ansible-playbook /root/play.yml "${@:2}" 2>&1)
  grep -q "$1" <<<"$said" || { echo "$said"; return 1; }
}

# ---- OpenRC: processes and mounts in which no systemd is seen, and an engine that makes its groups itself ----

part_openrc() {
  # its package conflicts with systemd's init, which runs here beside it
  dpkg -i --force-depends $packages/openrc/*.deb >/dev/null 2>&1
  echo '{ "exec-opts": ["native.cgroupdriver=cgroupfs"] }' >/etc/docker/daemon.json
  engine_again
  becomes 20 engine_answers >/dev/null
  unshare -m -p -f --mount-proc --propagation private sh -c 'mount -t tmpfs tmpfs /run/systemd; exec bash "$0" openrc_box' "${BASH_SOURCE[0]}" | grep -v '^end$'
  rm /etc/docker/daemon.json
  systemctl daemon-reload
  engine_again
}

part_openrc_box() {
  local before pid
  # what openrc makes when it boots a machine
  mkdir -p /run/openrc/{exclusive,started,starting,stopping,inactive,wasinactive,failed,hotplugged,daemons,options,scheduled,tmp}
  touch /run/openrc/softlevel
  install_deb
  install -m 755 /usr/share/doc/plancton/examples/openrc-plancton /etc/init.d/plancton
  configure sleepers
  ok "openrc: start" rc-service -q plancton start
  ok "openrc: pilots run" becomes 60 has_pilots 2
  before=$(ids) pid=$(cat /run/plancton/lock)
  ok "openrc: reload" rc-service -q plancton reload
  kill -KILL "$pid"
  ok "openrc: a daemon that died is started again" becomes 30 other_daemon "$pid"
  pid=$(cat /run/plancton/lock)
  ok "openrc: upgrade" dpkg -i "$packages/next.deb"
  ok "openrc: the new daemon runs" becomes 10 other_daemon "$pid"
  ok "openrc: under its supervisor" rc-service -q plancton status
  ok "openrc: the same pilots run" becomes 10 same_pilots "$before"
  ok "openrc: it has a log" grep -q 'plancton .* on ' /var/lib/plancton/plancton.log
  ok "openrc: purge" dpkg -P plancton
  ok "openrc: pilots and groups are gone" parts_are_gone
  ok "openrc: no daemon is left" not grep -qx plancton -r /proc --include=comm
  rm -rf /etc/init.d/plancton /run/openrc
}

other_daemon() { [ "$(cat /run/plancton/lock)" != "$1" ] && [ -d "/proc/$(cat /run/plancton/lock)" ]; }

for part in "$@"; do "part_$part"; done
echo end
