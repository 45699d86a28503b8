# RabbitMQ for tests/e2e.sh: the files of conf/examples/rabbitmq as they are, the server in a container, all of it in a
# network of its own that nothing else can reach.
# shellcheck shell=bash disable=SC2154 # E2E, TEST_TMP and repository are set there

rabbitmq_example=$repository/conf/examples/rabbitmq
rabbitmq_image=plancton-test/$E2E-rabbitmq-pilot:1
rabbitmq_server_image=plancton-test/$E2E-rabbitmq-server:1
rabbitmq_folder=$TEST_TMP/rabbitmq

# The package's files without its scripts: no user and no service comes to this machine.
rabbitmq_build_server() {
  local root=$rabbitmq_folder/server.tar
  # shellcheck disable=SC2016 # for apt-get to expand
  apt-get indextargets --format 'deb $(SITE) $(RELEASE) $(COMPONENT)' 'Identifier: Packages' | sort -u |
    mmdebstrap -q --variant=extract --include=rabbitmq-server,dash,coreutils,grep,sed,hostname,util-linux,procps '' "$root" - &&
    docker import "$root" "$rabbitmq_server_image" >/dev/null && rm "$root"
}

rabbitmq_start_server() {
  local end=$((SECONDS + 180)) file mounts=()
  for file in rabbitmq.conf rabbitmq-env.conf; do mounts+=(-v "$rabbitmq_example/$file:/etc/rabbitmq/$file:ro"); done
  # a keep-alive well below the pause: a paused pilot's kernel answers it
  docker run -d --pull never --name "$E2E-rabbitmq" --network "$E2E-rabbitmq" --network-alias rabbitmq "${mounts[@]}" \
    --sysctl net.ipv4.tcp_keepalive_time=20 --sysctl net.ipv4.tcp_keepalive_intvl=10 --sysctl net.ipv4.tcp_keepalive_probes=3 \
    -e HOME=/var/lib/rabbitmq -e LANG=C.UTF-8 "$rabbitmq_server_image" \
    sh -c 'exec /usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin/rabbitmq-server' >/dev/null
  until "$rabbitmq_folder/ctl" await_startup --timeout 20 >/dev/null 2>&1; do
    if [ "$SECONDS" -ge "$end" ] || [ -z "$(docker ps -q --filter "name=^/$E2E-rabbitmq$")" ]; then
      say "RabbitMQ did not start: $(docker logs --tail 5 "$E2E-rabbitmq" 2>&1)"
      return 1
    fi
    sleep 1
  done
}

rabbitmq_jobs() { # rabbitmq_jobs DOCKER-OPTION… -- WORD…: jobs.py, beside the server
  local options=()
  while [ "$1" != -- ]; do
    options+=("$1")
    shift
  done
  shift
  docker run --pull never --network "$E2E-rabbitmq" -v "$rabbitmq_folder/submit.url:/run/secrets/amqp-url:ro" \
    "${options[@]}" "$rabbitmq_image" /usr/bin/python3 /opt/pilot/jobs.py "$@"
}

rabbitmq_up() {
  mkdir -p "$rabbitmq_folder/results"
  printf '#!/bin/sh\nexec docker exec -i %s sh -c "exec /usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin/rabbitmqctl -q \\"\\$@\\"" ctl "$@"\n' \
    "$E2E-rabbitmq" >"$rabbitmq_folder/ctl"
  chmod +x "$rabbitmq_folder/ctl"
  command -v mmdebstrap >/dev/null || install_packages mmdebstrap mmdebstrap || return 1
  MADE_IMAGES+=("$rabbitmq_image" "$rabbitmq_server_image")
  sh "$rabbitmq_example/image.sh" "$rabbitmq_image" >/dev/null || return 1
  rabbitmq_build_server || return 1
  docker network create --internal "$E2E-rabbitmq" >/dev/null || return 1
  rabbitmq_start_server || return 1
  RABBITMQCTL=$rabbitmq_folder/ctl sh "$rabbitmq_example/server.sh" rabbitmq "$rabbitmq_folder" || return 1
  rabbitmq_submit 0 || return 1 # makes the queues
  rabbitmq_jobs -d --name "$E2E-rabbitmq-collect" -e IDLE_SECONDS=86400 -v "$rabbitmq_folder/results:/results" -- collect /results >/dev/null
}

# The example's class, but for what is this machine's and for the size.
rabbitmq_class() {
  sed -e "s|^image = .*|image = \"$rabbitmq_image\"|" -e "s|/etc/plancton/pilot.url|$rabbitmq_folder/pilot.url|" \
    -e 's|IDLE_SECONDS = "10"|IDLE_SECONDS = "5"|' -e 's|256MiB|16MiB|' -e 's|^memory = .*|memory = "64MiB"|' \
    "$rabbitmq_example/plancton.toml"
  printf 'network = "%s"\n' "$E2E-rabbitmq"
}

rabbitmq_submit() { # rabbitmq_submit COUNT; the last one twice, so that there is something to drop
  local id
  for id in $(seq "$1") ${1#0}; do
    # shellcheck disable=SC2016 # for the job to expand
    echo "$id"' sleep 5; echo "this is job $JOB_ID"'
  done | rabbitmq_jobs --rm -i -- submit >/dev/null
}

# "ID PILOT DELIVERIES" of each result that came, also of those that were done already; a result that is wrong has another id.
rabbitmq_done() { docker logs "$E2E-rabbitmq-collect" 2>/dev/null | awk '{ print ($2 == 0 ? $1 : "wrong-" $1), $3, $4 }'; }

# What was kept: jobs with the output that they are to have.
rabbitmq_effects() { grep -l '"output": "this is job \([0-9]*\)\\n"' -r "$rabbitmq_folder/results" | wc -l; }

# Jobs that the server still has, waiting or with a pilot.
rabbitmq_left() { "$rabbitmq_folder/ctl" list_queues -p plancton name messages | awk '$1 == "jobs" { print $2 }'; }

rabbitmq_down() {
  docker rm -f -v "$E2E-rabbitmq-collect" "$E2E-rabbitmq" >/dev/null 2>&1 || true
  docker network rm "$E2E-rabbitmq" >/dev/null 2>&1 || true
}
