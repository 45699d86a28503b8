#!/usr/bin/env bash
# Real batch systems behind the pilots, end to end: three instances of Plancton on one engine work off a queue of short jobs
# while their daemons are drained, killed, restarted and upgraded, and pilots are killed and paused for three minutes.
# Each job must have had its effect exactly once. Prints a table; exit code 0 only if all of that held.
#   tests/e2e.sh [--jobs N] [--pause SECONDS] [--binary FILE] [rabbitmq] [htcondor] [boinc]      without any batch system: all that are there
# As root. Takes six to twelve minutes for each of them with 200 jobs and a pause of 180 s, the defaults (--pause 0: none). --binary takes
# that one instead of the static release build. boinc is otherwise: 20 tasks, and two machines with an engine each, see tests/e2e-boinc.sh.
# A batch system is a file tests/e2e-NAME.sh with NAME_run and NAME_down, or with NAME_up, NAME_class (its [[pilot]]), NAME_submit COUNT (jobs 1 to
# COUNT), NAME_done ("ID", or "ID PILOT DELIVERIES", of every result), NAME_down, and perhaps NAME_effects (how many right results were kept) and
# NAME_left (jobs it still has).
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=tests/lib.sh
. "$here/lib.sh"
cd "$repository"
exec </dev/null

SAY_AS=e2e
E2E=e2e-$$ # in the name of everything that is made here
jobs=200
slots=4 # of each instance
pause=180
instances=(a b c)
binary=''
systems=()
system='' # the one that runs now
follower='' # of the engine's events
declare -A pids=() did=() engines=() # engines: of those instances that have one of their own
failures=()
run=$(mktemp -d /dev/shm/plancton-e2e.XXXXXX)
base=$TEST_TMP/e2e

finish() {
  trap '' INT TERM
  [ -z "$system" ] || end_system
  rm -rf "$run"
  stop_all
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# ---- instances ----

engine_of() { echo "unix://${engines[$1]:-$PLANCTON_TEST_ENGINE}"; }

plancton() { # plancton INSTANCE WORD…
  local one=$1
  shift
  "$base/$one/plancton" -q --config "$base/$one/config.toml" --engine "$(engine_of "$one")" \
    --instance "$E2E-$one" --run-dir "$run/$one" --state-dir "$base/$one/state" "$@"
}

start() { # not through the function: the daemon's own process id is wanted
  "$base/$1/plancton" --config "$base/$1/config.toml" --engine "$(engine_of "$1")" \
    --instance "$E2E-$1" --run-dir "$run/$1" --state-dir "$base/$1/state" run >>"$base/$1/log" 2>&1 &
  pids[$1]=$!
}

stop() { # stop INSTANCE SIGNAL
  kill "-$2" "${pids[$1]}"
  wait "${pids[$1]}" 2>/dev/null || true
  unset "pids[$1]"
}

make_instance() {
  mkdir -p "$base/$1"
  install -m 755 "$binary" "$base/$1/plancton"
  {
    printf '[loop]\ninterval = "2s"\n[share]\nmax-pilots = %s\nreserve-cpus = 0\nreserve-memory = "64MiB"\nreserve-disk = "64MiB"\n' "$slots"
    printf '[owner]\nwhen-busy = "yield"\ncalm-for = "1s"\non-battery = "run"\nmin-battery = 0\nmax-temperature = 0\n'
    "${system}_class" "$1"
    printf 'cpus = 0.1\nno-work-pause = "5s"\n'
  } >"$base/$1/config.toml"
}

stop_instances() {
  local one
  # an orderly end waits for nothing; a start that is under way in the engine may still bring a container
  for one in "${instances[@]}"; do [ -z "${pids[$one]:-}" ] || stop "$one" TERM || true; done
  sleep 3
  for one in "${instances[@]}"; do
    [ ! -x "$base/$one/plancton" ] || plancton "$one" purge >/dev/null 2>&1 || true
  done
  rm -rf "$base"
}

pilots() { # pilots INSTANCE STATE: their ids
  docker -H "$(engine_of "$1")" ps -q --no-trunc --filter "label=io.plancton.instance=$E2E-$1" --filter "status=$2"
}

# ---- what happens to them ----

happens() { # happens WHAT: counted, and said
  did[$1]=$((${did[$1]:-0} + 1))
  printf '%4s s  %s\n' "$((SECONDS - began))" "$1${2:+ ($2)}"
}

kill_pilot() { # kill_pilot INSTANCE STATE: by the engine, as anybody could
  local id
  id=$(pilots "$1" "$2" | tail -n 1)
  if [ -n "$id" ] && docker kill "$id" >/dev/null 2>&1; then happens "$2 pilots killed with -9" "$1"; fi
}

kill_by_name() {
  local id
  id=$(pilots "$1" running | head -n 1)
  if [ -n "$id" ] && plancton "$1" kill "${id:0:12}" >/dev/null 2>&1; then happens "pilots killed by command" "$1"; fi
}

drain() { plancton "$1" drain >/dev/null && happens "drains" "$1"; }
resume() { plancton "$1" resume >/dev/null; }
crash() { stop "$1" KILL && happens "daemons killed with -9" "$1"; }
restart() { stop "$1" TERM && start "$1" && happens "daemons restarted" "$1"; }

upgrade() { # another file in the place of the one that ran
  stop "$1" TERM
  install -m 755 "$binary" "$base/$1/plancton.new"
  mv "$base/$1/plancton.new" "$base/$1/plancton"
  start "$1" && happens "upgrades" "$1"
}

pause_all() { plancton "$1" snooze "${pause}s" >/dev/null && happens "pauses of $pause s" "$1"; }

# By the name that their results bear.
list_paused() {
  pilots "$1" paused >"$TEST_TMP/paused"
  [ -s "$TEST_TMP/paused" ] || { failures+=("no pilot of $1 was paused"); return 0; }
  xargs docker inspect -f '{{.Config.Hostname}}' <"$TEST_TMP/paused" >"$TEST_TMP/paused-names"
}

# A daemon that comes back while its pilots are paused leaves them so.
look_at_pause() {
  still_paused="$(pilots "$1" paused | grep -cFf "$TEST_TMP/paused" || true) of $(wc -l <"$TEST_TMP/paused")"
}

# One line a deed: second of the round, what, to whom. The pause has its own round, of instance c.
plan() {
  local round=0 at one other
  while [ "$round" -lt 60 ]; do
    at=$((8 + 28 * round)) one=a other=b
    [ $((round % 2)) = 0 ] || one=b other=a
    printf '%s %s\n' "$at" "kill_pilot $one running" "$((at + 2))" "drain $other" "$((at + 6))" "kill_by_name $one" \
      "$((at + 9))" "resume $other" "$((at + 12))" "crash $one" "$((at + 14))" "start $one" "$((at + 17))" "upgrade $other" \
      "$((at + 21))" "kill_pilot $other running" "$((at + 24))" "restart $one"
    round=$((round + 1))
  done
  [ "$pause" = 0 ] || printf '%s %s\n' 15 "pause_all c" 45 "list_paused c" 60 "kill_pilot c paused" 90 "crash c" 93 "start c" \
    $((6 + pause)) "look_at_pause c" $((35 + pause)) "kill_pilot c running" $((40 + pause)) "upgrade c"
}

# ---- one batch system ----

# Starts, pauses and ends of pilots as the engine dates them: "seconds action id instance exit-code".
follow_events() {
  local event filters=()
  for event in start pause unpause die; do filters+=(--filter "event=$event"); done
  docker events --filter label=io.plancton.instance "${filters[@]}" \
    --format '{{.TimeNano}} {{.Action}} {{.ID}} {{index .Actor.Attributes "io.plancton.instance"}} {{.Actor.Attributes.exitCode}}' >"$TEST_TMP/events" &
  follower=$!
}

# Each second: what is due, until each job has its result.
work_off() {
  local at what left results=$TEST_TMP/results
  plan | sort -n >"$TEST_TMP/plan"
  exec 4<"$TEST_TMP/plan"
  read -r at what <&4
  done_ids=0 last_wave=''
  while [ "$done_ids" -lt "$jobs" ] || [ "$((SECONDS - began))" -lt "$((pause ? pause + 60 : 0))" ]; do
    [ $((SECONDS - began)) -lt "$limit" ] || { failures+=("not all jobs were done within $limit s"); break; }
    "${system}_done" >"$results"
    done_ids=$(cut -d' ' -f1 "$results" | sort -u | grep -c '^[0-9]*$' || true)
    # from here on there is not work for every slot
    [ -n "$last_wave" ] || [ "$done_ids" = 0 ] || [ "$done_ids" -lt $((jobs - slots * ${#instances[@]})) ] || last_wave=$(date +%s)
    while [ "$at" -le $((SECONDS - began)) ]; do
      $what
      read -r at what <&4
    done
    sleep 1
  done
  exec 4<&-
  left=$((SECONDS + 60))
  # those who were dealt a job twice are still at it
  while declare -F "${system}_left" >/dev/null && [ "$("${system}_left")" != 0 ] && [ "$SECONDS" -lt "$left" ]; do sleep 1; done
  "${system}_done" >"$results"
}

row() { printf '  %-56s %s\n' "$1" "$2"; }

must_be() { # must_be FIGURE VALUE WANTED
  row "$1" "$2$([ "$2" = "$3" ] || echo "   MUST BE $3")"
  [ "$2" = "$3" ] || failures+=("$system: $1: $2, must be $3")
}

report() {
  local results=$TEST_TMP/results what one
  printf '\n%s, %s jobs, %s instances of %s slots, %s s\n' "$system" "$jobs" "${#instances[@]}" "$slots" "$((SECONDS - began))"
  must_be "jobs without a result (lost)" "$(comm -23 <(seq "$jobs" | sort) <(cut -d' ' -f1 "$results" | sort -u) | wc -l)" 0
  must_be "results of no job, or wrong ones" "$(cut -d' ' -f1 "$results" | sort -u | comm -13 <(seq "$jobs" | sort) - | wc -l)" 0
  ! declare -F "${system}_effects" >/dev/null || must_be "right results kept" "$("${system}_effects")" "$jobs"
  ! declare -F "${system}_left" >/dev/null || must_be "jobs that the server still has" "$("${system}_left")" 0
  row "jobs delivered more than once" "$(awk '$3 > 1 { print $1 }' "$results" | sort -u | wc -l)"
  row "results that came twice, dropped" "$(cut -d' ' -f1 "$results" | sort | uniq -d | wc -l)"
  if [ -s "$TEST_TMP/paused-names" ]; then
    row "pilots still paused at the pause's end (one was killed)" "${still_paused:-none}"
    row "jobs finished by paused pilots after the pause" "$(grep -cFf "$TEST_TMP/paused-names" "$results" || true)"
    must_be "of these, done by another one too" \
      "$(grep -Ff "$TEST_TMP/paused-names" "$results" | cut -d' ' -f1 | while read -r one; do grep -c "^$one " "$results"; done | grep -vcx 1 || true)" 0
  fi
  for what in "${!did[@]}"; do row "$what" "${did[$what]}"; done | sort
  printf '  ends of pilots, and how the slots were filled until there was less work than slots:\n'
  awk -v until="${last_wave:-$(date +%s)}" -v slots="$slots" -v tag="$E2E-" '
    function add(id) { if (since[id] < until) filled[of[id], state[id]] += (at < until ? at : until) - since[id] }
    index($4, tag) == 1 {
      at = $1 / 1e9; one = substr($4, length(tag) + 1); names[one]; of[$3] = one
      if (!from) from = at
      if ($3 in state) add($3)
      state[$3] = $2 == "pause" ? "paused" : "running"; since[$3] = at
      if ($2 == "die") { delete state[$3]; ends[one, $5 == 0 ? "done" : $5 == 75 ? "none" : $5 == 137 || $5 == 143 ? "killed" : "failed"]++ }
    }
    END {
      at = until
      for (id in state) add(id)
      for (one in names) { all = slots * (until - from) / 100; run = filled[one, "running"] / all; pause = filled[one, "paused"] / all
        printf "    %s: %3d done, %3d without work, %3d killed, %3d failed; running %5.1f %%, paused %5.1f %%, empty %5.1f %%\n", one,
          ends[one, "done"], ends[one, "none"], ends[one, "killed"], ends[one, "failed"], run, pause, 100 - run - pause }
    }' "$TEST_TMP/events" | sort
  for one in "${instances[@]}"; do # what a killed daemon had not written yet is missing
    row "what held $one back, in seconds of its record" \
      "$(plancton "$one" history --json | tr -d ' \n"' | sed -n 's/.*total:.*held_back_seconds:{\([^}]*\)}.*/\1/p')"
  done
}

end_system() {
  [ -z "$follower" ] || kill "$follower" 2>/dev/null || true
  stop_instances
  "${system}_down" || true
  system='' follower=''
}

run_system() {
  local one limit=$((600 + 6 * jobs))
  system=$1 did=()
  # shellcheck source=/dev/null
  . "$here/e2e-$system.sh"
  if declare -F "${system}_run" >/dev/null; then
    "${system}_run"
    end_system
    return 0
  fi
  say "starting $system"
  "${system}_up" || { failures+=("$system did not start"); end_system; return 0; }
  say "$system is up after $SECONDS s"
  for one in "${instances[@]}"; do make_instance "$one"; done
  "${system}_submit" "$jobs"
  follow_events
  began=$SECONDS still_paused=''
  for one in "${instances[@]}"; do start "$one"; done
  work_off
  report
  end_system
}

while [ $# -gt 0 ]; do
  case $1 in
  --jobs) jobs=$2 && shift ;;
  --pause) pause=$2 && shift ;;
  --binary) binary=$(realpath "$2") && shift ;;
  -*)
    sed -n '2,10s/^# //p' "${BASH_SOURCE[0]}" >&2
    exit 64
    ;;
  *)
    [ -e "$here/e2e-$1.sh" ] || { echo "tests/e2e-$1.sh: no such file" >&2; exit 64; }
    systems+=("$1")
    ;;
  esac
  shift
done
if [ "${#systems[@]}" = 0 ]; then
  for one in "$here"/e2e-*.sh; do
    one=${one##*/e2e-}
    systems+=("${one%.sh}")
  done
fi
if [ "${systems[*]}" != boinc ]; then
  need_engine
  export DOCKER_HOST=unix://$PLANCTON_TEST_ENGINE
fi
command -v docker >/dev/null || install_packages docker-cli docker-cli
if [ -z "$binary" ]; then
  packaging/build-static.sh >&2
  binary=${CARGO_TARGET_DIR:-$repository/target}/static/plancton
fi
for one in "${systems[@]}"; do run_system "$one"; done
engine_report
[ "${#failures[@]}" = 0 ] || printf 'failed: %s\n' "${failures[@]}"
[ "${#failures[@]}" = 0 ]
