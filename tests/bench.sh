#!/usr/bin/env bash
# Speed, memory and wake-ups, as a table of figure, budget and verdict. Ratios are taken in one run, because machines are
# noisy; the figures are for people, so this is no test. Takes about fifteen minutes and wants a quiet machine.
#   tests/bench.sh [fill] [share] [loop] [steady] [owner] [decide] [many]      parts of it; without any: all (many as root alone)
#   tests/bench.sh fleet      many daemons, one InfluxDB, one web server (tests/bench/fleet.rs): four minutes, as root
# BENCH_BINARY=FILE measures that binary instead of the static release build; BENCH_PAIRS=N takes N pairs of the owner's job;
# FLEET=N takes N daemons instead of 200, FLEET_REFRESH=SECONDS lets them look at the web server that often (60).
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=tests/lib.sh
. "$here/lib.sh"
cd "$repository"
exec </dev/null

base=$TEST_TMP/bench
run=$base/run # in memory, as /run is, where that can be had
[ ! -d /dev/shm ] || run=$(mktemp -d /dev/shm/plancton-bench.XXXXXX)
daemon=""
fleet=""
rows=()

finish() {
  [ -z "$daemon" ] || kill -KILL "$daemon" 2>/dev/null || true
  [ -z "$fleet" ] || kill -KILL "$fleet" 2>/dev/null || true
  [ ! -d "$base" ] || plancton purge >/dev/null 2>&1 || true
  rm -rf "$run"
  stop_all
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

plancton() {
  "$binary" -q --config "$base/config.toml" --engine "unix://$PLANCTON_TEST_ENGINE" --instance bench \
    --run-dir "$run" --state-dir "$base/state" "$@"
}

# start CONFIGURATION: the daemon, with it.
start() {
  mkdir -p "$base"
  printf '%s\n' "$1" >"$base/config.toml"
  "$binary" -q --config "$base/config.toml" --engine "unix://$PLANCTON_TEST_ENGINE" --instance bench \
    --run-dir "$run" --state-dir "$base/state" run 2>>"$base/log" &
  daemon=$!
}

stop() {
  plancton force-stop >/dev/null
  wait "$daemon" 2>/dev/null || true
  daemon=""
}

ours() { docker ps -q --filter label=io.plancton.instance=bench; }

await() { # await COUNT SECONDS: so many pilots run
  local end=$((SECONDS + $2))
  until [ "$(ours | wc -l)" -ge "$1" ]; do
    [ "$SECONDS" -lt "$end" ] || { say "only $(ours | wc -l) of $1 pilots run"; return 1; }
    sleep 0.2
  done
}

# field NAME: a number of the status
field() { plancton status --json | sed -nE "s/^ *\"$1\": ([-0-9.e]+),?$/\1/p" | head -1; }

median() { sort -n | awk '{ v[NR] = $1 } END { print NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2 }'; }

row() { # row FIGURE VALUE UNIT at-most|at-least BUDGET
  local verdict
  verdict=$(awk -v v="$2" -v b="$5" -v w="$4" 'BEGIN { print (w == "at-most" ? v <= b : v >= b) ? "ok" : "MISSED" }')
  rows+=("$(printf '%-58s %10.6g %-6s %-8s %8s  %s' "$1" "$2" "$3" "${4/-/ }" "$5" "$verdict")")
  printf '%s\n' "${rows[-1]}"
}

pilot() { # pilot COMMAND CPUS [MORE]
  printf '[[pilot]]\nname = "b"\nimage = "%s"\ncommand = %s\ncpus = %s\nmemory = "8MiB"\npids = 16\nnetwork = "none"\nstop-grace = "1s"\n%s' \
    "$PLANCTON_TEST_IMAGE" "$1" "$2" "${3:-}"
}

# ---- how full the slots are ----

# Starts and ends of pilots as the engine dates them: "seconds start|die ID". Followed as they come, because an engine keeps
# the last 256 events only.
follow_events() {
  docker events --filter label=io.plancton.instance=bench --filter event=create --filter event=start --filter event=die \
    --format '{{.TimeNano}} {{.Action}} {{.ID}} {{index .Actor.Attributes "io.plancton.class"}}' >>"$TEST_TMP/events.raw" &
  TEST_PIDS+=($!)
}

alone_start() { # the engine's own create and start, in seconds
  local began ended id
  began=$(date +%s.%N)
  id=$(api POST /containers/create -H 'Content-Type: application/json' \
    -d "{\"Image\": \"$PLANCTON_TEST_IMAGE\", \"Cmd\": [\"sleep\", \"9\"], \"HostConfig\": {\"NetworkMode\": \"none\", \"Init\": true, \"Memory\": 8388608, \"NanoCpus\": 100000000}}")
  id=${id#*\"Id\":\"} id=${id%%\"*}
  api POST "/containers/$id/start"
  ended=$(date +%s.%N)
  api DELETE "/containers/$id?force=1&v=1"
  awk -v a="$began" -v b="$ended" 'BEGIN { print b - a }'
}

bench_fill() {
  local from to own
  own=$(for _ in 1 2 3 4 5 6 7 8 9; do alone_start; done | median)
  follow_events
  start "[share]
max-pilots = 10
$(pilot '["sleep", "10"]' 0.1)"
  await 10 60
  sleep 5
  from=$(date +%s)
  sleep 120
  to=$(date +%s)
  awk '{ printf "%.3f %s %s\n", $1 / 1e9, $2, $3 }' "$TEST_TMP/events.raw" >"$TEST_TMP/events"
  stop
  row "10 slots, pilots of 10 s: slot-seconds filled in 2 min" "$(awk -v from="$from" -v to="$to" '
    $2 == "start" { begun[$3] = $1 }
    $2 == "die" && ($3 in begun) { add(begun[$3], $1); delete begun[$3] }
    function add(a, b) { if (a < from) a = from; if (b > to) b = to; if (b > a) filled += b - a }
    END { for (id in begun) add(begun[id], to); print 100 * filled / (10 * (to - from)) }' "$TEST_TMP/events")" "%" at-least 95
  # One end at a time, so that it is the loop's time and not that of starts which wait for each other.
  start "[share]
max-pilots = 10
$(pilot '["sleep", "600"]' 0.1)"
  await 10 60
  sleep 7
  : >"$TEST_TMP/events.raw"
  for _ in $(seq 15); do
    docker kill "$(ours | tail -n 1)" >/dev/null
    sleep 2
  done
  awk '{ printf "%.3f %s %s\n", $1 / 1e9, $2, $3 }' "$TEST_TMP/events.raw" >"$TEST_TMP/events"
  stop
  row "from an end to its replacement, beyond the engine's own" "$(awk '
    $2 == "die" { died = $1 }
    $2 == "start" && died { print $1 - died; died = 0 }' "$TEST_TMP/events" | median |
    awk -v own="$own" '{ print 1000 * ($1 - own) }')" ms at-most 50
  printf '  (the engine alone: create and start take %.0f ms, median of 9)\n' "$(awk -v o="$own" 'BEGIN { print 1000 * o }')"
}

# ---- how two classes share ----

# Weights 3 and 1, pilots of 5 s, the light class in pieces of another size: core-seconds by class over 3 minutes.
bench_share() {
  local from to
  : >"$TEST_TMP/events.raw"
  follow_events
  start "[share]
cpus = 2.4
reserve-cpus = 0
$(pilot '["sleep", "5"]' 0.2 'weight = 3' | sed 's/name = "b"/name = "heavy"/')
$(pilot '["sleep", "5"]' 0.3 'weight = 1' | sed 's/name = "b"/name = "light"/')"
  sleep 20
  from=$(date +%s)
  sleep 180
  to=$(date +%s)
  stop
  row "core-seconds of weight 3 to weight 1, other sizes (3 ± 10 %)" "$(awk -v from="$from" -v to="$to" '
    { at = $1 / 1e9 }
    $2 == "start" { begun[$3] = at; class[$3] = $4 }
    $2 == "die" && ($3 in begun) { add($3, at); delete begun[$3] }
    function add(id, end, a) { a = begun[id]; if (a < from) a = from; if (end > to) end = to
      if (end > a) sum[class[id]] += (end - a) * (class[id] == "heavy" ? 0.2 : 0.3) }
    END { for (id in begun) add(id, to); r = sum["heavy"] / sum["light"]; printf "  (ratio %.3f)\n", r > "/dev/stderr"
      print (r > 3 ? r - 3 : 3 - r) / 3 * 100 }' "$TEST_TMP/events.raw")" "%" at-most 10
}

# ---- the loop's longest gap, with everything in flight at once ----

engine_pid() { pgrep -o -x dockerd; }

bench_loop() {
  local hogs=() pid
  for _ in $(seq "$(nproc)"); do
    (exec perl -e 'my $end = time + 60; 1 while time < $end') &
    hogs+=($!)
  done
  : >"$TEST_TMP/events.raw"
  follow_events
  start "[loop]
interval = \"2s\"
[engine]
timeout = \"5s\"
[owner]
when-busy = \"yield\"
[share]
reserve-cpus = 0
cpus = 64
[[pilot]]
name = \"away\"
image = \"127.0.0.1:9/none/here:1\"
cpus = 0.01
memory = \"8MiB\"
$(pilot '["sleep", "5"]' 0.05 'weight = 10')"
  sleep 20
  if pid=$(engine_pid) && [ "${ENGINE_STARTED:-no}" = yes ]; then
    kill -STOP "$pid"
    sleep 12
    kill -CONT "$pid"
    sleep 8
  else
    say "the engine is not ours to stop: its hanging is left out"
  fi
  row "start of a pilot beside an owner on every core, median" "$(awk '
    $2 == "create" { made[$3] = $1 / 1e9 }
    $2 == "start" && ($3 in made) { print $1 / 1e9 - made[$3] }' "$TEST_TMP/events.raw" | median)" s at-most 10
  row "longest gap of the loop: starts, a pull, a hanging engine" "$(field longest_gap_ms)" ms at-most 1000
  for pid in "${hogs[@]}"; do kill "$pid" 2>/dev/null || true; done
  stop
}

# ---- the steady state ----

# steady COUNT: calls, CPU and wake-ups a tick over a minute of 1 s ticks, and the memory.
steady() {
  local a b
  start "[loop]
interval = \"1s\"
launches-per-tick = 16
[share]
reserve-cpus = 0
max-pilots = $1
$(pilot '["sleep", "3600"]' 0.01)"
  await "$1" 600
  sleep 10
  a="$(field calls) $(field cpu_ms) $(field turns) $(awk '/^voluntary/ { print $2 }' "/proc/$daemon/status")"
  sleep 60
  b="$(field calls) $(field cpu_ms) $(field turns) $(awk '/^voluntary/ { print $2 }' "/proc/$daemon/status")"
  read -r calls cpu turns switches < <(echo "$a $b" | awk '{ ticks = $5 - $1; print ticks / 60, ($6 - $2) / 60, ($7 - $3) / 60, ($8 - $4) / 60 }')
  memory=$(awk '/^VmRSS/ { print $2 / 1024 }' "/proc/$daemon/status")
  stop
}

bench_steady() {
  steady 10
  row "engine calls a tick at 10 pilots" "$calls" "" at-most 1.05
  row "CPU a tick at 10 pilots" "$cpu" ms at-most 0.5
  row "turns of the loop a tick (asked and answered: 2)" "$turns" "" at-most 2.1
  row "voluntary switches of the loop a tick" "$switches" "" at-most 4
  row "resident memory at 10 pilots" "$memory" MiB at-most 2.3
  steady 100
  row "engine calls a tick at 100 pilots" "$calls" "" at-most 1.05
  row "CPU a tick at 100 pilots" "$cpu" ms at-most 2
  steady 200
  row "resident memory at 200 pilots" "$memory" MiB at-most 4
}

bench_size() {
  row "static binary" "$(awk -v b="$(stat -c %s "$binary")" 'BEGIN { print b / 1e6 }')" MB at-most 2.3
  row "crates in the tree" "$(cargo tree --locked --prefix none -e normal,build | sed 's/ (\*)//' | sort -u | wc -l)" "" at-most 60
}

# ---- what the owner feels ----

# A fixed piece of work on every core, in seconds.
owner_job() {
  local began ended pids=() i
  began=$(date +%s.%N)
  for i in $(seq "$(nproc)"); do
    "$binary" pilot --from "$((10 ** 12 * i))" --to "$((10 ** 12 * i + 6 * 10 ** 9))" >/dev/null &
    pids+=($!)
  done
  wait "${pids[@]}"
  ended=$(date +%s.%N)
  awk -v a="$began" -v b="$ended" 'BEGIN { print b - a }'
}

# 95th percentile of how late a process wakes that sleeps 5 ms, in milliseconds, over 5 s.
lateness() {
  perl -MTime::HiRes=time,sleep -e 'my @l; my $end = time + 5; while (time < $end) { my $t = time; sleep 0.005; push @l, (time - $t - 0.005) * 1000 }
    @l = sort { $a <=> $b } @l; print $l[int(@l * 0.95)], "\n"'
}

burner() { # the same work as a plain container, as the original started its pilots
  docker run -d --pull never --label plancton-bench=1 --cpus 1 --memory 64m --network none "$1" pilot --for 10m >/dev/null
}

bench_owner() {
  local image cores config pair
  cores=$(nproc)
  config="[loop]
interval = \"2s\"
[[pilot]]
name = \"b\"
image = \"builtin\"
command = [\"pilot\", \"--for\", \"10m\"]
memory = \"64MiB\"
network = \"none\"
stop-grace = \"1s\"
"
  : >"$TEST_TMP/alone" && : >"$TEST_TMP/ours" && : >"$TEST_TMP/plain" && : >"$TEST_TMP/late-alone" && : >"$TEST_TMP/late-ours" && : >"$TEST_TMP/given" && : >"$TEST_TMP/start"
  for pair in $(seq "${BENCH_PAIRS:-5}"); do
    owner_job >>"$TEST_TMP/alone"
    lateness >>"$TEST_TMP/late-alone"
    start "$config"
    await "$cores" 60
    sleep 3
    lateness >>"$TEST_TMP/late-ours"
    # What is left idle by nobody is theirs.
    given "$cores" >>"$TEST_TMP/given"
    owner_job >>"$TEST_TMP/ours"
    image=$(docker images -q plancton-builtin | head -1)
    plancton drain >/dev/null
    ours | xargs -r docker rm -f >/dev/null
    for _ in $(seq "$cores"); do burner "$image"; done
    sleep 2
    owner_job >>"$TEST_TMP/plain"
    docker ps -q --filter label=plancton-bench=1 | xargs -r docker rm -f >/dev/null
    plancton resume >/dev/null
    stop
    say "pair $pair is done"
  done
  local alone
  alone=$(median <"$TEST_TMP/alone")
  row "owner's job on all cores, beside our pilots, to alone" "$(awk -v a="$alone" -v b="$(median <"$TEST_TMP/ours")" 'BEGIN { print b / a }')" times at-most 1.05
  row "the same beside plainly started containers (the original)" "$(awk -v a="$alone" -v b="$(median <"$TEST_TMP/plain")" 'BEGIN { print b / a }')" times at-least 1
  row "lateness of a sleeper, 95th percentile, to alone" "$(awk -v a="$(median <"$TEST_TMP/late-alone")" -v b="$(median <"$TEST_TMP/late-ours")" 'BEGIN { print b / a }')" times at-most 2
  row "CPU that pilots get of what they were given, no owner" "$(median <"$TEST_TMP/given")" % at-least 97
}

# given CORES: what the pilots used of so many cores over 10 s, in percent.
given() {
  local a b file=/sys/fs/cgroup/cpuacct/plancton/cpuacct.usage
  [ -e "$file" ] || file=/sys/fs/cgroup/plancton/cpu.stat
  usage() { awk '/^[0-9]+$/ { print $1 / 1e9 } /^usage_usec/ { print $2 / 1e6 }' "$file"; }
  a=$(usage)
  sleep 10
  b=$(usage)
  awk -v a="$a" -v b="$b" -v c="$1" 'BEGIN { print 100 * (b - a) / (10 * c) }'
}

# ---- deciding alone ----

bench_decide() {
  local word what value
  cargo test --release --locked --bin plancton -- --ignored --nocapture thousands_of_pilots >"$TEST_TMP/decide.out"
  while IFS='|' read -r word what value; do
    [ "$word" != row ] || row "deciding alone, $what" "$value" ms at-most "$([[ $what == 1000* ]] && echo 1 || echo 5)"
  done <"$TEST_TMP/decide.out"
}

# ---- many pilots, and a fleet ----

# In a namespace of processes and mounts of its own: the daemons see made-up cgroups, in which fake engines can have pilots,
# and all of them end with it, whatever way it ends.
bench_made_up() { # bench_made_up [many]
  local root=$TEST_TMP/fleet word figure value unit way budget
  [ "$(id -u)" = 0 ] || { say "this part needs root: its daemons are shown cgroups of their own"; return 1; }
  cargo bench --locked --profile dev --no-run --bench fleet >&2
  mkdir -p "$root/sys/fs/cgroup"/{cpu,cpuacct,memory,pids}
  ulimit -n "$(ulimit -Hn)"
  # shellcheck disable=SC2016
  TMPDIR=$run FLEET_ROOT=$root BENCH_BINARY=$binary unshare --mount --pid --fork --kill-child --mount-proc \
    sh -c 'mount --bind "$FLEET_ROOT/sys/fs/cgroup" /sys/fs/cgroup && exec cargo bench -q --locked --profile dev --bench fleet -- "$@"' \
    sh "$@" >"$TEST_TMP/fleet.out" &
  fleet=$!
  wait "$fleet" || { fleet=""; cat "$TEST_TMP/fleet.out"; return 1; }
  fleet=""
  while IFS='|' read -r word figure value unit way budget; do
    case $word in
    row) row "$figure" "$value" "$unit" "$way" "$budget" ;;
    note) printf '  (%s)\n' "$figure" ;;
    esac
  done <"$TEST_TMP/fleet.out"
}

bench_many() { bench_made_up many; }

bench_fleet() {
  need_influxdb
  bench_made_up
}

main() {
  local parts=("$@")
  if [ "$#" = 0 ]; then
    parts=(fill share loop steady owner decide)
    [ "$(id -u)" != 0 ] || parts+=(many)
  fi
  if [[ ! ${parts[*]} =~ ^(many|fleet)$ ]]; then
    need_engine
    make_image
    command -v docker >/dev/null || { say "the docker client is needed for the engine's event times"; exit 1; }
    export DOCKER_HOST=unix://$PLANCTON_TEST_ENGINE
  fi
  binary=${BENCH_BINARY:-}
  if [ -z "$binary" ]; then
    packaging/build-static.sh >&2
    binary=${CARGO_TARGET_DIR:-$repository/target}/static/plancton
  fi
  bench_size
  for part in "${parts[@]}"; do "bench_$part"; done
  printf '\n'
  printf '%s\n' "${rows[@]}"
}

main "$@"
