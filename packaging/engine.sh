#!/usr/bin/env bash
# Finds a container engine that answers; where there is none, installs the distribution's and starts it.
#   engine.sh ensure    prints the engine's socket        engine.sh stop    ends an engine that `ensure` started
# Sourced, it gives engine_find, engine_ensure, engine_stop, engine_report and install_packages. It asks
# nothing, says each thing it changes in one line, and stops only what it started itself, by pid or unit.
set -euo pipefail

PATH=$PATH:/usr/sbin:/sbin # a plain user's PATH on Debian lacks them, and dockerd lives there
COMMAND_LINE="$0${*:+ $*}" # for messages
ENGINE_SOCKET=''           # set by engine_find and engine_ensure
# shellcheck disable=SC2034 # for the scripts that source this
ENGINE_PREFIX=()           # "sudo -n" where only root may open that socket
ENGINE_STARTED=no          # whether this process started the engine
INSTALLED_PACKAGES=()      # what this process installed, dependencies included
INSTALLED_REST=()          # commands for what removing the packages leaves behind

say() { printf '%s: %s\n' "${SAY_AS:-engine}" "$*" >&2; }

# ---- root, packages ----

can_be_root() { [ "$(id -u)" = 0 ] || sudo -n true 2>/dev/null; }

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi
}

need_root() { # sudo keeps a password once given for some minutes, long enough for `sudo -n`
  say "$1 needs root; this gives it once: sudo -v && $COMMAND_LINE"
}

has_systemd() { [ -d /run/systemd/system ]; }

list_packages() {
  if command -v dpkg-query >/dev/null; then
    dpkg-query -W -f='${db:Status-Status} ${binary:Package}\n' |
      sed -n "s/^installed //; t keep; d; :keep s/:$(dpkg --print-architecture)\$//; p" | LC_ALL=C sort
  else
    rpm -qa --qf '%{NAME}\n' | LC_ALL=C sort -u
  fi
}

apt_install() {
  local apt=(as_root env DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1 apt-get -qq -o DPkg::Lock::Timeout=120)
  local install=("${apt[@]}" install -y --no-install-recommends "$@") log
  log=$(mktemp)
  # the lists are fetched again only where they are missing or out of date
  if ! "${install[@]}" >"$log" 2>&1 </dev/null; then
    say "fetching the package lists"
    if ! { "${apt[@]}" update && "${install[@]}"; } >>"$log" 2>&1 </dev/null; then
      tail -n 5 "$log" >&2
      rm -f "$log"
      return 1
    fi
  fi
  rm -f "$log"
}

# install_packages APT-NAMES DNF-NAMES: each a list separated by spaces; a dnf entry may be a|b|c, the first that exists.
install_packages() {
  local wanted=() new=() before after name
  if ! can_be_root; then
    need_root "installing a container engine or a compiler"
    return 1
  fi
  before=$(list_packages)
  if command -v apt-get >/dev/null; then
    for name in $1; do
      grep -qxF -- "$name" <<<"$before" || wanted+=("$name")
    done
    [ "${#wanted[@]}" -gt 0 ] || return 0
    say "installing ${wanted[*]} with apt-get"
    apt_install "${wanted[@]}" || { say "apt-get could not install ${wanted[*]}"; return 1; }
  elif command -v dnf >/dev/null; then
    for name in $2; do
      dnf_install_one "$name" || { say "dnf could not install $name"; return 1; }
    done
  else
    say "no apt-get and no dnf here; install a container engine (Docker or Podman) by hand, then run this again"
    return 1
  fi
  after=$(list_packages)
  mapfile -t new < <(LC_ALL=C comm -13 <(printf '%s\n' "$before") <(printf '%s\n' "$after"))
  INSTALLED_PACKAGES+=("${new[@]}")
}

# An engine's data, keys and group, which its packages leave behind when they are removed: one word a line.
engine_data() {
  local path
  for path in /etc/docker /var/lib/docker /var/lib/containerd; do
    [ ! -e "$path" ] || echo "$path"
  done
  ! getent group docker >/dev/null || echo docker
}

install_engine() {
  local before trace
  before=$(engine_data)
  install_packages 'docker.io iptables ca-certificates' 'moby-engine|docker|podman' || return 1
  for trace in /etc/docker /var/lib/docker /var/lib/containerd; do
    grep -qxF "$trace" <<<"$before" || INSTALLED_REST+=("rm -rf $trace")
  done
  grep -qxF docker <<<"$before" || INSTALLED_REST+=("groupdel -f docker")
}

dnf_install_one() {
  local name
  for name in ${1//|/ }; do
    rpm -q "$name" >/dev/null 2>&1 && return 0
  done
  for name in ${1//|/ }; do
    say "installing $name with dnf"
    as_root dnf -q -y --setopt=install_weak_deps=False install "$name" >/dev/null 2>&1 </dev/null && return 0
  done
  return 1
}

# What was installed and the one command that removes exactly that.
engine_report() {
  local command rest sudo='sudo '
  [ "$(id -u)" != 0 ] || sudo=''
  [ "${#INSTALLED_PACKAGES[@]}" -gt 0 ] || return 0
  say "installed from the distribution: ${INSTALLED_PACKAGES[*]}"
  if command -v apt-get >/dev/null; then
    command="apt-get purge -y ${INSTALLED_PACKAGES[*]}"
  else
    command="dnf remove -y ${INSTALLED_PACKAGES[*]}"
  fi
  for rest in "${INSTALLED_REST[@]}"; do
    command+="; $rest"
  done
  say "to remove it again: ${sudo}sh -c '$command'"
}

# ---- finding ----

# engine_answers SOCKET [PREFIX…]: GET /_ping with what every distribution has: curl, else perl (Debian) or python.
engine_answers() {
  local socket=$1
  shift
  "$@" test -S "$socket" 2>/dev/null || return 1
  if command -v curl >/dev/null; then
    "$@" curl -q -sf --noproxy '*' --max-time 3 --unix-socket "$socket" -o /dev/null http://engine/_ping 2>/dev/null
  elif command -v perl >/dev/null; then
    # shellcheck disable=SC2016 # perl's own variables
    "$@" perl -MIO::Socket::UNIX -e 'alarm 3; my $s = IO::Socket::UNIX->new(Peer => $ARGV[0]) or exit 1;
      print {$s} "GET /_ping HTTP/1.0\r\nHost: engine\r\n\r\n"; exit(<$s> =~ m{^HTTP/1\.\d 200} ? 0 : 1)' "$socket" 2>/dev/null
  else
    "$@" python3 -c 'import socket, sys
s = socket.socket(socket.AF_UNIX); s.settimeout(3); s.connect(sys.argv[1])
s.sendall(b"GET /_ping HTTP/1.0\r\nHost: engine\r\n\r\n"); sys.exit(b" 200" not in s.recv(64))' "$socket" 2>/dev/null
  fi
}

engine_candidates() {
  if [ -n "${DOCKER_HOST:-}" ]; then
    echo "${DOCKER_HOST#unix://}"
    return
  fi
  echo /var/run/docker.sock
  [ "$(id -u)" = 0 ] || [ -z "${XDG_RUNTIME_DIR:-}" ] ||
    printf '%s\n' "$XDG_RUNTIME_DIR/docker.sock" "$XDG_RUNTIME_DIR/podman/podman.sock"
  echo /run/podman/podman.sock
}

# The first socket that answers this user; else, with `sudo` as argument, the first that answers root.
engine_find() {
  local socket
  for socket in $(engine_candidates); do
    engine_answers "$socket" || continue
    ENGINE_SOCKET=$socket ENGINE_PREFIX=()
    return 0
  done
  [ "${1:-}" = sudo ] && [ "$(id -u)" != 0 ] && can_be_root || return 1
  for socket in $(engine_candidates); do
    engine_answers "$socket" sudo -n || continue
    ENGINE_SOCKET=$socket
    # shellcheck disable=SC2034
    ENGINE_PREFIX=(sudo -n)
    return 0
  done
  return 1
}

engine_wait() {
  local end=$((SECONDS + 30)) pid=${1:-}
  until engine_find sudo; do
    [ "$SECONDS" -lt "$end" ] || return 1
    [ -z "$pid" ] || runs "$pid" || return 1
    sleep 0.2
  done
}

# ---- starting ----

# Where the note of what was started is kept: /run, which only root can write, or the user's own part of it.
engine_notes() {
  if [ "${ENGINE_ROOTLESS:-no}" = yes ] || ! can_be_root; then
    echo "${XDG_RUNTIME_DIR:-/nonexistent}/plancton-engine"
  else
    echo /run/plancton-engine
  fi
}

note() { # note FILE LINE…: one fact about what was started, for engine_stop
  local dir owner=(as_root) name=$1
  shift
  dir=$(engine_notes)
  [ "${ENGINE_ROOTLESS:-no}" = no ] || owner=()
  "${owner[@]}" mkdir -p "$dir"
  printf '%s\n' "$@" | "${owner[@]}" tee "$dir/$name" >/dev/null
}

noted() {
  cat "$(engine_notes)/$1" 2>/dev/null || true
}

forget_notes() {
  local dir
  dir=$(engine_notes)
  if [ -w "$dir" ]; then rm -rf "$dir"; else as_root rm -rf "$dir"; fi
}

runs() { # neither gone nor a zombie that nobody has waited for
  [ -n "$1" ] && grep -q '^State:[[:space:]]*[^ZX[:space:]]' "/proc/$1/status" 2>/dev/null
}

process_start() { # clock ticks since boot: with the pid it names a process for good
  awk '{ sub(/^.*\) /, ""); print $20 }' "/proc/$1/stat" 2>/dev/null || true
}

engine_start_daemon() { # engine_start_daemon COMMAND…: in a session of its own, so that Ctrl-C here does not end it
  local dir pid=''
  dir=$(engine_notes)
  say "starting $1 in the background (log: $dir/log)"
  note kind process
  # shellcheck disable=SC2016 # expanded by that shell
  as_root setsid --fork sh -c 'echo $$ >"$0/pid"; exec "$@" >"$0/log" 2>&1 </dev/null' "$dir" "$@" </dev/null >/dev/null 2>&1
  local end=$((SECONDS + 10))
  until pid=$(noted pid) && [ -n "$pid" ]; do
    [ "$SECONDS" -lt "$end" ] || return 1
    sleep 0.05
  done
  note start "$(process_start "$pid")"
  engine_wait "$pid" && return 0
  say "$1 did not answer within 30 s; its last words:"
  tail -n 5 "$dir/log" >&2
  return 1
}

# Units that are not active now are those that engine_stop may stop.
note_units() {
  local unit idle=()
  for unit in docker.socket docker.service containerd.service podman.socket podman.service; do
    systemctl is-active -q "$unit" 2>/dev/null || idle+=("$unit")
  done
  note units "${idle[@]}"
}

engine_start_units() {
  say "starting $1 with systemctl"
  note kind units
  as_root systemctl start "$1" && engine_wait && return 0
  say "$1 did not come up; see: systemctl status $1"
  return 1
}

# Files of a daemon that was killed keep the next one from starting as long as their pid is taken.
remove_stale_pids() {
  local file
  for file in /run/docker.pid /run/docker/containerd/containerd.pid; do
    runs "$(cat "$file" 2>/dev/null)" || as_root rm -f "$file"
  done
}

# Starts what is installed. 2: nothing is installed.
engine_start() {
  if [ "$(id -u)" != 0 ] && command -v podman >/dev/null && systemctl --user is-system-running >/dev/null 2>&1; then
    ENGINE_ROOTLESS=yes ENGINE_STARTED=yes
    say "starting your own podman.socket with systemctl --user"
    note kind user-units
    systemctl --user start podman.socket && engine_wait
    return
  fi
  command -v dockerd >/dev/null || command -v podman >/dev/null || return 2
  if ! can_be_root; then
    need_root "an engine is installed but does not run; starting it"
    return 1
  fi
  ENGINE_STARTED=yes
  if command -v dockerd >/dev/null; then
    if has_systemd; then
      engine_start_units docker.service
    else
      remove_stale_pids
      engine_start_daemon dockerd
    fi
  elif has_systemd; then
    engine_start_units podman.socket
  else
    as_root mkdir -p /run/podman
    engine_start_daemon podman system service --time 0 unix:///run/podman/podman.sock
  fi
}

engine_ensure() {
  local status=0
  engine_find sudo && return 0
  if [ -n "${DOCKER_HOST:-}" ]; then
    say "DOCKER_HOST is $DOCKER_HOST, where no engine answers on a Unix socket; unset it to let this find or install one"
    return 1
  fi
  if [ -S /var/run/docker.sock ] && [ ! -w /var/run/docker.sock ] && ! can_be_root; then
    need_root "the engine's socket /var/run/docker.sock is closed to you (group docker would open it); using it"
    return 1
  fi
  if [ -S /var/run/docker.sock ] && [ -n "$(dockerd_pid)" ]; then
    say "an engine runs but does not answer; waiting up to 30 s"
    engine_wait && return 0
    say "it still does not answer on /var/run/docker.sock; nothing is changed"
    return 1
  fi
  if can_be_root; then
    engine_stop_noted # the rest of a start that was cut short
    note before "$(host_traces)"
    ! has_systemd || note_units
  fi
  engine_start || status=$?
  [ "$status" = 2 ] || return "$status"
  say "no container engine here"
  install_engine || return 1
  if engine_find sudo; then # the package started its service
    ENGINE_STARTED=yes
    if has_systemd; then
      note kind units
    else
      note kind process
      note pid "$(dockerd_pid)"
      note start "$(process_start "$(dockerd_pid)")"
    fi
    return 0
  fi
  engine_start
}

# ---- stopping ----

dockerd_pid() {
  local pid
  pid=$(cat /run/docker.pid 2>/dev/null) || return 0
  if runs "$pid" && [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = dockerd ]; then echo "$pid"; fi
}

# What an engine leaves behind when it ends, as far as it is there now: one word a line.
host_traces() {
  local path tool
  [ ! -e /sys/class/net/docker0 ] || echo bridge
  for path in /var/run/docker.sock /run/docker.pid /run/docker /run/containerd /sys/fs/cgroup/docker /sys/fs/cgroup/*/docker; do
    [ ! -e "$path" ] || echo "$path"
  done
  ! grep -q ' /var/lib/docker' /proc/mounts || echo mounts
  for tool in iptables ip6tables; do
    # where the tool is not yet installed, its rules can only be the engine's
    { as_root "$tool-save" 2>/dev/null || true; } | sed -n "/^:DOCKER/{s/.*/$tool/p;q}; s/^:FORWARD DROP.*/$tool-drop/p" | sort -u
  done
  [ "$(cat /proc/sys/net/ipv4/ip_forward)" = 0 ] || echo forward
}

unmount_all() { # unmount_all PATH: it and everything below it
  local mount
  awk -v under="$1/" 'index($2 "/", under) == 1 { print $2 }' /proc/mounts | sort -r |
    while read -r mount; do as_root umount "$mount" || true; done
}

# Removes the traces that were not there before the engine was started.
remove_traces() {
  local before=$1 trace
  for trace in $(host_traces); do
    ! grep -qxF -- "$trace" <<<"$before" || continue
    case $trace in
    bridge) as_root ip link delete docker0 || true ;;
    /sys/fs/cgroup/*) as_root find "$trace" -depth -type d -exec rmdir {} + 2>/dev/null || true ;;
    mounts) unmount_all /var/lib/docker ;;
    /*)
      unmount_all "$trace"
      as_root rm -rf --one-file-system "$trace"
      ;;
    iptables | ip6tables)
      as_root sh -c "$trace-save | grep -v -e DOCKER -e docker0 | $trace-restore" || true
      ;;
    iptables-drop | ip6tables-drop) as_root "${trace%-drop}" -P FORWARD ACCEPT || true ;;
    forward) as_root sysctl -q -w net.ipv4.ip_forward=0 || true ;;
    esac
  done
}

wait_gone() { # wait_gone SECONDS PID…
  local end=$((SECONDS + $1)) pid
  shift
  for pid; do
    while runs "$pid"; do
      [ "$SECONDS" -lt "$end" ] || return 1
      sleep 0.1
    done
  done
}

stop_daemon() {
  local pid children
  pid=$(noted pid)
  runs "$pid" && [ "$(process_start "$pid")" = "$(noted start)" ] || return 0
  say "stopping the engine that was started here (pid $pid)"
  children=$(cat "/proc/$pid/task/"*/children 2>/dev/null || true)
  as_root kill -TERM "$pid" 2>/dev/null || true
  # shellcheck disable=SC2086 # a list of pids
  wait_gone 30 "$pid" && wait_gone 10 $children && return 0
  # shellcheck disable=SC2086
  as_root kill -KILL "$pid" $children 2>/dev/null || true
  # shellcheck disable=SC2086
  wait_gone 5 "$pid" $children
}

engine_stop_noted() {
  local kind units before
  kind=$(noted kind)
  before=$(noted before)
  case $kind in
  process) stop_daemon ;;
  units)
    mapfile -t units < <(noted units)
    say "stopping the engine's units again"
    as_root systemctl stop "${units[@]}" 2>/dev/null || true
    ;;
  user-units) systemctl --user stop podman.socket podman.service 2>/dev/null || true ;;
  *) return 0 ;;
  esac
  [ "$kind" = user-units ] || remove_traces "$before"
  forget_notes
}

# Ends the engine if this process started it.
engine_stop() {
  [ "$ENGINE_STARTED" = yes ] || return 0
  ENGINE_STARTED=no
  engine_stop_noted
}

if [ "${BASH_SOURCE[0]}" = "$0" ]; then
  case ${1:-} in
  ensure)
    engine_ensure || { engine_stop; exit 1; }
    engine_report
    echo "$ENGINE_SOCKET"
    ;;
  stop) engine_stop_noted ;;
  *)
    sed -n '2,5s/^# //p' "$0" >&2
    exit 64
    ;;
  esac
fi
