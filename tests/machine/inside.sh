# shellcheck shell=bash disable=SC2016,SC2034
# Inside of the machine of machine.sh: checks, and what they look at. Every check is one line, "ok NAME",
# "FAILED NAME: why" or "skipped NAME: why"; a part ends with "end", so that one that broke off is not taken for one
# that passed. Nothing here ends at the first failure: one fault must not hide the next.
set -uo pipefail
cd /

packages=/host/packages
archive=/srv/busybox.tar # a place that the unit sees
image=plancton-test/busybox:1
config=/etc/plancton/config.toml
as=() # as whom plancton is asked
told=/run/plancton/status.json # what it would tell then

ok() { # ok NAME COMMAND…: what it printed last is why it failed
  local name=$1 words
  shift
  if words=$("$@" 2>&1); then echo "ok     $name"; else echo "FAILED $name: $(last "$words")"; fi
}

skip() { echo "skipped $1: $2"; }

last() {
  local line
  line=$(grep -v '^ *$' <<<"$1" | tail -n 1)
  printf '%.300s' "${line:-it said nothing}"
}

not() {
  ! "$@" || { echo "it succeeded"; return 1; }
}

# becomes SECONDS COMMAND…: polls until it holds; after that time the daemon's own words say why not. Looking is the owner's
# load, and starting a process costs much in here: no oftener than this.
becomes() {
  local end=$((SECONDS + $1)) seconds=$1
  shift
  until "$@" >/dev/null 2>&1; do
    [ "$SECONDS" -lt "$end" ] || { echo "not within $seconds s; $(brief)"; return 1; }
    sleep 0.4
  done
}

# stays SECONDS COMMAND…: holds all the time.
stays() {
  local end=$((SECONDS + $1))
  shift
  while [ "$SECONDS" -lt "$end" ]; do
    "$@" || return 1
    sleep 0.4
  done
}

same() { # same WANTED SEEN
  [ "$1" = "$2" ] || { echo "'$2', not '$1'"; return 1; }
}

# ---- the daemon ----

status() { "${as[@]}" plancton status --json; }

# says FILTER [OPTION…]: whether a jq filter holds for the status. Asked over and over, so with one process only.
says() { jq -e "$@" "$told" >/dev/null 2>&1; }

brief() {
  local text
  text=$(status 2>/dev/null | jq -r '"\(.state), \(.reason.code): \(.reason.text); protection \(.protection.level); pilots: " +
    ([.pilots[] | "\(.class) \(.state)"] | join(", ")) + "; problems: " + (.problems | join(", "))')
  echo "${text:-no daemon runs}"
}

is_state() { says --arg state "$1" '.state == $state'; }
is_reason() { says --arg code "$1" '.reason.code == $code'; }
is_protected() { says '.protection.level == "verified"'; }
has_pilots() { says --argjson n "$1" '(.pilots | length) == $n and all(.pilots[]; .state == "running")'; }
has_pilot_of() { says --arg class "$1" 'any(.pilots[]; .class == $class and .state == "running")'; }
has_pilots_of() { says --arg class "$1" --argjson n "$2" '([.pilots[] | select(.class == $class and .state == "running")] | length) == $n'; }
all_paused() { says '(.pilots | length) > 0 and all(.pilots[]; .state == "paused")'; }
count() { status 2>/dev/null | jq --arg kind "$1" '.counts[$kind] // 0'; }
ids() { status 2>/dev/null | jq -r '.pilots[].id' | sort; }
main_pid() { systemctl show -p MainPID --value plancton.service; }
is_up() { systemctl -q is-active plancton.service && says true; }
is_other_daemon() { is_up && [ "$(main_pid)" != "$1" ]; }

# What the daemon has written since a moment, without journald's own columns.
journal() { journalctl --no-pager -q -o cat --since "@$1" -u plancton.service -u plancton-reap.service; }

none_says() { # none_says PATTERN TEXT: no line of it matches
  ! grep -iE "$1" <<<"$2"
}

# ---- the engine ----

# Half of the time of its start goes into packet filters, which no pilot here needs: from its next start on.
quicken_engine() { echo DOCKER_OPTS=--iptables=false >/etc/default/docker; }

containers() { docker ps -aq --no-trunc --filter label=io.plancton.instance | sort; }
engine_again() { # systemd counts restarts, and we are not in a loop
  systemctl reset-failed docker.service docker.socket 2>/dev/null
  systemctl restart docker.service
}
# The client is slow to start in here.
engine_answers() { curl -fsS --unix-socket /run/docker.sock http://engine/_ping >/dev/null 2>&1; }

# The group of a class's first pilot, as the kernel says it.
group_of() {
  local id pid
  id=$(status | jq -r --arg class "$1" 'first(.pilots[] | select(.class == $class)).id')
  pid=$(docker inspect -f '{{.State.Pid}}' "$id") || return 1
  echo "/sys/fs/cgroup$(sed -n 's/^0:://p' "/proc/$pid/cgroup")"
}

# setting CLASS FILE VALUE: what the kernel holds a class's pilot to.
setting() {
  local group
  group=$(group_of "$1") || return 1
  same "$3" "$(cat "$group/$2")"
}

slice=/sys/fs/cgroup/plancton.slice

is_idle() { same 1 "$(cat $slice/cpu.idle)"; }

# The pilots' group has a bound on its memory, and one that leaves the owner something.
is_bounded() {
  local bound
  bound=$(cat $slice/memory.max) || return 1
  [ "$bound" != max ] || { echo "plancton.slice/memory.max is max"; return 1; }
  [ "$bound" -gt 0 ] && [ "$bound" -lt $((1024 * $(awk '/^MemTotal/ { print $2 }' /proc/meminfo))) ]
}

used_ms() { awk '/^usage_usec/ { print int($2 / 1000) }' "$1/cpu.stat"; }

# A fault of the group must not fail everything after it: made again by hand, and the daemon told.
mend_slice() {
  ! becomes 2 is_protected >/dev/null || return 0
  systemctl stop plancton.service plancton.slice
  systemctl start plancton.slice plancton.service
  becomes 10 is_up >/dev/null
}

# ---- what pilots are made of ----

# Busybox and links to it, as `docker save` writes an image.
make_archive() (
  local tree=/root/image applet layer

  [ ! -e "$archive" ] || return 0
  mkdir -p $tree/root/{bin,tmp,etc} && cd $tree || return 1
  chmod 1777 root/tmp
  cp /bin/busybox root/bin/
  for applet in sh sleep cat stat df touch id; do ln -s busybox root/bin/$applet; done
  tar -C root --numeric-owner --owner=0 --group=0 -cf layer.tar .
  layer=$(sha256sum layer.tar | cut -d' ' -f1)
  printf '{"architecture":"amd64","os":"linux","config":{"Cmd":["/bin/sh"]},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' "$layer" >config.json
  printf '[{"Config":"config.json","RepoTags":["%s"],"Layers":["layer.tar"]}]' "$image" >manifest.json
  tar -cf "$archive.new" manifest.json config.json layer.tar
  mv "$archive.new" "$archive"
  rm -r $tree
)

# configure CLASS…: the configuration with these classes. memory: what is reserved of it; share, owner: further lines of these tables.
configure() {
  local class
  {
    printf '[loop]\ninterval = "1s"\n[share]\ncpus = 2\nreserve-memory = "%s"\n%s\n' "${memory:-128MiB}" "${share:-reserve-disk = \"64MiB\"}"
    printf '[owner]\nbusy-for = "2s"\ncalm-for = "1s"\n%s\n' "${owner:-}"
    for class in "$@"; do "class_$class"; done
  } >"$config"
}

# anew CLASS…: pilots of these classes alone.
anew() {
  configure
  systemctl reload plancton.service
  becomes 5 is_reason no-pilot >/dev/null
  containers | xargs -r docker rm -fv >/dev/null
  becomes 10 says '.pilots == []' >/dev/null
  configure "$@"
  systemctl reload plancton.service
}

class_sleeper() { # wants next to nothing
  cat <<TOML
[[pilot]]
name = "sleeper"
image = "$image"
image-archive = "$archive"
command = ["sleep", "3600"]
cpus = 0.1
memory = "32MiB"
pids = 32
network = "none"
stop-grace = "1s"
max = 1
TOML
}

class_sleepers() { # two of them
  class_sleeper | sed 's/^max = .*/max = 2/'
}

class_worker() { # wants all that it can get
  cat <<TOML
[[pilot]]
name = "worker"
image = "builtin"
command = ["pilot", "--for", "1h"]
cpus = 0.6
memory = "64MiB"
pids = 32
network = "none"
stop-grace = "1s"
max = 2
TOML
}

class_broad() { # is promised more than a core
  class_sleeper | sed 's/"sleeper"/"broad"/; s/^cpus = .*/cpus = 1.2/'
}

class_handed() { # everything that reaches into the machine
  cat <<TOML
[[pilot]]
name = "handed"
image = "$image"
image-archive = "$archive"
command = ["sh", "-c", "cat /run/secrets/proof; stat -c '%u %a' /run/secrets/proof; df -P /scratch | cat; touch /scratch/written && echo written; sleep 3600"]
cpus = 0.1
memory = "48MiB"
swap = "0"
pids = 40
user = "4242:4242"
files = [{ source = "/etc/plancton/proof", target = "/run/secrets/proof", mode = "0400" }]
tmpfs = ["/scratch:8MiB"]
network = "none"
stop-grace = "1s"
max = 1
TOML
}

# ---- before and after ----

# Everything that Plancton could leave behind, a line each.
snapshot() {
  find / -xdev \( -path /proc -o -path /sys -o -path /tmp -o -path /run -o -path /dev -o -path /host -o -path /root -o -path /srv -o -path /var/log -o -path /var/cache \
    -o -path /var/tmp -o -path /var/lib/dpkg -o -path /var/lib/rpm -o -path /var/lib/dnf -o -path /var/lib/docker -o -path /var/lib/containerd -o -path /var/lib/systemd -o -path /var/lib/apt -o -path '/etc/*-' \) -prune \
    -o -printf '%y %m %u:%g %l %p\n' | sort
  find /run /tmp /var/tmp /var/lib/systemd -path '*plancton*' -not -path '/run/systemd/journal/*'
  sort /etc/passwd /etc/group /etc/gshadow
  find /sys/fs/cgroup -type d -path '*plancton*'
  systemctl list-unit-files --no-legend --plain '*plancton*'
  systemctl list-units --all --no-legend --plain '*plancton*'
  docker ps -aq --no-trunc | sort
  docker images -aq --no-trunc | sort
}

same_as_before() {
  snapshot >/root/after 2>/dev/null
  diff /root/before /root/after
}
