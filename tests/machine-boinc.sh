#!/usr/bin/env bash
# A volunteer's first pilot, as conf/examples/boinc/README.md tells it: on a machine of machine.sh with the .deb, three commands and then a task
# of tests/boinc's project is under way. The machine has no way out: a relay in its network takes apt to this machine's own mirror.
#   tests/machine-boinc.sh --binary FILE      a static binary for the package; two minutes, once the machine is prepared
# shellcheck disable=SC2016,SC2119 # words for shells inside
set -euo pipefail

# shellcheck source=tests/machine/outside.sh
. "$(dirname "${BASH_SOURCE[0]}")/machine/outside.sh"
cd "$repository"
exec </dev/null
if [ "${1:-}" != --binary ]; then sed -n '2,4s/^# //p' "${BASH_SOURCE[0]}" >&2; exit 64; fi
export PLANCTON_MACHINE=$lives/boinc PLANCTON_MACHINE_MEMORY=6G
address=10.77.0.1
examples=/usr/share/doc/plancton/examples/boinc
beside() { nsenter -t "$(cat "$PLANCTON_MACHINE/pid")" -n "$@"; } # in its network
inside() { # inside NAME COMMAND: a line of shell, and its seconds
  local began=$SECONDS
  ok "boinc: $1" "$machine" run "export DEBIAN_FRONTEND=noninteractive; $2"
  printf '%8s s: %s\n' "$((SECONDS - began))" "${2%%$'\n'*}"
}

relay='import ctypes, os, socket, sys, threading
own, libc = os.open("/proc/self/ns/net", os.O_RDONLY), ctypes.CDLL(None)
libc.setns(os.open(f"/proc/{sys.argv[1]}/ns/net", os.O_RDONLY), 0)
server = socket.create_server((sys.argv[3], 80))
libc.setns(own, 0)
def pass_on(one, other):
    while data := one.recv(65536): other.sendall(data)
    other.shutdown(socket.SHUT_WR)
while True:
    one, other = server.accept()[0], socket.create_connection((sys.argv[2], 80))
    for pair in (one, other), (other, one): threading.Thread(target=pass_on, args=pair, daemon=True).start()'

skip_without_machine
"$machine" prepare
CARGO_TARGET_DIR=$TEST_TMP packaging/build.sh --binary "$2" deb >/dev/null
mkdir -p "$TEST_TMP/project"
"$machine" copy "$TEST_TMP"/packages/plancton_*.deb
boot boot
mirror=$(apt-get indextargets --format '$(SITE)' | grep -v security | sort -u | head -n 1 | cut -d/ -f3)
python3 -c "$relay" "$(cat "$PLANCTON_MACHINE/pid")" "${mirror%:*}" $address & TEST_PIDS+=($!)
beside python3 tests/boinc/project.py --url http://$address:8080 --dir "$TEST_TMP/project" --jobs 3 --seconds 60 tests/boinc/without_library.sh & TEST_PIDS+=($!)
"$machine" run "echo $address $mirror >>/etc/hosts; apt-get -qq update; apt-get -qq -y install /host/plancton_*.deb" >/dev/null 2>&1
"$machine" run 'umask 77; cat >/root/key' <"$TEST_TMP/project/key"
inside 'first command' 'apt-get -qq -y install mmdebstrap'
inside "second command" "sh $examples/image.sh science/boinc-pilot:1"
inside "third command" "sh $examples/attach.sh http://$address:8080/ </root/key && rm /root/key"
inside 'a task is under way' 'for i in $(seq 200); do ! cat /var/lib/boinc-pilot/boinc/*/slots/*/checkpoint 2>/dev/null || exit 0; sleep 1; done; plancton why; exit 1'
inside 'the key is in no image, log or command line' 'id=$(docker ps -q --filter label=io.plancton.class=boinc); cd "$(mktemp -d)"; docker save science/boinc-pilot:1 >image; docker inspect $id >inspect
  docker logs $id >pilot 2>&1; docker top $id >top; plancton status --json >status; plancton log >log; journalctl >journal; ! grep -lFf /etc/plancton/boinc.key *'
inside 'where the key is, nobody else can read it' 'files=$(grep -rlFf /etc/plancton/boinc.key /etc /run /var /root /home /tmp 2>/dev/null); stat -c "%a %n" $files | tee /host/keys | grep -v "^[64]00 "; [ $? = 1 ] && [ -s /host/keys ]'
cat "$PLANCTON_MACHINE/share/keys"
for words in 'No usable GPUs' 'simulate 1 CPUs' 'max memory usage: 1.80 GB' 'max disk usage: 5.00 GB'; do
  inside "the client says: $words" "docker logs \$(docker ps -q --filter label=io.plancton.class=boinc) 2>&1 | grep -F '$words'"
done
inside 'it speaks of no suspension' '! docker logs $(docker ps -q --filter label=io.plancton.class=boinc) 2>&1 | grep -i suspend'
result
