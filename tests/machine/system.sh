#!/usr/bin/env bash
# Inside of the machine: the life of the package with the machine's own engine, part by part, in this order. machine-test.sh
# boots and crashes the machine between them.
#   system.sh PART…
# A check of a fault that users met has its number in brackets (issue 13).
# shellcheck disable=SC2016 # words of jq's

# shellcheck source=tests/machine/inside.sh
. "$(dirname "${BASH_SOURCE[0]}")/inside.sh"

as_member() { runuser -u volunteer -- env -u XDG_RUNTIME_DIR HOME=/home/volunteer "$@"; }

# ---- install, check, try ----

# For a life that begins with another subject.
part_begin() {
  quicken_engine
  make_archive
  dpkg -i $packages/first.deb >/dev/null 2>&1
  usermod -aG plancton volunteer
  ok "begin: the daemon runs" becomes 10 is_up
}

part_install() {
  local began
  began=$(date +%s)
  quicken_engine
  make_archive
  snapshot >/root/before 2>/dev/null
  ok "install: apt takes the package" apt-get -qq -y install $packages/first.deb
  ok "install: the daemon runs" becomes 5 is_up
  ok "install: it waits for a pilot to be configured" becomes 5 is_reason no-pilot
  ok "install: the timer is set" systemctl -q is-active plancton-reap.timer
  ok "install: check finds nothing bad" plancton check
  ok "install: systemd warns of nothing in the units (low)" warns_of_no_unit "$began"
  ok "install: no group of the other driver is made (low)" test ! -e /sys/fs/cgroup/plancton
  usermod -aG plancton volunteer
}

warns_of_no_unit() {
  none_says '/plancton.*:[0-9]+:' "$(journalctl --no-pager -q -o cat --since "@$1" _PID=1; systemd-analyze --man=no verify plancton.service plancton.slice 2>&1)"
}

# The first thing that README tells a newcomer to do, on a machine where the daemon runs as well.
part_try() {
  local first
  anew
  ok "try: its pilots work" tries
  ok "try: nothing of it is left" test -z "$(containers)$(docker images -q plancton-builtin)$(find /tmp -maxdepth 1 -name 'plancton-try*')"
  ok "try: the slice's unit and its group agree [3]" slice_is_whole
  # more than the one core that is left where there is no protection
  configure broad
  systemctl restart plancton.service
  ok "try: a pilot runs after it [3]" becomes 20 has_pilots 1
  ok "try: it is protected [3]" becomes 10 is_protected
  ok "try: beside a daemon that has the cores it says so (low)" try_beside
  mend_slice
  ok "stopped slice: a pilot is there to begin with" becomes 30 has_pilots 1
  first=$(ids)
  systemctl stop plancton.slice
  ok "stopped slice: another pilot comes [3]" becomes 20 is_followed "$first"
  ok "stopped slice: they are protected [3]" becomes 10 is_protected
  mend_slice
}

# Ended as soon as one of its pilots is done, which takes fifteen seconds of work.
tries() {
  local pid
  plancton try --for 60s >/root/try 2>&1 &
  pid=$!
  becomes 60 grep -qE ' [1-9][0-9]* done' /root/try >/dev/null
  kill -TERM $pid
  wait $pid || { cat /root/try; return 1; }
  grep -q 'idle group' /root/try || { echo "it does not say that they ran in an idle group"; return 1; }
}

try_beside() {
  plancton try --for 4s >/root/beside 2>&1
  grep -qiE 'daemon' /root/beside || { cat /root/beside; return 1; }
}

is_followed() { has_pilots 1 && [ "$(ids)" != "$1" ]; }

# An inactive unit needs no group; an active one has it.
slice_is_whole() {
  ! systemctl -q is-active plancton.slice || [ -d $slice ] || { echo "the unit is active, and there is no group"; return 1; }
}

# ---- use ----

part_use() {
  local began first
  began=$(date +%s)
  echo proof-of-files >/etc/plancton/proof
  chmod 600 /etc/plancton/proof
  share=$'reserve-disk = "64MiB"\ncpuset = "1"' configure handed sleeper
  systemctl reload plancton
  ok "use: a class runs beside the other" becomes 30 has_pilot_of sleeper
  ok "use: a class with files runs [1]" becomes 20 has_pilot_of handed
  ok "use: its copy is for its user alone [1]" handed_says '^4242 400$'
  ok "use: it reads its file [1]" handed_says '^proof-of-files$'
  ok "use: it writes to its tmpfs [1]" handed_says '^written$'
  ok "use: its tmpfs has the size [1]" handed_says ' 8192 .* /scratch$'
  ok "use: status says verified" becomes 15 is_protected
  ok "use: the group is idle" is_idle
  ok "use: the CPU limit holds" setting sleeper cpu.max '10000 100000'
  ok "use: the memory limit holds" setting sleeper memory.max $((32 << 20))
  ok "use: there is no swap" setting sleeper memory.swap.max 0
  ok "use: the process limit holds" setting sleeper pids.max 32
  ok "use: the cpuset holds" setting sleeper cpuset.cpus 1
  ok "bound: the pilots' memory has one beside a pilot [2]" becomes 5 is_bounded
  first=$(ids)
  plancton kill "$(status | jq -r 'first(.pilots[] | select(.class == "sleeper")).name')" >/dev/null
  ok "bound: a killed pilot has a successor" becomes 30 has_successor "$first"
  ok "bound: it holds after a pilot went and another came [2]" becomes 5 is_bounded
  systemctl daemon-reload
  ok "bound: it holds after daemon-reload [2]" becomes 5 is_bounded
  ok "bound: the group stays idle after daemon-reload" becomes 5 is_idle
  ok "use: reap by its unit" systemctl start plancton-reap.service
  ok "use: the journal names no denial [1]" none_says 'denied|not permitted|read-only file system' "$(journal "$began")"
}

has_successor() { has_pilot_of sleeper && [ "$(ids)" != "$1" ]; }

handed_says() {
  local id
  id=$(docker ps -aq --filter label=io.plancton.class=handed | head -n 1)
  [ -n "$id" ] || { echo "there is no such pilot"; return 1; }
  becomes 5 log_has "$id" "$1"
}

log_has() { docker logs "$1" 2>&1 | grep -qE "$2"; }

# ---- the owner's commands ----

part_commands() {
  local names
  configure sleepers
  systemctl reload plancton
  ok "commands: two pilots run" becomes 40 has_pilots 2
  ok "snooze: by a member of the group" as_member plancton snooze 1h
  ok "snooze: every pilot is paused" becomes 10 all_paused
  ok "snooze: the kernel holds them" frozen 1
  ok "resume: by a member" as_member plancton resume
  ok "resume: they go on" becomes 20 has_pilots 2
  ok "resume: the kernel lets them" frozen 0
  ok "drain: by a member" as_member plancton drain
  ok "drain: status says so" becomes 5 is_state draining
  names=$(ids)
  ok "drain: pilots go on" stays 2 same_pilots "$names"
  as_member plancton resume >/dev/null
  ok "drain: it ends" becomes 5 is_state active
  ok "force-stop: done" plancton force-stop
  ok "force-stop: no pilot is left" becomes 10 test -z "$(containers)"
  ok "force-stop: the daemon has ended" becomes 10 not systemctl -q is-active plancton.service
  ok "force-stop: the unit has not failed" not systemctl -q is-failed plancton.service
  systemctl start plancton.service
  ok "start: pilots again" becomes 40 has_pilots 2
}

frozen() {
  local group
  group=$(group_of sleeper) || return 1
  grep -qx "frozen $1" "$group/cgroup.events" || grep -qx "frozen $1" "${group%/*}/cgroup.events" || { cat "$group/cgroup.events"; return 1; }
}

same_pilots() { same "$1" "$(ids)"; }

# ---- the owner's needs ----

part_owner() {
  memory=2GiB anew sleepers worker
  ok "owner: two pilots that want little" becomes 40 has_pilots_of sleeper 2
  ok "owner: two pilots that take what they get" becomes 40 has_pilots_of worker 2
  battery
  hogs
  pressure
}

battery() {
  insmod /host/test_power.ko 2>/dev/null
  if [ ! -d /sys/module/test_power ]; then
    skip "battery: pilots are paused" "the kernel does not take its test_power.ko"
    return
  fi
  local parameters=/sys/module/test_power/parameters
  echo off >$parameters/ac_online
  echo off >$parameters/usb_online
  echo discharging >$parameters/battery_status
  ok "battery: pilots are paused" becomes 10 all_paused
  ok "battery: that is the reason" becomes 5 is_reason battery
  echo on >$parameters/ac_online
  echo charging >$parameters/battery_status
  ok "battery: on mains they go on" becomes 15 has_pilots 4
  rmmod test_power
}

# Two owners on two cores, beside two pilots that take all they get: what the kernel gave each of them in ten seconds.
hogs() {
  local before alone beside owners=0 pids=() group=/sys/fs/cgroup/user.slice
  before=$(used_ms $slice)
  sleep 3
  alone=$((($(used_ms $slice) - before) / 3))
  [ -d /sys/fs/cgroup/user.slice ] || group=/sys/fs/cgroup/system.slice
  for _ in 1 2; do
    sh -c 'while :; do :; done' &
    pids+=($!)
  done
  sleep 1
  owners=$(used_ms $group) before=$(used_ms $slice)
  sleep 10
  beside=$(($(used_ms $slice) - before)) owners=$(($(used_ms $group) - owners))
  ok "hogs: alone the pilots take several times as much ($alone ms in a second)" test "$((alone * 10))" -gt "$((beside * 3))"
  ok "hogs: two of the owner's on two cores leave the pilots $beside ms in 10 s" test "$((beside * 10))" -lt "$owners"
  ok "hogs: the owner's have $owners ms of 20000" test "$owners" -gt 17000
  ok "hogs: status sees the owner" becomes 15 says '.cpus.foreign > 1'
  kill "${pids[@]}"
  wait "${pids[@]}" 2>/dev/null
  ok "hogs: the pilots go on after them" becomes 20 has_pilots_of worker 2
}

# The owner takes memory: pilots give theirs back, and none takes their place.
pressure() {
  local megabytes before
  memory=2GiB configure sleepers
  systemctl reload plancton
  docker ps -q --filter label=io.plancton.class=worker | xargs docker rm -fv >/dev/null
  becomes 20 has_pilots 2 >/dev/null
  mount -o remount,size=100% /dev/shm
  before=$(count owner)
  # below half of what is reserved, with a pilot's memory and some more
  megabytes=$(awk '/^MemAvailable/ { print int($2 / 1024) - 1024 + 100 }' /proc/meminfo)
  fallocate -l "${megabytes}MiB" /dev/shm/owner
  ok "memory: a pilot gives way to the owner" becomes 20 says --argjson before "$before" '.counts.owner > $before'
  ok "memory: none takes its place" stays 3 says '.pilots | length < 2'
  ok "memory: nothing was killed by the kernel" none_says 'out of memory|oom-kill' "$(journalctl -k --no-pager -q -o cat --since -60s)"
  rm -f /dev/shm/owner
  mount -o remount,size=50% /dev/shm
  ok "memory: pilots come back" becomes 40 has_pilots 2
}

# ---- the configuration, the engine, the package: changed under pilots ----

part_change() {
  reload
  restart_daemon
  upgrade
}

reload() {
  local pid before words
  pid=$(main_pid)
  anew
  configure sleepers
  ok "reload: a good configuration" systemctl reload plancton
  ok "reload: it holds" becomes 40 has_pilots_of sleeper 2
  before=$(ids)
  sed -i 's/^max = 2$/max = "many"/' $config
  ok "reload: a broken one fails at the terminal [7]" not systemctl reload plancton
  words=$(systemctl reload plancton 2>&1)
  ok "reload: the lines at fault can be read [7]" names_the_line "$words"
  ok "reload: the daemon goes on" same "$pid" "$(main_pid)"
  ok "reload: pilots go on" stays 3 same_pilots "$before"
  ok "reload: it is active" becomes 5 systemctl -q is-active plancton.service
  configure sleepers
  ok "reload: a good one is taken again" systemctl reload plancton
  ok "reload: pilots as before" same_pilots "$before"
}

# At the terminal, or where systemctl sends the reader.
names_the_line() {
  grep -qE 'config.toml:[0-9]+' <<<"$1$(journalctl --no-pager -q -o cat -n 20 -u plancton.service; systemctl status --no-pager plancton.service)" ||
    { echo "no line is named"; return 1; }
}

restart_daemon() {
  local before pid began
  began=$(date +%s) before=$(ids) pid=$(main_pid)
  ok "restart: of the daemon" systemctl restart plancton.service
  ok "restart: another one runs" becomes 10 is_other_daemon "$pid"
  ok "restart: the same pilots run" becomes 10 same_pilots "$before"
  ok "restart: they are verified again" becomes 15 is_protected
  ok "restart: a first look is nothing to complain of (low)" none_says "can't be read" "$(journal "$began")"
}

part_engine() {
  local before failed
  configure sleepers
  systemctl reload plancton
  becomes 40 has_pilots 2 >/dev/null
  failed=$(count failed) before=$(ids)
  engine_again
  ok "engine: pilots run after its restart" becomes 40 has_others "$before"
  ok "engine: their end is no failure of theirs [6]" same "$failed" "$(count failed)"
  ok "engine: all of them run" becomes 40 has_pilots 2
  failed=$(count failed) before=$(ids)
  systemctl kill -s KILL docker.service
  ok "engine, killed: pilots run after it came back" becomes 60 has_others "$before"
  ok "engine, killed: their end is no failure of theirs [6]" same "$failed" "$(count failed)"
  ok "engine, killed: all of them run" becomes 40 has_pilots 2
  echo '{ "live-restore": true }' >/etc/docker/daemon.json
  systemctl reload docker.service
  becomes 10 live_restore >/dev/null
  before=$(ids)
  engine_again
  ok "engine, live-restore: it answers" becomes 20 engine_answers
  ok "engine, live-restore: the daemon sees it" becomes 20 says '.engine.version != ""'
  ok "engine, live-restore: the same pilots run" becomes 20 same_pilots "$before"
  ok "engine, live-restore: they go on" becomes 20 has_pilots 2
  rm /etc/docker/daemon.json
  systemctl reload docker.service
}

live_restore() { docker info -f '{{.LiveRestoreEnabled}}' | grep -q true; }

has_others() { says '.pilots | length > 0' && has_pilot_of sleeper && [ -z "$(comm -12 <(echo "$1") <(ids))" ]; }

upgrade() {
  local before pid
  sed -i '1i # edited by the administrator' $config
  before=$(ids) pid=$(main_pid)
  ok "upgrade: apt takes the next package" apt-get -qq -y install $packages/next.deb
  ok "upgrade: the new daemon runs" becomes 10 is_other_daemon "$pid"
  ok "upgrade: the same pilots run" becomes 10 same_pilots "$before"
  ok "upgrade: they are verified again" becomes 15 is_protected
  ok "upgrade: the configuration is as it was edited" grep -q 'edited by the administrator' $config
}

# ---- power loss, reboot ----

# The last moment before either.
part_before() {
  becomes 40 has_pilots 2 >/dev/null
  ids >/root/pilots
  [ -s /root/pilots ]
  sync
}

part_crashed() {
  booted crash
  ok "crash: pilots of before are no failures [6]" same 0 "$(count failed)"
  ok "crash: they ended as killed [6]" ended_neutral
}

part_rebooted() {
  booted reboot
  ok "reboot: pilots of before are no failures [6]" same 0 "$(count failed)"
}

booted() {
  ok "$1: the daemon is there" becomes 15 is_up
  ok "$1: pilots run" becomes 60 has_pilots 2
  ok "$1: they are other ones" test -z "$(comm -12 /root/pilots <(ids))"
  ok "$1: they are verified" becomes 15 is_protected
  ok "$1: the group is idle" is_idle
  ok "$1: its memory is bounded [2]" becomes 5 is_bounded
}

ended_neutral() { same '0 2' "$(status | jq -r '"\(.counts.failed // 0) \(.counts.killed // 0)"')"; }
# ---- an engine whose disk is elsewhere ----

part_disk() {
  local reserve=$'reserve-disk = "1TiB"'
  anew
  move_engine '{ "data-root": "/home/docker" }'
  share=$reserve configure sleeper
  systemctl reload plancton
  ok "disk: below /home its reserve is held, or said not to be [10]" becomes 15 holds_the_disk
  ok "disk: nothing runs with less than the reserve [10]" stays 4 runs_nothing_unsaid
  configure sleeper
  systemctl reload plancton
  becomes 10 says '.engine.version != ""' >/dev/null
  ok "disk: check does not praise what the daemon can't see [10]" checks_as_the_daemon
  systemctl stop docker.service docker.socket containerd.service
  mount -t tmpfs -o size=96M tmpfs /var/lib/containerd
  share=$'reserve-disk = "256MiB"' configure sleeper
  move_engine '{ "features": { "containerd-snapshotter": true } }'
  systemctl reload plancton
  ok "disk: a full image store is seen where the data root is not full [10]" becomes 15 holds_the_disk
  configure
  systemctl reload plancton
  containers | xargs -r docker rm -fv >/dev/null
  systemctl stop docker.service docker.socket containerd.service
  umount /var/lib/containerd
  rm -r /etc/docker/daemon.json /home/docker
  systemctl start containerd.service docker.service
  becomes 20 engine_answers >/dev/null
}

move_engine() {
  echo "$1" >/etc/docker/daemon.json
  engine_again
  becomes 30 engine_answers >/dev/null
}

holds_the_disk() { says '.reason.code == "disk" or any(.problems[]; test("disk"))'; }

# Either nothing runs, or the daemon says that it cannot hold the reserve.
runs_nothing_unsaid() {
  says '(.pilots | length) == 0 or any(.problems[]; test("disk"))' || { echo "pilots run: $(brief)"; return 1; }
}

checks_as_the_daemon() {
  says '.disk == null' || return 0
  ! plancton check | grep '^ok *disk'
}

# ---- beside it: a member of the group docker, and a daemon that stands still ----

part_member() {
  local pid stopped own=/home/volunteer/.config/plancton
  anew
  # it looks each second and starts nothing, and is stopped meanwhile
  plancton drain >/dev/null
  configure sleeper
  systemctl reload plancton
  pid=$(main_pid)
  becomes 10 is_reason drain >/dev/null
  kill -STOP "$pid"
  stopped=$SECONDS
  usermod -aG docker volunteer
  as_member mkdir -p $own
  config=$own/config.toml configure sleeper
  chown volunteer: $own/config.toml
  loginctl enable-linger volunteer
  becomes 15 test -S /run/user/1000/bus >/dev/null
  as=(runuser -u volunteer -- env HOME=/home/volunteer XDG_RUNTIME_DIR=/run/user/1000) told=/run/user/1000/plancton/status.json
  ok "member: starts a daemon of their own" "${as[@]}" plancton start
  ok "member: a pilot runs" becomes 30 has_pilots 1
  ok "member: it is in the idle group [8]" in_slice
  ok "member: status says verified [8]" becomes 10 says '.instance == "user-1000" and .protection.level == "verified"'
  "${as[@]}" plancton force-stop >/dev/null
  ok "member: purge" "${as[@]}" plancton purge
  ok "member: nothing is left but the configuration" same $own "$(find /home/volunteer -name '*plancton*')"
  as=() told=/run/plancton/status.json
  rm -r /home/volunteer/.config /home/volunteer/.local 2>/dev/null
  gpasswd -d volunteer docker >/dev/null
  loginctl disable-linger volunteer
  systemctl stop user@1000.service
  until [ $((SECONDS - stopped)) -ge 33 ]; do sleep 1; done
  ok "silent: status of a daemon that stands still says so [9]" grep -qiE 'not (answer|respond)' <<<"$(plancton status 2>&1)"
  kill -CONT "$pid"
  ok "silent: it goes on" becomes 10 plancton health
  configure
  systemctl reload plancton
  plancton resume >/dev/null
}

in_slice() {
  local group
  group=$(group_of sleeper) || return 1
  [[ "$group" == "$slice"/* ]] || { echo "it is in $group"; return 1; }
  is_idle
}

# ---- the end ----

part_end() {
  configure sleepers
  systemctl reload plancton
  becomes 40 has_pilots 2 >/dev/null
  ok "end: the journal has no denial, no panic, no error [1]" none_says 'denied|not permitted|read-only file system|panicked|^error' "$(journal 0)"
  sed -i 's/^max = 2$/max = "many"/' $config
  ok "stop: done" systemctl stop plancton.service
  ok "stop: pilots go on" test -n "$(containers)"
  systemctl start plancton.service 2>/dev/null
  ok "start: with a broken configuration it fails" becomes 5 systemctl -q is-failed plancton.service
  ok "start: nothing but that has failed (low)" nothing_else_failed
  configure sleepers
  systemctl reset-failed plancton.service
  systemctl start plancton.service
  becomes 20 has_pilots 2 >/dev/null
  purge_package
}

nothing_else_failed() {
  local post
  post=$(systemctl show -p ExecStopPost plancton.service)
  none_says 'code=exited ; status=[1-9]' "$post"
}

purge_package() {
  ok "purge: done" apt-get -qq -y purge plancton
  ok "purge: no container is left" test -z "$(containers)"
  ok "purge: the slice is gone" test ! -e $slice
  docker rmi -f "$image" >/dev/null 2>&1
  ok "purge: all is as it was before" same_as_before
}

# What cannot be removed is named, with words that still help when the program has gone. Nothing comes after this.
part_without() {
  configure sleepers
  systemctl reload plancton
  becomes 40 has_pilots 2 >/dev/null
  systemctl stop docker.service docker.socket
  apt-get -qq -y purge plancton >/root/words 2>&1
  ok "purge without an engine: it ends" test ! -e /usr/bin/plancton
  ok "purge without an engine: it says what is left" grep -q 'docker rm -fv' /root/words
  ok "purge without an engine: it advises nothing that has gone [11]" none_says 'plancton purge' "$(cat /root/words)"
}

for part in "$@"; do "part_$part"; done
echo end
