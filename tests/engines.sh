#!/usr/bin/env bash
# The live tests against every engine that can be had here, one after the other, and a table of what they said.
#   tests/engines.sh [ENGINE…]
#     docker          Docker of this machine             podman          Podman of this machine, as a service
#     docker-trixie   of Debian 13                       docker-sid      of Debian's newest
#     podman-trixie   of Debian 13, with runc            podman-sid      of Debian's newest, with runc
# Those that are not this machine's live in roots of their own, made once with debootstrap and kept in the cache
# (PLANCTON_ENGINES_CACHE), and have mounts and a network of their own: no container there has a bridge. Needs root. Takes about five
# minutes for an engine, so it is not part of run.sh. The last line is "N passed, N failed, N skipped"; an engine that
# could not be had counts as one skipped. Rootless Docker, and Docker with the systemd driver, are in machine-test.sh.
set -euo pipefail

# shellcheck source=tests/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$repository"
exec </dev/null

all=(docker podman docker-trixie docker-sid podman-trixie podman-sid)
cache=${PLANCTON_ENGINES_CACHE:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/plancton-engines}
limit=900 # seconds for one engine's tests
passed=0 failed=0 skipped=0
rows=()

trap stop_all EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# ---- roots of other releases ----

# Everything that an engine of Debian's needs, and nothing that starts by itself.
make_root() { # make_root RELEASE PACKAGE…
  local root=$cache/$1 mirror
  mkdir -p "$cache"
  if [ ! -e "$root/ready" ]; then
    command -v debootstrap >/dev/null || install_packages debootstrap debootstrap || return 1
    # shellcheck disable=SC2016 # a word of apt's
    mirror=$(apt-get indextargets --format '$(SITE)' | grep -v security | sort -u | head -n 1)
    say "making a root of $1 in $root"
    rm -rf "$root"
    debootstrap --variant=minbase "$1" "$root" "$mirror" >"$cache/$1.log" 2>&1 || { tail -n 2 "$cache/$1.log" >&2; return 1; }
    printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
    chmod +x "$root/usr/sbin/policy-rc.d"
    # a mirror's copy of a release may be older than its list allows
    echo 'Acquire::Check-Valid-Until "false";' >"$root/etc/apt/apt.conf.d/90old"
    touch "$root/ready"
  fi
  # shellcheck disable=SC2016 # expanded by that shell
  in_root "$1" 'DEBIAN_FRONTEND=noninteractive; export DEBIAN_FRONTEND
    dpkg -s "$@" >/dev/null 2>&1 || { apt-get -qq update && apt-get -qq install -y --no-install-recommends "$@"; }' "${@:2}" >>"$cache/$1.log" 2>&1
}

# in_root RELEASE SCRIPT ARGUMENT…: a shell there, with this machine's /proc, /sys and /dev.
in_root() {
  # shellcheck disable=SC2016 # expanded by that shell
  unshare -m --propagation private sh -c 'root=$1; shift; mount --bind "$root" "$root"
    for name in proc sys dev; do mount --rbind /$name "$root/$name"; done
    exec chroot "$root" sh -c "$@"' sh "$cache/$1" "$2" sh "${@:3}"
}

# ---- engines ----

# serve NAME SOCKET COMMAND…: in a session of its own; PLANCTON_TEST_ENGINE is its socket once it answers.
serve() {
  local name=$1 socket=$2 end=$((SECONDS + 40))
  shift 2
  rm -f "$socket"
  setsid "$@" >"$TEST_TMP/$name.log" 2>&1 &
  TEST_PIDS+=($!)
  until engine_answers "$socket"; do
    if [ "$SECONDS" -ge "$end" ] || ! runs "$!"; then
      say "$name did not start: $(tail -n 1 "$TEST_TMP/$name.log")"
      return 1
    fi
    sleep 0.2
  done
  export PLANCTON_TEST_ENGINE=$socket
}

start_docker() { need_engine; }

podman_settings='[containers]\ndefault_ulimits = ["nofile=20000:20000", "nproc=32768:32768"]\n[engine]\nevents_logger = "file"\ncgroup_manager = "cgroupfs"\nruntime = "runc"\n'
podman_options='--storage-driver vfs --cgroup-manager cgroupfs --runtime runc --events-backend file'

start_podman() {
  command -v podman >/dev/null || install_packages 'podman runc' 'podman runc' || return 1
  mkdir -p "$TEST_TMP/podman"
  # shellcheck disable=SC2059 # its newlines
  printf "$podman_settings" >"$TEST_TMP/podman/containers.conf"
  # there: its conmon leaves a file `oom` where it was started
  # shellcheck disable=SC2086 # words
  serve podman "$TEST_TMP/podman/socket" env -C "$TEST_TMP/podman" "CONTAINERS_CONF=$TEST_TMP/podman/containers.conf" podman --root "$TEST_TMP/podman/root" \
    --runroot "$TEST_TMP/podman/run" $podman_options system service --time 0 "unix://$TEST_TMP/podman/socket"
}

# In a network of its own: an engine without a bridge takes away the one of this machine's. What it stores and mounts is at the same
# path for it and for this machine, as the daemon has to see it.
start_docker_of() { # start_docker_of RELEASE
  make_root "$1" docker.io ca-certificates procps || return 1
  mkdir -p "$cache/$1${TEST_TMP%/*}"
  # shellcheck disable=SC2016 # expanded by that shell
  serve "docker-$1" "$cache/$1/run/test-docker.sock" unshare -m -n --propagation private sh -c 'root=$1; ip link set lo up
    mount --bind "$root" "$root"; for name in /proc /sys /dev "$2"; do mount --rbind "$name" "$root$name"; done
    exec chroot "$root" dockerd -H unix:///run/test-docker.sock --pidfile /run/test-docker.pid --data-root "$3/docker" \
      --exec-root /run/test-docker --bridge none --iptables=false --ip6tables=false' sh "$cache/$1" "${TEST_TMP%/*}" "$TEST_TMP"
}

start_podman_of() { # start_podman_of RELEASE
  make_root "$1" podman runc catatonit ca-certificates procps || return 1
  mkdir -p "$cache/$1/etc/containers" "$cache/$1${TEST_TMP%/*}"
  # shellcheck disable=SC2059 # its newlines
  printf "$podman_settings" >"$cache/$1/etc/containers/containers.conf"
  # shellcheck disable=SC2016 # expanded by that shell
  serve "podman-$1" "$cache/$1/run/test-podman.sock" unshare -m --propagation private sh -c 'root=$1
    mount --bind "$root" "$root"; for name in /proc /sys /dev "$2"; do mount --rbind "$name" "$root$name"; done
    exec chroot "$root" podman --root "$3/podman" --runroot /run/test-podman '"$podman_options"' system service --time 0 unix:///run/test-podman.sock' sh "$cache/$1" "${TEST_TMP%/*}" "$TEST_TMP"
}

start() {
  case $1 in
  docker-*) start_docker_of "${1#*-}" ;;
  podman-*) start_podman_of "${1#*-}" ;;
  *) "start_$1" ;;
  esac
}

# Those that were started here; the image goes with it, so that a kept root stays as it was made.
end_engine() {
  local pid
  api DELETE "/images/$TEST_IMAGE?force=1" >/dev/null 2>&1 || true
  for pid in "${TEST_PIDS[@]}"; do
    kill -TERM "$pid" 2>/dev/null || true
    wait_gone 20 "$pid" || kill -KILL "$pid" 2>/dev/null || true
  done
  TEST_PIDS=() MADE_IMAGES=()
}

# ---- the tests ----

# Podman's import takes no notice of the tag.
make_its_image() {
  rm -rf "$TEST_TMP/busybox"
  make_image || { api POST "/images/${TEST_IMAGE%:*}/tag?repo=${TEST_IMAGE%:*}&tag=${TEST_IMAGE##*:}" >/dev/null && has_image "$TEST_IMAGE"; }
}

# try_engine NAME: its line of the table.
try_engine() {
  local log=$TEST_TMP/$1.tests started=$SECONDS status=0 counts version
  unset PLANCTON_TEST_ENGINE
  if ! start "$1" || ! make_its_image; then
    skipped=$((skipped + 1))
    rows+=("| $1 | | | not had here, see above |")
    return 0
  fi
  version=$(api GET /version | grep -oE '"Version": ?"[^"]*"' | head -n 1 | cut -d'"' -f4)
  printf '\n== %s %s\n' "$1" "$version"
  export PLANCTON_TEST_ROOT=1 PLANCTON_TEST_SKIPPED=$log.skipped
  : >"$PLANCTON_TEST_SKIPPED"
  timeout -k 10 "$limit" cargo test --locked --no-fail-fast --test live --test live_owner -- --test-threads=2 2>&1 | tee "$log" || status=$?
  read -r -a counts < <(sed -nE 's/^test result: [a-zA-Z]+\. ([0-9]+) passed; ([0-9]+) failed; ([0-9]+) ignored;.*/\1 \2 \3/p' "$log" |
    awk -v s="$(wc -l <"$PLANCTON_TEST_SKIPPED")" '{ p += $1; f += $2; i += $3 } END { print p - s, f + 0, i + s }')
  [ "$status" = 0 ] || [ "${counts[1]}" != 0 ] || counts[1]=1
  end_engine
  passed=$((passed + counts[0])) failed=$((failed + counts[1])) skipped=$((skipped + counts[2]))
  rows+=("| $1 | $version | $(date -u +%Y-%m-%d) | ${counts[0]} passed, ${counts[1]} failed, ${counts[2]} skipped, $((SECONDS - started)) s |")
}

[ "$(id -u)" = 0 ] || { echo "engines.sh needs root" >&2; exit 1; }
[ $# -gt 0 ] || set -- "${all[@]}"
for engine; do
  [[ " ${all[*]} " == *" $engine "* ]] || { sed -n '2,8s/^# //p' "${BASH_SOURCE[0]}" >&2; exit 64; }
done
for engine; do try_engine "$engine"; done
printf '\n| engine | version | when | live tests |\n|---|---|---|---|\n'
printf '%s\n' "${rows[@]}"
printf '%s passed, %s failed, %s skipped\n' "$passed" "$failed" "$skipped"
[ "$failed" = 0 ]
