# HTCondor for tests/e2e.sh: the files of conf/examples/htcondor as they are, the manager in a container (of the pilot's
# image, which has all that it needs), all of it in a network of its own that nothing else can reach. The manager's kernel
# refuses to open connections to pilots: what works here works with outgoing connections only.
# shellcheck shell=bash disable=SC2154 # E2E, TEST_TMP and repository are set there

htcondor_example=$repository/conf/examples/htcondor
htcondor_image=plancton-test/$E2E-htcondor-pilot:1
htcondor_folder=$TEST_TMP/htcondor

htcondor_manager() { docker exec "$@" 2>/dev/null; } # htcondor_manager [OPTION…] CONTAINER WORD…

htcondor_start_manager() {
  local end=$((SECONDS + 90)) pid
  docker run -d --pull never --name "$E2E-htcondor" --hostname condor --network "$E2E-htcondor" --network-alias condor \
    -v "$htcondor_example/manager.config:/etc/condor/config.d/50-pilot.config:ro" -v "$htcondor_folder/jobs:/jobs" \
    "$htcondor_image" sh -c 'useradd -u 1000 physicist && chown physicist /jobs /jobs/* && exec condor_master -f' >/dev/null
  until [ -n "$(htcondor_manager "$E2E-htcondor" condor_status -schedd -af Name)" ]; do
    if [ "$SECONDS" -ge "$end" ] || [ -z "$(docker ps -q --filter "name=^/$E2E-htcondor$")" ]; then
      say "HTCondor did not start: $(docker logs --tail 5 "$E2E-htcondor" 2>&1)"
      return 1
    fi
    sleep 1
  done
  pid=$(docker inspect -f '{{.State.Pid}}' "$E2E-htcondor")
  nsenter -t "$pid" -n iptables -A OUTPUT -o eth0 -p tcp --syn -j REJECT
}

htcondor_up() {
  mkdir -p "$htcondor_folder/jobs/out"
  cp "$htcondor_example/jobs.submit" "$htcondor_example/job.sh" "$htcondor_folder/jobs"
  command -v mmdebstrap >/dev/null || install_packages mmdebstrap mmdebstrap || return 1
  MADE_IMAGES+=("$htcondor_image")
  sh "$htcondor_example/image.sh" "$htcondor_image" >/dev/null || return 1
  docker network create --internal "$E2E-htcondor" >/dev/null || return 1
  htcondor_start_manager || return 1
  (umask 077 && htcondor_manager "$E2E-htcondor" condor_token_create -identity pilot@pool.example.org \
    -authz ADVERTISE_STARTD >"$htcondor_folder/pilot.token")
}

# The example's class, but for what is this machine's and for the size.
htcondor_class() {
  sed -e '/^cpus/d' -e "s|^image = .*|image = \"$htcondor_image\"|" -e "s|/etc/plancton/pilot.token|$htcondor_folder/pilot.token|" \
    -e 's|condor.example.org|condor|' -e 's|512MiB|32MiB|' -e 's|^memory = .*|memory = "128MiB"|' "$htcondor_example/plancton.toml"
  printf 'network = "%s"\n' "$E2E-htcondor"
}

htcondor_submit() { htcondor_manager -u physicist -w /jobs "$E2E-htcondor" condor_submit "jobs=$1" jobs.submit >/dev/null; }

# "ID PILOT STARTS" of each end of a job, from the log that HTCondor writes for the one who submitted.
htcondor_done() {
  awk '/^[0-9][0-9][0-9] \(/ { event = $1; split($2, part, "."); id = part[2] + 1 }
    event == "001" && /^001/ { starts[id]++ }
    $1 == "SlotName:" { split($2, slot, "@"); host[id] = slot[2] }
    event == "005" && /Normal termination|Abnormal termination/ { print (/return value 0/ ? id : "wrong-" id), host[id], starts[id] }' \
    "$htcondor_folder/jobs/jobs.log"
}

# What was kept: jobs with the output that they are to have.
htcondor_effects() {
  local file
  for file in "$htcondor_folder/jobs/out"/*[0-9]; do
    [ "$(cat "$file")" != "this is job ${file##*/}" ] || echo "$file"
  done | wc -l
}

# Jobs that the server still has, waiting, running or held.
htcondor_left() { htcondor_manager "$E2E-htcondor" condor_q -allusers -af ClusterId | wc -l; }

htcondor_down() {
  docker rm -f -v "$E2E-htcondor" >/dev/null 2>&1 || true
  docker network rm "$E2E-htcondor" >/dev/null 2>&1 || true
}
