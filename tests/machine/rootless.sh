#!/usr/bin/env bash
# Inside of the machine: a volunteer's own daemon, the package's user unit, on their own rootless Docker, while the machine's
# engine runs as well.
#   rootless.sh PART…
# shellcheck disable=SC2016 # words of jq's

# shellcheck source=tests/machine/inside.sh
. "$(dirname "${BASH_SOURCE[0]}")/inside.sh"

home=/home/volunteer
run=/run/user/1000
as=(runuser -u volunteer -- env "HOME=$home" "XDG_RUNTIME_DIR=$run" "DBUS_SESSION_BUS_ADDRESS=unix:path=$run/bus")
told=$run/plancton/status.json
config=$home/.config/plancton/config.toml

own_docker() { "${as[@]}" docker -H "unix://$run/docker.sock" "$@"; }
answers_the_volunteer() { own_docker version || { tail -n 1 /root/rootless; return 1; }; }
own_containers() { own_docker ps -aq --no-trunc --filter label=io.plancton.instance; }
user_systemctl() { "${as[@]}" systemctl --user "$@"; }

part_engine() {
  make_archive
  loginctl enable-linger volunteer
  becomes 15 test -S $run/bus >/dev/null
  "${as[@]}" "PATH=/usr/share/docker.io/contrib:$PATH" dockerd-rootless-setuptool.sh install --skip-iptables >/root/rootless 2>&1
  ok "rootless: Docker runs as the volunteer" becomes 30 answers_the_volunteer
}

part_use() {
  apt-get -qq -y install $packages/first.deb >/dev/null 2>&1
  "${as[@]}" mkdir -p ${config%/*}
  # What the owner used falls slowly: with half a core kept free, instead of a whole one, the pilot is back soon.
  share=$'reserve-disk = "64MiB"\nreserve-cpus = 0.5' configure worker
  sed -i 's/^max = 2/max = 1/; s/^cpus = .*/cpus = 0.2/' $config
  chown volunteer: $config
  ok "rootless: the unit starts" user_systemctl -q enable --now plancton
  ok "rootless: it takes the volunteer's own engine [5]" becomes 10 says --arg socket "$run/docker.sock" '.engine.socket == $socket and .engine.version != ""'
  ok "rootless: so does check [5]" checks_own_engine
  ok "rootless: a member of docker gets their own engine first [5]" member_checks_own_engine
  as_told
  ok "rootless: a pilot runs" becomes 40 says '.pilots | length == 1'
  ok "rootless: its use is read [4]" becomes 20 says '(.pilots | length) == 1 and .cpus.pilots > 0 and .reason.code != "probing"'
  ok "rootless: its memory is read [4]" says '.memory.pilots > 0'
  ok "rootless: the memory limit holds" own_setting memory.max $((64 << 20))
  ok "rootless: it runs at idle priority [8]" own_idle
  # Within the session only: below the user's own manager.
  ok "rootless: status says how far it is protected [8]" becomes 10 says '.protection.level == "session"'
  owner
  ok "rootless: snooze" "${as[@]}" plancton snooze 1h
  ok "rootless: snooze pauses" becomes 10 all_paused
  "${as[@]}" plancton resume >/dev/null
  ok "rootless: resume [4]" becomes 20 has_pilots 1
}

# With another engine than their own nothing further could be seen: then it is told.
as_told() {
  says --arg socket "$run/docker.sock" '.engine.socket == $socket' && return
  printf '[engine]\nsocket = "%s/docker.sock"\n' $run >>$config
  user_systemctl restart plancton
}

names_own_engine() { # names_own_engine WORDS: of check
  grep -E "^ok +engine.*$run/docker.sock" <<<"$1" || { grep -E '^[a-zA-Z]+ +engine' <<<"$1"; return 1; }
}

checks_own_engine() { names_own_engine "$("${as[@]}" plancton check 2>&1)"; }

member_checks_own_engine() {
  local words
  usermod -aG docker volunteer
  words=$("${as[@]}" plancton check 2>&1)
  gpasswd -d volunteer docker >/dev/null
  names_own_engine "$words"
}

own_group() {
  local pid
  pid=$(own_docker inspect -f '{{.State.Pid}}' "$(own_containers | head -n 1)") || return 1
  echo "/sys/fs/cgroup$(sed -n 's/^0:://p' "/proc/$pid/cgroup")"
}

own_setting() {
  local group
  group=$(own_group) || return 1
  same "$2" "$(cat "$group/$1")"
}

# Its group, or one above.
own_idle() {
  local group
  group=$(own_group) || return 1
  while [ "$group" != /sys/fs/cgroup ]; do
    [ "$(cat "$group/cpu.idle" 2>/dev/null)" != 1 ] || return 0
    group=${group%/*}
  done
  echo "no group above it is idle"
  return 1
}

# Whether by pausing or by the kernel: the owner's programs get the cores.
owner() {
  local group before pids=()
  group=$(own_group) || { ok "rootless: the owner gets the cores [4]" own_group; return; }
  before=$(used_ms "$group")
  ok "rootless: the pilot works [4]" becomes 30 has_used "$group" $((before + 200))
  for _ in 1 2; do
    sh -c 'while :; do :; done' &
    pids+=($!)
  done
  ok "rootless: the owner is seen [4]" becomes 10 says '.cpus.foreign > 1'
  ok "rootless: the owner gets the cores [4]" becomes 30 uses_little "$group"
  ok "rootless: and keeps them [4]" stays 4 all_paused
  kill "${pids[@]}"
  wait "${pids[@]}" 2>/dev/null
  ok "rootless: the pilot goes on after that [4]" becomes 40 has_pilots 1
}

uses_little() { # uses_little GROUP: less than a tenth of a core, for two seconds
  local before
  before=$(used_ms "$1")
  sleep 2
  [ $(($(used_ms "$1") - before)) -lt 200 ] || { echo "$(($(used_ms "$1") - before)) ms in 2 s"; return 1; }
}

has_used() { [ "$(used_ms "$1")" -ge "$2" ]; }

part_end() {
  ok "rootless: stop" user_systemctl -q disable --now plancton
  ok "rootless: purge" "${as[@]}" plancton purge
  ok "rootless: nothing is left but the configuration" same "${config%/*}" \
    "$(own_containers; own_docker images -q; find $home $run -name '*plancton*'; find /sys/fs/cgroup/user.slice -name '*plancton*')"
  ok "rootless: the journal has no denial, no panic, no error [5]" none_says 'denied|not permitted|panicked|^error' \
    "$(journalctl --no-pager -q -o cat _SYSTEMD_USER_UNIT=plancton.service)"
  delegation
  apt-get -qq -y purge plancton >/dev/null 2>&1
}

# Without the cpu controller there is no idle priority for a volunteer: check says which drop-in brings it.
delegation() {
  mkdir -p /etc/systemd/system/user@.service.d
  printf '[Service]\nDelegate=\nDelegate=pids memory\n' >/etc/systemd/system/user@.service.d/test.conf
  systemctl daemon-reload
  systemctl restart user@1000.service
  user_systemctl start docker.service
  becomes 20 own_docker version >/dev/null
  ok "rootless: check says what is not delegated, and the drop-in [8]" names_the_drop_in
}

names_the_drop_in() {
  local words
  words=$("${as[@]}" plancton check 2>&1)
  grep -q 'Delegate=' <<<"$words" || { grep -iE 'protection|engine' <<<"$words" | tail -n 1; return 1; }
}

for part in "$@"; do "part_$part"; done
echo end
