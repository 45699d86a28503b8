#!/usr/bin/env bash
# What tests and the benchmark need around them: an engine, an image, a registry, databases, a browser. Source it, then:
#   trap stop_all EXIT; need_engine; make_image; need_registry; need_browser; …
# Servers listen on a Unix socket or on 127.0.0.1 only. Everything that was started here is ended by stop_all,
# by pid, and everything that was made here is removed; what was there before stays as it was.
set -euo pipefail

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=packaging/engine.sh
. "$repository/packaging/engine.sh"

SAY_AS=tests
TEST_TMP=$(mktemp -d "${TMPDIR:-/tmp}/plancton-tests.XXXXXX")
TEST_IMAGE=plancton-test/busybox:1
TEST_PIDS=()   # servers that were started here
MADE_IMAGES=() # images that were not there before

# Exports PLANCTON_TEST_ENGINE, the socket's path. Without root only an engine that this user may use counts.
need_engine() {
  [ -z "${PLANCTON_TEST_ENGINE:-}" ] || return 0
  if [ "$(id -u)" = 0 ]; then engine_ensure || return 1; else engine_find || return 1; fi
  # not DOCKER_HOST: the tests say themselves which engine they mean
  unset DOCKER_HOST
  export PLANCTON_TEST_ENGINE=$ENGINE_SOCKET
  command -v curl >/dev/null || install_packages curl curl
}

# api METHOD PATH [CURL-OPTION…]: one call to the engine; the answer on stdout, failure for a status from 400.
api() {
  local method=$1 path=$2
  shift 2
  curl -q -sS --fail --noproxy '*' --max-time 60 --unix-socket "$PLANCTON_TEST_ENGINE" -X "$method" "$@" "http://engine$path"
}

has_image() { api GET "/images/$1/json" >/dev/null 2>&1; }

# Busybox and links to it: the smallest image with a shell. Exports PLANCTON_TEST_IMAGE.
make_image() {
  local tree=$TEST_TMP/busybox applet busybox
  export PLANCTON_TEST_IMAGE=$TEST_IMAGE
  ! has_image "$TEST_IMAGE" || return 0
  command -v busybox >/dev/null || install_packages busybox-static busybox || return 1
  busybox=$(command -v busybox)
  mkdir -p "$tree/bin" "$tree/etc" "$tree/tmp"
  chmod 1777 "$tree/tmp"
  cp -L "$busybox" "$tree/bin/busybox"
  for applet in $("$busybox" --list); do
    [ "$applet" = busybox ] || ln -s busybox "$tree/bin/$applet"
  done
  echo 'root:x:0:0::/:/bin/sh' >"$tree/etc/passwd"
  tar -C "$tree" --numeric-owner --owner=0 --group=0 -cf "$TEST_TMP/busybox.tar" .
  api POST "/images/create?fromSrc=-&repo=${TEST_IMAGE%:*}&tag=${TEST_IMAGE##*:}&changes=CMD%20%5B%22%2Fbin%2Fsh%22%5D" \
    -H 'Content-Type: application/x-tar' --data-binary "@$TEST_TMP/busybox.tar" >/dev/null
  has_image "$TEST_IMAGE" || { say "the engine did not keep the image $TEST_IMAGE"; return 1; }
  MADE_IMAGES+=("$TEST_IMAGE")
}

port_is_free() { ! (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# serve_registry PROGRAM STATUS [AUTH]: one more registry, ready when it answers with that status; REGISTRY_PORT is its
# port, the first that is free from 5000 up. AUTH: further lines of its configuration.
serve_registry() {
  local port=5000 end=$((SECONDS + 10)) place
  until port_is_free "$port"; do port=$((port + 1)); done
  place=$TEST_TMP/registry-$port
  mkdir -p "$place"
  cat >"$place.yml" <<YAML
version: 0.1
log: { level: error }
storage: { filesystem: { rootdirectory: $place }, delete: { enabled: true } }
http: { addr: "127.0.0.1:$port" }
${3:-}
YAML
  "$1" serve "$place.yml" >"$place.log" 2>&1 </dev/null &
  TEST_PIDS+=($!)
  until [ "$(curl -q -s --noproxy '*' -o /dev/null -w '%{http_code}' "http://127.0.0.1:$port/v2/")" = "$2" ]; do
    if [ "$SECONDS" -ge "$end" ] || ! runs "$!"; then
      say "the registry did not start: $(tail -n 2 "$place.log")"
      return 1
    fi
    sleep 0.1
  done
  REGISTRY_PORT=$port
}

# A registry with the test image in it, and one that wants the user "tester" with the password "secret". Exports
# PLANCTON_TEST_REGISTRY and PLANCTON_TEST_CLOSED_REGISTRY, "127.0.0.1:PORT", and PLANCTON_TEST_REGISTRY_IMAGE, a name
# that can be pulled.
need_registry() {
  local program name
  [ -z "${PLANCTON_TEST_REGISTRY:-}" ] || return 0
  if ! program=$(command -v docker-registry || command -v registry); then
    install_packages docker-registry docker-distribution || return 1
    # a package may start its own service, on every address
    ! has_systemd || as_root systemctl disable -q --now docker-registry docker-distribution 2>/dev/null || true
    program=$(command -v docker-registry || command -v registry) || return 1
  fi
  # bcrypt of "secret", the only kind that the registry takes
  # shellcheck disable=SC2016
  echo 'tester:$2b$05$laNh8egEbMK1j.3Pwrur1.GjOssRD5D0Dr0vOKQZ0FViMiehlTwWq' >"$TEST_TMP/htpasswd"
  serve_registry "$program" 401 "auth: { htpasswd: { realm: test, path: $TEST_TMP/htpasswd } }" || return 1
  export PLANCTON_TEST_CLOSED_REGISTRY=127.0.0.1:$REGISTRY_PORT
  serve_registry "$program" 200 || return 1
  make_image || return 1
  name=127.0.0.1:$REGISTRY_PORT/${TEST_IMAGE%:*}
  api POST "/images/$TEST_IMAGE/tag?repo=$name&tag=1"
  # a failed push answers 200 too: the registry's own list is what counts
  api POST "/images/$name/push?tag=1" -H 'X-Registry-Auth: e30=' >"$TEST_TMP/push.log"
  api DELETE "/images/$name:1" >/dev/null
  curl -q -sS --fail --noproxy '*' -o /dev/null "http://127.0.0.1:$REGISTRY_PORT/v2/${TEST_IMAGE%:*}/tags/list" ||
    { say "the image was not pushed: $(tail -n 1 "$TEST_TMP/push.log")"; return 1; }
  export PLANCTON_TEST_REGISTRY=127.0.0.1:$REGISTRY_PORT PLANCTON_TEST_REGISTRY_IMAGE=$name:1
}

# Exports PLANCTON_TEST_BROWSER, a Chromium that draws without a screen.
need_browser() {
  local program
  [ -z "${PLANCTON_TEST_BROWSER:-}" ] || return 0
  if ! program=$(command -v chromium || command -v chromium-browser || command -v google-chrome); then
    install_packages 'chromium fonts-dejavu-core' 'chromium-headless|chromium dejavu-sans-fonts' || return 1
    program=$(command -v chromium || command -v chromium-browser || command -v chromium-headless) || return 1
  fi
  export PLANCTON_TEST_BROWSER=$program
}

# need_program VARIABLE PACKAGE PROGRAM…: exports the path of the first program there is, from the package if need be.
need_program() {
  local variable=$1 package=$2 found
  shift 2
  [ -z "${!variable:-}" ] || return 0
  if ! found=$(command -v "$@" | head -n 1) || [ -z "$found" ]; then
    install_packages "$package" "$package" || return 1
    # a package may start its own service, on every address
    ! has_systemd || as_root systemctl disable -q --now "$package" 2>/dev/null || true
    found=$(command -v "$@" | head -n 1) || true
  fi
  [ -n "$found" ] || { say "$package brought no $1"; return 1; }
  export "$variable=$found"
}

need_openssl() {
  command -v openssl >/dev/null || install_packages openssl openssl
}

need_minisign() {
  command -v minisign >/dev/null || install_packages minisign minisign
}

# Servers for metrics: each test starts and stops its own. Exports PLANCTON_TEST_INFLUXD.
need_influxdb() {
  need_openssl || return 1
  need_program PLANCTON_TEST_INFLUXD influxdb influxd
}

# Exports PLANCTON_TEST_VICTORIAMETRICS.
need_victoriametrics() {
  need_program PLANCTON_TEST_VICTORIAMETRICS victoria-metrics victoria-metrics victoria-metrics-prod
}

stop_all() {
  local status=$? pid image
  trap '' INT TERM
  for pid in "${TEST_PIDS[@]}"; do
    kill -TERM "$pid" 2>/dev/null || true
    wait_gone 10 "$pid" || kill -KILL "$pid" 2>/dev/null || true
  done
  for image in "${MADE_IMAGES[@]}"; do
    api DELETE "/images/$image?force=1" >/dev/null 2>&1 || true
  done
  engine_stop || true
  rm -rf "$TEST_TMP"
  TEST_PIDS=() MADE_IMAGES=()
  return "$status"
}
