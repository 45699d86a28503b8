#!/usr/bin/env bash
# A first run on a fresh machine with a Rust toolchain: finds or installs a container engine, builds Plancton, runs
# `plancton try` and removes every trace. Asks nothing. Arguments are passed on: packaging/try.sh --for 60s
# The exit code is that of `plancton try`.
set -euo pipefail

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=packaging/engine.sh
. "$repository/packaging/engine.sh"
SAY_AS=try
pid=''

finish() {
  local status=$?
  trap '' INT TERM HUP
  engine_stop || say "the engine could not be stopped"
  engine_report
  exit "$status"
}

# Plancton has a process group of its own, so that each signal reaches it once, however it came here.
pass_on() {
  [ -n "$pid" ] || exit "$2"
  "${ENGINE_PREFIX[@]}" kill -s "$1" "$pid" 2>/dev/null || true
}

need_compiler() {
  if ! command -v cargo >/dev/null; then
    say "no cargo here; install a Rust toolchain (https://rustup.rs), then run this again"
    return 1
  fi
  command -v cc >/dev/null || { say "no C linker, which Rust needs" && install_packages 'gcc libc6-dev' 'gcc'; }
}

# Prints the path of the release binary, wherever the user's cargo configuration puts it.
build() {
  (cd "$repository" && cargo build --release --locked --message-format=json-render-diagnostics) |
    sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' | tail -n 1
}

run_try() {
  local status
  set -m
  # no function here: $! must be the program (or sudo), not a shell around it
  "${ENGINE_PREFIX[@]}" env DOCKER_HOST="unix://$ENGINE_SOCKET" "$binary" try "$@" </dev/null &
  pid=$!
  set +m
  # a trapped signal ends `wait` early: go on until the process is gone
  while status=0; wait "$pid" || status=$?; runs "$pid"; do :; done
  pid=''
  return "$status"
}

trap finish EXIT
trap 'pass_on INT 130' INT
trap 'pass_on TERM 143' TERM
trap 'pass_on HUP 129' HUP
trap '[ -z "$pid" ] || pass_on WINCH 0' WINCH

need_compiler
engine_ensure
say "using the engine at $ENGINE_SOCKET"
say "building (a minute or two the first time)"
binary=$(build)
run_try "$@"
