# BOINC for tests/e2e.sh: the files of conf/examples/boinc as they are, the real client, and a project of our own (tests/boinc).
# Two machines, a and b: each with an engine of its own in a network of its own. Their engines give the same addresses to their containers,
# as engines everywhere do, so that only the pilot itself can keep the project from taking both for one host. A third network, which leads
# nowhere else, has the project. One half of the tasks uses BOINC's library, the other half knows nothing of it.
# What happens to a machine is done while a task is under way there that has a checkpoint, or it is a failure.
# shellcheck shell=bash disable=SC2034,SC2154 # E2E, TEST_TMP, repository and much more are set there

boinc_example=$repository/conf/examples/boinc
boinc_image=plancton-test/$E2E-boinc-pilot:1
boinc_folder=$TEST_TMP/boinc
boinc_address=198.51.100.1 # in networks of its own: nothing else of this machine can reach it
boinc_seconds=30           # of a task
declare -gA boinc_engines=() boinc_last=([a]=11 [b]=12)
boinc_server=''

# ---- the project and the machines ----

boinc_in() { nsenter --net="/run/netns/$E2E-$1" "${@:2}"; } # boinc_in NETWORK COMMAND…

boinc_make_network() {
  local one
  ip netns add "$E2E-project"
  ip -n "$E2E-project" link set lo up
  ip -n "$E2E-project" link add lab type bridge
  ip -n "$E2E-project" addr add "$boinc_address/24" dev lab
  ip -n "$E2E-project" link set lab up
  for one in a b; do
    ip netns add "$E2E-$one"
    ip -n "$E2E-$one" link set lo up
    ip link add out netns "$E2E-$one" type veth peer name "to-$one" netns "$E2E-project"
    ip -n "$E2E-project" link set "to-$one" master lab up
    ip -n "$E2E-$one" addr add "${boinc_address%.*}.${boinc_last[$one]}/24" dev out
    ip -n "$E2E-$one" link set out up
  done
}

boinc_start_engine() { # with mounts of its own, too: it is not to see what another engine mounts
  local dir=$boinc_folder/engine-$1 end=$((SECONDS + 60))
  mkdir -p "$dir"
  setsid nsenter --net="/run/netns/$E2E-$1" unshare -m --propagation private dockerd -H "unix://$dir/docker.sock" \
    --pidfile "$dir/docker.pid" --data-root "$dir/data" --exec-root "$dir/exec" >>"$dir/log" 2>&1 </dev/null &
  boinc_engines[$1]=$! engines[$1]=$dir/docker.sock
  until engine_answers "${engines[$1]}"; do
    if [ "$SECONDS" -ge "$end" ] || ! runs "${boinc_engines[$1]}"; then
      say "the engine of $1 did not start: $(tail -n 2 "$dir/log")"
      return 1
    fi
    sleep 0.2
  done
}

boinc_stop_engine() {
  local pid=${boinc_engines[$1]:-}
  [ -n "$pid" ] || return 0
  kill -TERM "$pid" 2>/dev/null || true
  wait_gone 40 "$pid" || kill -KILL "$pid" 2>/dev/null || true
  wait "$pid" 2>/dev/null || true
  unset "boinc_engines[$1]"
}

boinc_start_server() {
  local end=$((SECONDS + 20))
  setsid nsenter --net="/run/netns/$E2E-project" python3 "$repository/tests/boinc/project.py" --url "http://$boinc_address" \
    --dir "$boinc_folder/project" --jobs "$jobs" --seconds "$boinc_seconds" "$boinc_folder/with_library" \
    "$repository/tests/boinc/without_library.sh" >>"$boinc_folder/project.log" 2>&1 </dev/null &
  boinc_server=$!
  until boinc_record >/dev/null 2>&1; do
    if [ "$SECONDS" -ge "$end" ] || ! runs "$boinc_server"; then
      say "the project did not start: $(tail -n 2 "$boinc_folder/project.log")"
      return 1
    fi
    sleep 0.2
  done
}

boinc_stop_server() {
  [ -n "$boinc_server" ] || return 0
  kill -KILL "$boinc_server" 2>/dev/null || true
  wait "$boinc_server" 2>/dev/null || true
  boinc_server=''
}

boinc_record() { boinc_in project curl -q -sS --fail --max-time 10 "http://$boinc_address/record"; }

# One file: the program and the library, which the pilot's image lacks, behind a shell script that unpacks them where the task runs.
boinc_build_task() {
  local build=$boinc_folder/build library
  mkdir -p "$build"
  g++ -O1 -I/usr/include/boinc -o "$build/with_library" "$repository/tests/boinc/with_library.cpp" -lboinc_api -lboinc || return 1
  library=$(ldd "$build/with_library" | awk '/libboinc_api/ { print $3 }')
  cp -L "$library" "$build"
  # shellcheck disable=SC2016 # for the task
  {
    printf '#!/bin/sh\ntail -n +3 "$0" | tar -xz && LD_LIBRARY_PATH=. exec ./with_library "$@"\n'
    tar -C "$build" -cz .
  } >"$boinc_folder/with_library"
}

boinc_up() {
  local one
  mkdir -p "$boinc_folder"
  command -v dockerd >/dev/null || install_engine || return 1
  install_packages 'mmdebstrap iproute2 iptables curl python3 g++ libboinc-app-dev' 'mmdebstrap iproute iptables curl python3 gcc-c++ boinc-client-devel' || return 1
  boinc_build_task && boinc_make_network && boinc_start_server || return 1
  for one in a b; do boinc_start_engine "$one" || return 1; done
  DOCKER_HOST=unix://${engines[a]} sh "$boinc_example/image.sh" "$boinc_image" "$boinc_folder/image.tar" >/dev/null || return 1
  for one in a b; do
    mkdir -p "$boinc_folder/etc-$one"
    PLANCTON_ETC=$boinc_folder/etc-$one BOINC_DIR=$boinc_folder/$one sh "$boinc_example/attach.sh" "http://$boinc_address/" \
      <"$boinc_folder/project/key" >/dev/null || return 1
  done
}

# The class as attach.sh made it, but for what is this machine's and for the size.
boinc_class() {
  sed -e '/^cpus/d' -e '/^no-work-pause/d' -e "s|^image = .*|image = \"$boinc_image\"|" \
    -e "s|^# image-archive = .*|image-archive = \"$boinc_folder/image.tar\"|" -e 's|^stop-grace = .*|stop-grace = "10s"|' \
    -e 's|BOINC_DISK_GB = "5"|BOINC_DISK_GB = "1", BOINC_PATIENCE = "20"|' -e 's|^memory = "2GiB"|memory = "256MiB"|' \
    "$boinc_folder/etc-$1/config.toml"
}

# ---- what happens ----

# Until a task of this machine computes, which makes a checkpoint each second, and has come some seconds far; says which.
boinc_computes() {
  local end=$((SECONDS + 150)) file
  while [ "$SECONDS" -lt "$end" ] && ! boinc_is_done; do
    for file in "$boinc_folder/$1"/boinc/*/slots/*/checkpoint; do
      [ "$(cat "$file" 2>/dev/null || echo 0)" -ge 3 ] || continue
      [ -n "$(find "$file" -newermt '-3 seconds')" ] || continue
      tail -n 1 "${file%/*}/out.txt" | cut -d' ' -f2
      return 0
    done
    sleep 0.5
  done
  return 1
}

boinc_deed() { # boinc_deed INSTANCE WHAT COMMAND…: while a task is under way there
  local task one=$1 what=$2
  shift 2
  if task=$(boinc_computes "$one"); then
    "$@" && happens "$what" "$one, $task" || failures+=("boinc: $what of $one failed")
  else
    failures+=("boinc: $what: no task was under way on $one")
  fi
}

boinc_is_done() { [ "$(boinc_figure worked-off)" = "$jobs" ]; }

boinc_becomes() { # boinc_becomes SECONDS INSTANCE running|paused|none: what its pilot is
  local end=$((SECONDS + $1)) state
  while [ "$SECONDS" -lt "$end" ]; do
    state=none
    [ -z "$(pilots "$2" running)" ] || state=running
    [ -z "$(pilots "$2" paused)" ] || state=paused
    [ "$state" != "$3" ] || return 0
    sleep 0.2
  done
  failures+=("boinc: the pilot of $2 is $state, should be $3")
}

boinc_hold() { mkdir -p "$run/$1/inhibit.d" && echo "the owner's turn" >"$run/$1/inhibit.d/owner.hold"; }
boinc_release() { rm "$run/$1/inhibit.d/owner.hold"; }

boinc_stop_pilot() { # and the seconds from TERM to its end, as the engine dates them
  local id from
  id=$(pilots "$1" running) from=$(date +%s)
  plancton "$1" drain --by 2s >/dev/null
  boinc_becomes 30 "$1" none
  plancton "$1" resume >/dev/null
  boinc_stops+=" $(docker -H "$(engine_of "$1")" events --since "$from" --until "$(($(date +%s) + 1))" --filter "container=$id" \
    --filter event=kill --filter event=die --format '{{.TimeNano}} {{.Action}} {{.Actor.Attributes.signal}}' |
    awk '$2 == "kill" && $3 == 15 && !began { began = $1 } $2 == "kill" && $3 == 9 { how = " (KILL)" } $2 == "die" { printf "%.1f%s", ($1 - began) / 1e9, how }')"
}

boinc_kill_pilot() { docker -H "$(engine_of "$1")" kill "$(pilots "$1" running | head -n 1)" >/dev/null && sleep 4; }
boinc_drain() { plancton "$1" drain >/dev/null; }
boinc_snooze() { plancton "$1" snooze "${pause}s" >/dev/null && boinc_becomes 10 "$1" paused; }
boinc_restart_engine() { boinc_stop_engine "$1" && sleep 3 && boinc_start_engine "$1"; }

boinc_story() {
  boinc_deed a "pauses by the owner's hold file" boinc_hold a
  boinc_deed b "pauses by the owner's hold file" boinc_hold b
  boinc_becomes 10 a paused
  boinc_becomes 10 b paused
  boinc_look_for_key
  sleep 20
  boinc_release a
  boinc_release b
  boinc_becomes 10 a running
  boinc_deed a "daemons killed with -9" stop a KILL
  boinc_deed b "drains" boinc_drain b
  sleep 8
  start a
  boinc_becomes 90 b none # its task is done and reported
  plancton b resume >/dev/null
  boinc_deed a "stops" boinc_stop_pilot a
  boinc_deed b "stops" boinc_stop_pilot b
  boinc_stop_server && happens "the project goes away"
  sleep 60
  boinc_start_server && happens "the project is back"
  boinc_deed a "engines restarted" boinc_restart_engine a
  boinc_deed b "pilots killed with -9" boinc_kill_pilot b
  [ "$pause" = 0 ] || boinc_deed b "pauses of $pause s" boinc_snooze b
}

# ---- how a pilot ends ----

# One pilot of the class without Plancton, with one directory for all that is to happen to one host.
boinc_end() { # boinc_end HOW WANTED-CODE MODE DIRECTORY
  local said code=0 data=$boinc_folder/ends/$4
  boinc_in project curl -q -sS --fail --max-time 10 "http://$boinc_address/set?mode=$3" >/dev/null
  [ -d "$data" ] || install -d -m 0700 -o 65534 -g 65534 "$data"
  said=$(docker -H "$(engine_of a)" run --rm --read-only --cap-drop ALL --user 65534:65534 --memory 256m --tmpfs /tmp -v "$data:/data" \
    -v "$boinc_folder/ends/key:/run/secrets/boinc-key:ro" -e "BOINC_URL=http://$boinc_address/" -e BOINC_PATIENCE=10 \
    -e PLANCTON_CPUS=1 -e PLANCTON_MEMORY_BYTES=268435456 "$boinc_image" 2>&1) || code=$?
  must_be "exit code: $1" "$code" "$2"
  row "  its last words" "$(tail -n 1 <<<"$said")"
}

# An hour without work takes a minute or two: the time of its wait is over each time, as if a clock had been turned on.
boinc_ends() {
  local wait waits='' time
  plancton a drain >/dev/null
  boinc_becomes 90 a none
  mkdir -p "$boinc_folder/ends"
  install -m 0444 "$boinc_folder/project/key" "$boinc_folder/ends/key"
  boinc_end "the key is refused" 1 refuse refused
  boinc_end "asked again at once after that" 1 refuse refused
  boinc_end "maintenance" 75 maintenance maintenance
  boinc_end "a project that was never reached" 1 unavailable new
  for time in 1 2 3 4 5; do
    boinc_end "no work, time $time" 75 no-work idle
    for wait in "$boinc_folder"/ends/idle/*/plancton.wait; do
      waits+=" $((($(cut -d' ' -f2 "$wait" | head -n 1) - $(stat -c %Y "$wait") + 5) / 10 * 10))"
      sed -i '1s/ [0-9]* / 0 /' "$wait"
    done
  done
  must_be "seconds for which a project without work is left alone" "$waits" " 120 240 480 960 1920"
  boinc_end "a project that does not answer any more" 69 unavailable idle
}

# ---- what came of it ----

boinc_figure() { # boinc_figure NAME, of the project's record
  boinc_record 2>/dev/null | python3 -c '
import json, os, sys
record, (what, folder, seconds) = json.load(sys.stdin), sys.argv[1:]
jobs = record["jobs"]
def lines(name):
    path = f"{folder}/uploads/{name}"
    return open(path).read().split("\n")[:-1] if os.path.exists(path) else []
def begins(name):
    return [int(line.split()[2]) for line in lines(name) if line.startswith("begin ")]
print({
    "worked-off": lambda: sum(job["state"] == "done" for job in jobs.values()),
    "lost": lambda: record["counts"].get("lost", 0) + sum(job["state"] != "done" for job in jobs.values()),
    "twice": lambda: sum(len(job["sent"]) > 1 or len(job["done"]) > 1 for job in jobs.values()),
    "failed": lambda: sum(len(job["failed"]) for job in jobs.values()),
    "hosts": lambda: len(record["hosts"]),
    "addresses": lambda: len({(host["ip_addr"], host["os_name"], host["p_model"]) for host in record["hosts"].values()}),
    "cpus": lambda: " ".join(sorted({host["p_ncpus"] for host in record["hosts"].values()})),
    "right": lambda: sum([line for line in lines(name) if line.startswith("done")] == [f"done {name} {seconds}"] for name in jobs),
    "library": lambda: sum(job["state"] == "done" and job["app"] == "with_library" for job in jobs.values()),
    "resumed": lambda: sum(len(begins(name)) > 1 for name in jobs),
    "went-on": lambda: ", ".join(f"{name} {begins(name)[1:]}" for name in jobs if len(begins(name)) > 1),
    "anew": lambda: sum(0 in begins(name)[1:] for name in jobs),
    "requests": lambda: len(record["requests"]),
}[what]())' "$1" "$boinc_folder/project" "$boinc_seconds"
}

# The key is in its file, in the copies for the pilots, which are memory, and in the client's own files.
boinc_look_for_key() {
  local key one id
  key=$(cat "$boinc_folder/project/key")
  : >"$boinc_folder/key-leaks"
  : >"$boinc_folder/key-files"
  for one in a b; do
    id=$(docker -H "$(engine_of "$one")" ps -q --filter "label=io.plancton.instance=$E2E-$one" | head -n 1)
    [ -n "$id" ] || { failures+=("boinc: no pilot to look for the key in"); continue; }
    mkdir -p "$boinc_folder/said-$one"
    docker -H "$(engine_of "$one")" inspect "$id" >"$boinc_folder/said-$one/inspect"
    docker -H "$(engine_of "$one")" logs "$id" >"$boinc_folder/said-$one/pilot-log" 2>&1
    docker -H "$(engine_of "$one")" top "$id" >"$boinc_folder/said-$one/processes"
    plancton "$one" status --json >"$boinc_folder/said-$one/status"
    plancton "$one" log >"$boinc_folder/said-$one/log" 2>&1 || true
    cp "$base/$one/log" "$boinc_folder/said-$one/daemon-log"
    grep -rlF "$key" "$boinc_folder/said-$one" "$boinc_folder/image.tar" "$base/$one" >>"$boinc_folder/key-leaks" || true
    # a file may be gone in between
    grep -rlF "$key" "$boinc_folder/$one" | xargs stat -c '%a %n' >>"$boinc_folder/key-files" 2>/dev/null || true
  done
}

boinc_report() {
  local what one
  printf '\nboinc, %s tasks of %s s, 2 machines, %s s\n' "$jobs" "$boinc_seconds" "$((SECONDS - began))"
  must_be "tasks done" "$(boinc_figure worked-off)" "$jobs"
  must_be "tasks lost" "$(boinc_figure lost)" 0
  must_be "tasks given out or done twice" "$(boinc_figure twice)" 0
  must_be "tasks that failed" "$(boinc_figure failed)" 0
  must_be "results that are right" "$(boinc_figure right)" "$jobs"
  must_be "hosts that the project knows" "$(boinc_figure hosts)" 2
  must_be "  whose addresses, systems and processors differ" "$(boinc_figure addresses)" 1
  must_be "  CPUs that they say to have" "$(boinc_figure cpus)" 1
  must_be "tasks of the program with BOINC's library" "$(boinc_figure library)" $((jobs / 2))
  row "tasks that went on in another pilot" "$(boinc_figure resumed)"
  row "  second of the task at which they did" "$(boinc_figure went-on)"
  must_be "  of these, begun anew in spite of a checkpoint" "$(boinc_figure anew)" 0
  row "requests to the project" "$(boinc_figure requests)"
  row "seconds from TERM to the end (grace: 10)" "$boinc_stops"
  must_be "places that have the key and should not" "$(wc -l <"$boinc_folder/key-leaks")" 0
  row "files of the clients that have the key" "$(wc -l <"$boinc_folder/key-files")"
  must_be "  of these, open to others" "$(grep -cv '^600 ' "$boinc_folder/key-files" || true)" 0
  for what in "${!did[@]}"; do row "$what" "${did[$what]}"; done | sort
  for one in a b; do
    row "ends of $one's pilots" "$(plancton "$one" history --json | tr -d ' \n"' | sed -n 's/.*total:.*ended:{\([^}]*\)}.*/\1/p')"
  done
  for one in $boinc_stops; do
    [ "$one" = "(KILL)" ] || [ "${one%.*}" -le 15 ] || failures+=("boinc: a pilot with 10 s of grace took $one s to end")
  done
  [ -n "$boinc_stops" ] || failures+=("boinc: how long a stop takes was not seen")
  [ -s "$boinc_folder/key-files" ] || failures+=("boinc: the key was not found where it has to be, so looking for it shows nothing")
  [ "$(boinc_figure resumed)" -ge 4 ] || failures+=("boinc: fewer than 4 tasks went on in another pilot")
}

boinc_run() {
  local one limit jobs=$jobs slots=1 instances=(a b)
  [ "$jobs" != 200 ] || jobs=20
  limit=$((600 + 60 * jobs + pause))
  boinc_stops=''
  say "starting boinc"
  boinc_up || { failures+=("boinc did not start"); return 0; }
  for one in a b; do make_instance "$one"; done
  began=$SECONDS
  for one in a b; do start "$one"; done
  boinc_story
  until boinc_is_done; do
    [ $((SECONDS - began)) -lt "$limit" ] || { failures+=("not all tasks were done within $limit s"); break; }
    sleep 1
  done
  boinc_report
  boinc_ends
}

boinc_down() {
  local one
  for one in a b; do boinc_stop_engine "$one"; done
  boinc_stop_server
  for one in a b project; do ip netns del "$E2E-$one" 2>/dev/null || true; done
  engines=()
}
