#!/usr/bin/env bash
# Drives the real binary hard, on a real engine of its own: killed, filled, starved, frozen, stormed. Needs root, five minutes.
#   tests/hard.sh [NAME…]        all checks, or those named (see the list at the end)
#   tests/hard.sh crash ROUNDS   the crash loop, as long as asked for
#   tests/hard.sh fuzz MINUTES   each fuzzer of src/fuzz_tests.rs (five) for that long, with new seeds
# A line a check, "ok" or "FAILED"; the last line counts them. PLANCTON_BINARY: a binary that is built already.
# Not part of tests/run.sh, which has a short form of each (tests/made_up/).
set -euo pipefail

# What is mounted here is seen by nobody else and gone at the end; processors look idle, whatever else is running.
if [ "${1:-}" != fuzz ] && [ -z "${PLANCTON_HARD_INSIDE:-}" ]; then
  [ "$(id -u)" = 0 ] || { echo "tests/hard.sh needs root: it mounts, limits and kills" >&2; exit 1; }
  PLANCTON_HARD_INSIDE=1 exec unshare -m --propagation private "$0" "$@"
fi
# shellcheck source=tests/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$repository"

passed=0 failed=0
pilots=3
config='[loop]\ninterval = "1s"\nlaunches-per-tick = 8\n[engine]\ntimeout = "3s"\n[share]\nreserve-cpus = 0\nreserve-memory = "64MiB"
reserve-disk = "1MiB"\nmissing-limits = "warn"\nmax-pilots = 3\n[owner]\nwhen-busy = "yield"\ncalm-for = "1s"\non-battery = "run"
min-battery = 0\nmax-temperature = 0\n'
class() { # class SECONDS [LINES]
  printf '%b[[pilot]]\nname = "p"\nimage = "%s"\ncommand = ["sh", "-c", "sleep %s"]\ncpus = 0.1\nmemory = "16MiB"\nnetwork = "none"\nstop-grace = "1s"\nmin-runtime = "0s"\n%b' "$config" "$TEST_IMAGE" "$1" "${2:-}"
}

verdict() { # verdict WHAT FIGURES COMMAND…
  local word=ok what=$1 figures=$2
  shift 2
  if "$@"; then passed=$((passed + 1)); else word=FAILED failed=$((failed + 1)); fi
  printf '%-7s %-34s %s\n' "$word" "$what" "$figures"
}

# ---- one instance, and what is asked of it ----

place() { # a new place for an instance
  home=$TEST_TMP/$1 name=hard-$1 pid=''
  mkdir -p "$home"
  line=(--instance "$name" --engine "unix://$PLANCTON_TEST_ENGINE" --config "$home/config.toml" --run-dir "$home/run" --state-dir "$home/state")
}
# Commands have a limit: one that hangs is a failure, exit code 124.
ask() { # ask SECONDS COMMAND…
  timeout "$1" "$binary" "${line[@]}" "${@:2}" >"$home/said" 2>&1 </dev/null
}
code() { # code EXPECTED SECONDS COMMAND…
  local expected=$1 got=0
  ask "${@:2}" || got=$?
  [ "$got" = "$expected" ]
}
start() { # start [PREFIX…]
  "$@" "$binary" "${line[@]}" -v run >>"$home/log" 2>&1 </dev/null &
  pid=$!
}
# end LIMIT: SIGTERM; whether it ended by then
end() {
  kill -TERM "$pid" 2>/dev/null || true
  wait_gone "$1" "$pid"
}
soon() { # soon SECONDS COMMAND…
  local limit=$((SECONDS + $1 + 1))
  until "${@:2}"; do
    [ "$SECONDS" -lt "$limit" ] || return 1
    sleep 0.05
  done
}
field() { grep -oE "\"$1\":\"?[^\",}]*" "$home/run/status.json" 2>/dev/null | head -n 1 | sed -E 's/^[^:]*:"?//'; }
containers() { # containers STATE…: their ids
  local state filters
  state=$(printf ',"%s"' "$@")
  filters="{\"label\":[\"io.plancton.instance=$name\"],\"status\":[${state#,}]}"
  api GET /containers/json -G --data-urlencode all=1 --data-urlencode "filters=$filters" | grep -oE '"Id":"[0-9a-f]+"' || true
}
count() { containers "$@" | wc -l; }
has() { [ "$(count running)" = "$1" ]; }
any() { count created running paused exited dead; }
none() { [ "$(any)" = 0 ]; }
says() { grep -q "$@" "$home/run/status.json" 2>/dev/null; }
fresh() { # the status was written within three seconds
  [ $(($(date +%s) - $(stat -c %Y "$home/run/status.json" 2>/dev/null || echo 0))) -le 3 ]
}
ticks() { awk '{ sub(/^.*\) /, ""); print $12 + $13 }' "/proc/$1/stat"; }
finish() { # the instance goes, with everything of it
  local id
  kill -KILL "$pid" 2>/dev/null || true
  wait "$pid" 2>/dev/null || true
  for id in $(containers created running paused exited dead | grep -oE '[0-9a-f]{64}'); do
    api DELETE "/containers/$id?force=1&v=1" >/dev/null 2>&1 || true
  done
}
with() { # with NAME CLASS: a daemon with all its pilots
  place "$1"
  printf '%s' "$2" >"$home/config.toml"
  start
  verdict "$1: pilots come up" "" soon 30 has "$pilots"
}

# ---- the engine: one of our own, that may be killed ----

engine() {
  dockerd --data-root "$TEST_TMP/engine" --exec-root "$TEST_TMP/exec" -p "$TEST_TMP/engine.pid" -H "unix://$PLANCTON_TEST_ENGINE" \
    --bridge none --iptables=false --ip6tables=false >>"$TEST_TMP/engine.log" 2>&1 </dev/null &
  engine_pid=$!
  TEST_PIDS+=("$engine_pid")
  soon 30 engine_answers "$PLANCTON_TEST_ENGINE" || { say "no engine: $(tail -n 2 "$TEST_TMP/engine.log")"; return 1; }
}
prepare() {
  local threads
  command -v dockerd >/dev/null || need_engine
  export PLANCTON_TEST_ENGINE=$TEST_TMP/engine.sock
  engine
  make_image
  threads=$(nproc --all)
  seq 0 $((threads - 1)) | awk '{ print "cpu" $1 " 6 0 6 6000 0 0 0 0 0 0" } BEGIN { print "cpu  99 0 99 99999 0 0 0 0 0 0" }' >"$TEST_TMP/stat"
  mount --bind "$TEST_TMP/stat" /proc/stat
}
tidy() {
  local status=$?
  [ -z "${name:-}" ] || finish 2>/dev/null || true
  stop_engines=$(cat "$TEST_TMP"/exec/containerd/containerd.pid 2>/dev/null || true)
  for one in "${TEST_PIDS[@]}" $stop_engines; do
    kill -CONT "$one" 2>/dev/null || true
    kill -TERM "$one" 2>/dev/null || true
    wait_gone 10 "$one" || true
  done
  grep -F " $TEST_TMP" /proc/mounts | cut -d' ' -f2 | sort -r | xargs -r umount -l 2>/dev/null || true
  (exit "$status") || true
  stop_all
  return "$status"
}

# ---- checks ----

# crash [ROUNDS]: kill -9 at any moment; half of the rounds once a launch was seen. Pilots end by themselves: any other end is work lost.
crash() {
  local rounds=${1:-40} round before begun longest=0 gap started most lost ended left figures
  place crash
  # a busy machine's engine may take longer for a start than is allowed elsewhere here: what counts is when it is asked
  class 1.5 | sed 's/^timeout = .*/timeout = "30s"/' >"$home/config.toml"
  : >"$home/events"
  api GET /events -G -N --max-time 0 --data-urlencode 'filters={"type":["container"]}' >>"$home/events" 2>/dev/null &
  TEST_PIDS+=($!)
  for round in $(seq 1 "$rounds"); do
    before=$(grep -c '"Action":"create"' "$home/events" || true)
    begun=$(date +%s%3N)
    start
    if [ $((round % 2)) = 1 ]; then
      soon 20 new_launch "$before" || true
      gap=$(($(date +%s%3N) - begun))
      [ "$gap" -le "$longest" ] || longest=$gap
      sleep "0.$((RANDOM % 4))"
    else
      sleep "$(awk -v r=$RANDOM 'BEGIN { print r / 32768 * 0.9 }')"
    fi
    kill -KILL "$pid"
    wait "$pid" 2>/dev/null || true
  done
  start
  soon 20 has "$pilots" || true
  ask 30 drain --stop || true
  soon 30 none || true
  wait_gone 10 "$pid" || true
  sleep 1
  # who ran at once, and who ended otherwise than by its own will
  figures=$(sed -nE 's/.*"Action":"([a-z]+)".*"ID":"([0-9a-f]+)".*/\1 \2 &/p' "$home/events" | awk '
    $1 == "start" { running[$2] = 1; if (++now > most) most = now; started++ }
    $1 == "die" { now--; delete running[$2]; if ($0 !~ /"exitCode":"(0|143|137)"/) lost++; if ($0 ~ /"exitCode":"(143|137)"/) ended++ }
    $1 == "destroy" && ($2 in running) { lost++ }
    END { print started + 0, most + 0, lost + 0, ended + 0 }')
  read -r started most lost ended <<<"$figures"
  # those of the last drain were asked to end
  [ "$ended" -le "$pilots" ] || lost=$((lost + ended - pilots))
  left=$(($(any) + $( (find "$home/run/files" -mindepth 1 2>/dev/null || true) | wc -l)))
  finish
  figures="$rounds rounds, $started pilots: lost $lost, at most $most of $pilots at once, left over $left, longest without a launch $longest ms"
  verdict "crash loop" "$figures" test "$lost $left $((most <= pilots)) $((longest <= 5000)) $((started > rounds / 3))" = "0 0 1 1 1"
}
new_launch() { [ "$(grep -c '"Action":"create"' "$home/events")" -gt "$1" ]; }

# The engine stands still, and is killed with all its pilots running.
engine_faults() {
  local begun
  with engine "$(class 600)"
  kill -STOP "$engine_pid"
  soon 15 says '"engine":{[^}]*"error"' || true
  sleep 4
  verdict "engine stands still: status goes on" "" fresh
  verdict "engine stands still: why answers" "" code 0 5 why
  kill -CONT "$engine_pid"
  verdict "engine goes on: pilots kept" "" soon 20 has "$pilots"
  kill -KILL "$engine_pid"
  wait "$engine_pid" 2>/dev/null || true
  sleep 2
  verdict "engine killed: daemon lives" "" fresh
  rm -f "$TEST_TMP/engine.pid"
  begun=$SECONDS
  engine
  soon 60 has "$pilots" || true
  verdict "engine is back: pilots are back" "after $((SECONDS - begun)) s" has "$pilots"
  verdict "and the daemon ends" "" end 10
  finish
}

full_disk() {
  place disk
  mkdir -p "$home/state"
  mount -t tmpfs -o size=64k,mode=755 small "$home/state"
  class 600 >"$home/config.toml"
  start
  soon 30 has "$pilots" || true
  cat /dev/zero >"$home/state/fill" 2>/dev/null || true
  verdict "full disk: drain is obeyed" "" code 0 5 drain
  verdict "full disk: and seen" "" soon 5 says '"state":"draining"'
  verdict "full disk: resume" "" code 0 5 resume
  verdict "full disk: snooze" "" code 0 5 snooze 1h
  verdict "full disk: and seen" "" soon 5 says '"state":"snoozed"'
  ask 5 resume || true
  mount -o remount,ro "$home/state"
  verdict "read-only disk: force-stop" "" code 0 30 force-stop
  verdict "read-only disk: no pilot is left" "" soon 10 none
  finish
  umount -l "$home/state"
}

# What is not a plain file, or one without an end, where a file is expected.
fifos() {
  local what file key
  place fifo
  mkfifo "$home/fifo"
  for file in fifo /dev/zero /proc/kmsg /; do
    [ "$file" = fifo ] && what=$home/fifo || what=$file
    ln -sfn "$what" "$home/config.toml"
    for key in check run config; do
      verdict "configuration is $file: $key" "" code 78 5 "$key"
    done
    rm "$home/config.toml"
    : >"$home/config.toml"
    verdict "recording is $file: replay" "" code 1 5 replay "$what"
  done
  truncate -s 200M "$home/config.toml"
  (ulimit -v 300000 && code 78 5 check) || rm "$home/config.toml"
  verdict "configuration of 200 MB in 300 MB" "" test -e "$home/config.toml"
  for key in image-archive auth-file; do
    chmod 600 "$home/fifo"
    class 600 "$key = \"$home/fifo\"\n" | sed 's|^image = .*|image = "127.0.0.1:9/none:1"|' >"$home/config.toml"
    start
    soon 15 says 'not a regular file' || true
    verdict "$key is a fifo: said" "" says 'not a regular file'
    verdict "$key is a fifo: the loop goes on" "" fresh
    verdict "$key is a fifo: ends" "" end 5
    finish
  done
}

# As a plain user nobody else is, whose threads are counted by the kernel.
no_threads() {
  local user=54321 stranger
  place threads
  class 600 >"$home/config.toml"
  chmod 755 "$TEST_TMP"
  chown "$user" "$home"
  stranger=(setpriv --reuid "$user" --regid "$(stat -c %g "$PLANCTON_TEST_ENGINE")" --clear-groups)
  start "${stranger[@]}"
  soon 30 has "$pilots" || true
  "${stranger[@]}" prlimit --pid "$pid" --nproc=1:
  api DELETE "/containers/$(containers running | head -n 1 | grep -oE '[0-9a-f]{64}')?force=1" >/dev/null
  verdict "no threads: said" "" soon 15 says 'thread'
  verdict "no threads: the loop goes on" "" soon 10 fresh
  "${stranger[@]}" prlimit --pid "$pid" --nproc=1000:
  verdict "threads again: pilots are back" "" soon 30 has "$pilots"
  verdict "and the daemon ends" "" end 10
  finish
}

no_descriptors() {
  local before used
  with descriptors "$(class 600)"
  prlimit --pid "$pid" --nofile=3:1024
  sleep 2
  before=$(ticks "$pid")
  sleep 5
  used=$(($(ticks "$pid") - before))
  verdict "no descriptors: it does not spin" "$used hundredths in 5 s" test "$used" -lt 50
  prlimit --pid "$pid" --nofile=1024:1024
  verdict "descriptors again: status" "" soon 30 fresh
  verdict "and pilots were kept" "" has "$pilots"
  verdict "and the daemon ends" "" end 10
  finish
}

# Its log is a full pipe from before the start.
log_without_reader() {
  place log
  class 600 >"$home/config.toml"
  mkfifo "$home/pipe"
  exec 7<>"$home/pipe"
  dd if=/dev/zero of="$home/pipe" oflag=nonblock bs=4k count=1000 2>/dev/null || true
  "$binary" "${line[@]}" -v run </dev/null >&7 2>&7 7>&- &
  pid=$!
  verdict "log without a reader: pilots" "" soon 30 has "$pilots"
  verdict "log without a reader: fresh" "" fresh
  verdict "log without a reader: ends" "" end 5
  exec 7>&-
  finish
}

storms() {
  local before calls used dir
  with storm "$(class 600)"
  for dir in run state; do
    before="$(field calls)" used=$(ticks "$pid")
    timeout 4 bash -c "while :; do : >'$home/$dir/control/x'; rm '$home/$dir/control/x'; done" || true
    sleep 1.1
    calls=$(($(field calls) - before)) used=$(($(ticks "$pid") - used))
    verdict "storm in $dir/control" "$calls calls, $used hundredths in 5 s" test "$calls" -le 14 -a "$used" -lt 60
  done
  mkdir "$home/state/control/drain"
  verdict "a directory as control file: drain" "" code 0 5 drain
  verdict "and resume" "" code 0 5 resume
  verdict "and purge" "" code 0 30 purge
  verdict "nothing is left" "" none
  finish
}

# The owner's last words, where the daemon can't listen; and a second daemon of the same instance elsewhere.
deaf() {
  with deaf "$(class 600)"
  verdict "a second daemon elsewhere" "" code 1 5 --run-dir "$home/run-2" --state-dir "$home/state-2" run
  kill -STOP "$pid"
  verdict "purge beside one that stands still" "" code 0 60 purge
  verdict "it has ended" "" wait_gone 5 "$pid"
  verdict "nothing is left" "" none
  finish
}

fuzz() {
  local minutes=$1 program fuzzer end round=1 log=$TEST_TMP/fuzz status=0
  program=$(cargo test --locked --bin plancton --no-run 2>&1 | sed -nE 's/.*Executable .*\((.*)\)$/\1/p')
  ulimit -v 2000000 # one fuzzer has taken a whole machine
  for fuzzer in $("$program" fuzz_tests --list | sed -n 's/: test$//p'); do
    end=$((SECONDS + minutes * 60))
    while [ "$SECONDS" -lt "$end" ] && [ "$status" = 0 ]; do
      round=$((round + 1))
      PLANCTON_FUZZ_SEED=$round$RANDOM PLANCTON_FUZZ_RUNS=20000 timeout $((minutes * 60 + 300)) "$program" --exact "$fuzzer" \
        --nocapture >>"$log" 2>&1 </dev/null || status=$?
    done
  done
  grep -E 'panicked|hangs|FAILED|, run ' "$log" || true
  sed -nE 's/.*fuzz ([^:]*): ([0-9]+) executions in .* slowest ([0-9]+) ms, peak ([0-9]+) kB/\1|\2|\3|\4/p' "$log" | awk -F'|' '
    { n[$1] += $2; if ($3 > s[$1]) s[$1] = $3; if ($4 > p[$1]) p[$1] = $4 }
    END { for (i in n) printf "%-22s %9d executions, slowest %d ms, peak %d kB\n", i, n[i], s[i], p[i] }'
  verdict "fuzz" "$minutes minutes each, exit code $status" test "$status" = 0
}

trap tidy EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
binary=${PLANCTON_BINARY:-$repository/target/debug/plancton}
[ -n "${PLANCTON_BINARY:-}" ] || [ "${1:-}" = fuzz ] || cargo build --locked
case ${1:-} in
fuzz) fuzz "${2:-10}" ;;
crash) prepare && { crash "${2:-40}" || verdict crash "it stopped before its end" false; } ;;
*)
  prepare
  [ $# -gt 0 ] || set -- fifos full_disk no_threads no_descriptors log_without_reader storms deaf engine_faults crash
  for check; do "$check" || verdict "$check" "it stopped before its end" false; done
  ;;
esac
printf 'total time: %s s\n%s ok, %s FAILED\n' "$SECONDS" "$passed" "$failed"
[ "$failed" = 0 ]
