#!/usr/bin/env bash
# A machine as its users have it, to try things on: Debian 13 with systemd as its first process, the unified cgroup
# hierarchy, pressure, AppArmor, Docker with the systemd driver, all that rootless Docker needs, and a battery.
# It is a user-mode Linux: a kernel that is a process of this machine, in a network namespace of its own. Neither qemu nor
# /dev/kvm is needed, and no mount, group or interface of this machine is touched.
#   tests/machine.sh why-not             says why there can be none here; nothing if there can be one
#   tests/machine.sh prepare             makes its kernel and its disk, once; both are kept in the cache
#   tests/machine.sh start [ARGUMENT…]   boots it, within a minute; arguments are for its kernel
#   tests/machine.sh run COMMAND…        as root inside, with stdin, output and exit code; a single word is a line of shell
#   tests/machine.sh copy FILE…          puts files where it sees them as /host (files only, no sockets)
#   tests/machine.sh crash               pulls the plug
#   tests/machine.sh reset               forgets everything that was written since it was prepared
#   tests/machine.sh stop                powers it off; what has not gone after half a minute is ended
# PLANCTON_TEST_KERNEL: a directory with its kernel, linux or linux.xz, and test_power.ko; without it one is built from
# Debian's source, once (about seven minutes on two cores). PLANCTON_MACHINE_CACHE: where kernel and disks are kept.
# PLANCTON_MACHINE: the directory of one machine, that several may run. PLANCTON_MACHINE_PACKAGES: more of Debian's packages.
# PLANCTON_MACHINE_MEMORY (3G), PLANCTON_MACHINE_CPUS (2): its size.
# Inside, /host/test_power.ko is the battery (insmod, then /sys/module/test_power/parameters). There is no way out to a network.
# Nothing can be timed there: CPU time is booked as system time, and a process starts several times slower than on hardware.
set -euo pipefail

cache=${PLANCTON_MACHINE_CACHE:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/plancton-machine}
machine=${PLANCTON_MACHINE:-$cache/machine}
release=trixie
packages="systemd-sysv dbus libpam-systemd dbus-user-session udev kmod procps iproute2 iptables apparmor openssh-server ca-certificates
  curl jq busybox-static docker.io docker-cli rootlesskit uidmap slirp4netns ${PLANCTON_MACHINE_PACKAGES:-}"
# What is done to a fresh root: part of the disk's name, so that a changed one is made anew.
edition=2
# shellcheck disable=SC2086 # words
disk=$cache/disk-$(echo $edition $release $packages | cksum | cut -d" " -f1)
kernel=$cache/kernel
work=''

say() { printf 'machine: %s\n' "$*" >&2; }

fail() {
  say "$*"
  exit 1
}

why_not() {
  if [ "$(uname -sm)" != 'Linux x86_64' ]; then
    echo "its kernel is for Linux on x86_64 only"
  elif [ "$(id -u)" != 0 ]; then
    echo "it wants root, for its disk and its network namespace"
  elif [ -n "${PLANCTON_TEST_KERNEL:-}" ] && [ -z "$(given_kernel)" ]; then
    echo "no linux or linux.xz with a test_power.ko in PLANCTON_TEST_KERNEL=$PLANCTON_TEST_KERNEL"
  elif [ ! -e "$disk.img" ] && ! command -v apt-get >/dev/null; then
    echo "no apt-get here, which makes its disk"
  elif ! unshare -n true 2>/dev/null; then
    echo "no network namespace may be made here"
  fi
}

given_kernel() {
  local file
  [ -e "$PLANCTON_TEST_KERNEL/test_power.ko" ] || return 0
  for file in "$PLANCTON_TEST_KERNEL"/linux{,.xz}; do
    [ ! -e "$file" ] || { echo "$file"; return; }
  done
}

# ---- what it is made of ----

want() { # want PACKAGE…: on this machine
  local package missing=()
  for package in "$@"; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q ' installed$' || missing+=("$package")
  done
  [ "${#missing[@]}" -gt 0 ] || return 0
  say "installing ${missing[*]}"
  apt-get -qq update >&2
  DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "${missing[@]}" >"$cache/apt.log" 2>&1 ||
    { tail -n 5 "$cache/apt.log" >&2; fail "apt-get could not install: ${missing[*]}"; }
}

mirror() { # that this machine itself is installed from
  # shellcheck disable=SC2016 # a word of apt's
  apt-get indextargets --format '$(SITE)' | grep -v security | sort -u | head -n 1
}

take_kernel() {
  local given
  if [ -n "${PLANCTON_TEST_KERNEL:-}" ]; then
    given=$(given_kernel)
    [ ! "$kernel/linux" -nt "$given" ] || return 0
    want xz-utils
    mkdir -p "$kernel"
    if [ "${given%.xz}" = "$given" ]; then cp "$given" "$kernel/linux.new"; else xz -dc "$given" >"$kernel/linux.new"; fi
    cp "$PLANCTON_TEST_KERNEL/test_power.ko" "$kernel/"
    chmod 755 "$kernel/linux.new"
    touch "$kernel/linux.new"
    mv "$kernel/linux.new" "$kernel/linux"
  elif [ ! -e "$kernel/linux" ]; then
    want flex bison bc make gcc libc6-dev xz-utils dpkg
    build_kernel
  fi
}

# The newest source that Debian has for the release: user-mode Linux has had several CPUs since 7.0 only, and Debian's own
# build of it has one, no cpusets and no pressure.
fetch_source() { # fetch_source DIRECTORY
  local apt=$work/apt name
  mkdir -p "$apt/lists/partial" "$apt/archives/partial" "$1"
  echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $(mirror) $release-backports main" >"$apt/sources"
  cat >"$apt/conf" <<CONF
Dir::Etc::SourceList "$apt/sources";
Dir::Etc::SourceParts "/dev/null";
Dir::State::Lists "$apt/lists";
Dir::Cache "$apt";
APT::Sandbox::User "root";
CONF
  export APT_CONFIG=$apt/conf
  apt-get -qq update >&2
  name=$(apt-cache pkgnames linux-source- | grep -E '^linux-source-[0-9.]+$' | sort -V | tail -n 1)
  [ -n "$name" ] || fail "no source of a kernel in $release-backports"
  (cd "$apt" && apt-get -qq download "$name")
  unset APT_CONFIG
  dpkg-deb --fsys-tarfile "$apt"/linux-source-*.deb | tar -xO --wildcards '*/linux-source-*.tar.xz' | tar -xJ --strip-components 1 -C "$1"
}

# Beyond the default of user-mode Linux, one subject a line: CPUs and groups; namespaces and what systemd and containers
# ask of a kernel; file systems; the network; packet filters, in the old and in the new form; AppArmor; a battery.
kernel_words='SMP CGROUPS MEMCG BLK_CGROUP BLK_CGROUP_IOCOST BLK_DEV_THROTTLING IOSCHED_BFQ BFQ_GROUP_IOSCHED CGROUP_SCHED FAIR_GROUP_SCHED
  CFS_BANDWIDTH CPUSETS CGROUP_PIDS CGROUP_CPUACCT CGROUP_FREEZER CGROUP_DEVICE CGROUP_BPF BPF_SYSCALL PSI TASKSTATS
  NAMESPACES UTS_NS IPC_NS PID_NS NET_NS USER_NS TIME_NS MULTIUSER EPOLL EVENTFD SIGNALFD TIMERFD INOTIFY_USER SYSVIPC POSIX_MQUEUE
  SECCOMP SECCOMP_FILTER KEYS FHANDLE AIO IO_URING FANOTIFY IKCONFIG IKCONFIG_PROC SWAP BINFMT_MISC AUDIT
  AUTOFS_FS TMPFS_POSIX_ACL TMPFS_XATTR DEVTMPFS DEVTMPFS_MOUNT EXT4_FS_POSIX_ACL EXT4_FS_SECURITY XFS_FS XFS_QUOTA XFS_POSIX_ACL
  OVERLAY_FS HOSTFS FUSE_FS BLK_DEV_UBD BLK_DEV_LOOP
  UNIX PACKET INET IPV6 NETDEVICES NET_CORE DUMMY VETH BRIDGE TUN MACVLAN UML_NET_VECTOR NET_SCHED NET_SCH_FQ_CODEL
  NETFILTER NETFILTER_ADVANCED BRIDGE_NETFILTER NF_CONNTRACK NF_NAT NF_TABLES NF_TABLES_INET NF_TABLES_IPV4 NF_TABLES_IPV6
  NFT_CT NFT_NAT NFT_MASQ NFT_REJECT NFT_COMPAT NFT_LIMIT NFT_LOG NFT_REDIR
  NETFILTER_XTABLES NETFILTER_XTABLES_LEGACY NETFILTER_XT_MARK NETFILTER_XT_NAT NETFILTER_XT_TARGET_MASQUERADE NETFILTER_XT_TARGET_REDIRECT
  NETFILTER_XT_MATCH_ADDRTYPE NETFILTER_XT_MATCH_COMMENT NETFILTER_XT_MATCH_CONNTRACK NETFILTER_XT_MATCH_STATE NETFILTER_XT_MATCH_MULTIPORT
  IP_NF_IPTABLES IP_NF_FILTER IP_NF_NAT IP_NF_TARGET_REJECT IP_NF_MANGLE IP_NF_RAW IP6_NF_IPTABLES IP6_NF_FILTER IP6_NF_NAT
  SECURITY SECURITYFS SECURITY_APPARMOR MODULES MODULE_UNLOAD POWER_SUPPLY'
kernel_without='RT_GROUP_SCHED DEBUG_INFO DEBUG_KERNEL SOUND GCC_PLUGINS WERROR'

build_kernel() {
  local source=$work/source started=$SECONDS word options=()
  say "building its kernel, once; PLANCTON_TEST_KERNEL can name a ready one"
  fetch_source "$source"
  # Its vDSO lacks a symbol that every other kernel for x86_64 has, and that Rust programs insist on.
  cat >>"$source/arch/x86/um/vdso/um_vdso.c" <<'C'
long __vdso_getcpu(unsigned int *cpu, unsigned int *node, void *unused)
{
	long ret;
	asm volatile("syscall" : "=a" (ret) : "0" (__NR_getcpu), "D" (cpu), "S" (node), "d" (unused) : "rcx", "r11", "memory");
	return ret;
}
C
  sed -i 's/^\t\t__vdso_time;/&\n\t\t__vdso_getcpu;/' "$source/arch/x86/um/vdso/vdso.lds.S"
  for word in $kernel_words; do options+=(-e "$word"); done
  for word in $kernel_without; do options+=(-d "$word"); done
  {
    make -s -C "$source" ARCH=um x86_64_defconfig
    (cd "$source" && scripts/config "${options[@]}" --set-val NR_CPUS 8 --set-str LSM apparmor,bpf -m TEST_POWER)
    make -s -C "$source" ARCH=um olddefconfig
    nice make -s -C "$source" ARCH=um "-j$(nproc)" linux modules
  } >"$cache/kernel.log" 2>&1 || { tail -n 5 "$cache/kernel.log" >&2; fail "the kernel does not build, see $cache/kernel.log"; }
  mkdir -p "$kernel"
  strip -g -o "$kernel/test_power.ko" "$source/drivers/power/supply/test_power.ko"
  strip -o "$kernel/linux.new" "$source/linux"
  mv "$kernel/linux.new" "$kernel/linux"
  say "its kernel is built, in $((SECONDS - started)) s"
}

make_disk() {
  local root=$work/root started=$SECONDS
  say "making its disk, once"
  debootstrap --variant=minbase "$release" "$root" "$(mirror)" >"$cache/disk.log" 2>&1 ||
    { tail -n 5 "$cache/disk.log" >&2; fail "debootstrap failed, see $cache/disk.log"; }
  install_packages "$root" || { tail -n 5 "$cache/disk.log" >&2; fail "its packages could not be installed, see $cache/disk.log"; }
  settle "$root"
  truncate -s 16G "$work/disk"
  mkfs.ext4 -q -F -d "$root" "$work/disk"
  mv "$work/key" "$disk.key"
  mv "$work/disk" "$disk.img"
  say "its disk is made, in $((SECONDS - started)) s"
}

install_packages() { # install_packages ROOT: with mounts that nobody else sees
  printf '#!/bin/sh\nexit 101\n' >"$1/usr/sbin/policy-rc.d"
  chmod 755 "$1/usr/sbin/policy-rc.d"
  # shellcheck disable=SC2016,SC2086 # expanded by that shell; words
  unshare -m --propagation private sh -c 'root=$1; shift
    for name in proc sys dev; do mount --rbind /$name "$root/$name"; done
    export DEBIAN_FRONTEND=noninteractive
    exec chroot "$root" apt-get -qq install -y --no-install-recommends "$@"' sh "$1" $packages >>"$cache/disk.log" 2>&1 || return 1
  rm -f "$1/usr/sbin/policy-rc.d" "$1"/var/cache/apt/archives/*.deb
}

settle() { # settle ROOT: its name, its disks, its network, and who may come in
  echo machine >"$1/etc/hostname"
  printf '127.0.0.1 localhost\n127.0.1.1 machine\n' >"$1/etc/hosts"
  : >"$1/etc/machine-id"
  rm -f "$1/etc/resolv.conf"
  echo 'nameserver 127.0.0.1' >"$1/etc/resolv.conf"
  printf '/dev/ubda / ext4 defaults 0 1\nnone /host hostfs defaults 0 0\n' >"$1/etc/fstab"
  printf '[Match]\nName=vec0\n[Network]\nAddress=10.77.0.2/24\n' >"$1/etc/systemd/network/vec0.network"
  ssh-keygen -q -t ed25519 -N '' -f "$work/key"
  mkdir -p "$1/host" "$1/root/.ssh"
  mv "$work/key.pub" "$1/root/.ssh/authorized_keys"
  chroot "$1" useradd -m -s /bin/bash volunteer
  chroot "$1" systemctl -q enable systemd-networkd.service 2>/dev/null
  chroot "$1" systemctl -q mask systemd-networkd-wait-online.service apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer \
    ldconfig.service systemd-journal-catalog-update.service modprobe@{drm,efi_pstore,configfs}.service 2>/dev/null
}

prepare() {
  mkdir -p "$cache"
  work=$(mktemp -d "$cache/work.XXXXXX")
  trap 'rm -rf "$work"' EXIT
  want iproute2 openssh-client
  take_kernel
  [ -e "$disk.img" ] || { want debootstrap e2fsprogs; make_disk; }
}

# ---- its life ----

# The pid of its kernel, while it runs.
pid() {
  local pid
  pid=$(cat "$machine/pid" 2>/dev/null) && [ "$(readlink "/proc/$pid/exe")" = "$kernel/linux" ] && echo "$pid"
}

inside() {
  nsenter -t "$(cat "$machine/pid")" -n ssh -q -i "$disk.key" -o BatchMode=yes -o StrictHostKeyChecking=no \
    -o UserKnownHostsFile=/dev/null -o ConnectTimeout=5 root@10.77.0.2 "$@"
}

# What it writes goes beside the disk that was prepared, so that a machine is as new within no time.
start() {
  local started=$SECONDS child
  ! pid >/dev/null || { say "it runs already"; return; }
  if [ ! -e "$disk.img" ] || [ ! -e "$kernel/linux" ]; then fail "it has to be prepared first"; fi
  mkdir -p "$machine/share"
  cp "$kernel/test_power.ko" "$machine/share/"
  rm -f "$machine/pid"
  # shellcheck disable=SC2016 # expanded by that shell
  setsid unshare -n sh -c 'ip link set lo up; ip link add vm0 type veth peer name vm1; ip addr add 10.77.0.1/24 dev vm0
    ip link set vm0 up; ip link set vm1 up; echo $$ >"$0/pid"; exec "$@"' "$machine" \
    "$kernel/linux" "mem=${PLANCTON_MACHINE_MEMORY:-3G}" "ncpus=${PLANCTON_MACHINE_CPUS:-2}" seccomp=auto "uml_dir=$machine/uml" \
    "ubd0=$machine/written,$disk.img" root=/dev/ubda rw con=null con0=null,fd:1 "hostfs=$machine/share" \
    vec0:transport=raw,ifname=vm1 apparmor=1 security=apparmor "$@" </dev/null >"$machine/console" 2>&1 &
  child=$!
  until [ -e "$machine/pid" ] && inside true 2>/dev/null; do
    kill -0 "$child" 2>/dev/null || { tail -n 20 "$machine/console" >&2; fail "it ended, see $machine/console"; }
    [ $((SECONDS - started)) -lt 60 ] || fail "nobody comes in after a minute, see $machine/console"
    sleep 0.2
  done
  inside systemctl is-system-running --wait >"$machine/state" || true
  [ "$(cat "$machine/state")" = running ] || { inside systemctl --failed --no-legend >&2; fail "it is $(cat "$machine/state")"; }
}

# Every process of its session is a part of it: the kernel, and one for each address space inside.
end_processes() {
  ps -o pid= --sid "$1" | xargs -r kill -KILL 2>/dev/null || true
  until [ ! -e "/proc/$1/exe" ]; do sleep 0.1; done
  rm -f "$machine/pid"
}

stop() {
  local pid end=$((SECONDS + 30))
  pid=$(pid) || return 0
  inside systemctl poweroff 2>/dev/null || true
  until [ ! -e "/proc/$pid/exe" ] || [ "$SECONDS" -ge "$end" ]; do sleep 0.2; done
  end_processes "$pid"
}

verb=${1:-}
[ $# = 0 ] || shift
case $verb in
why-not) why_not ;;
prepare)
  reason=$(why_not)
  [ -z "$reason" ] || fail "$reason"
  prepare
  ;;
start) start "$@" ;;
run)
  pid >/dev/null || fail "it does not run"
  if [ $# = 1 ]; then inside "$1"; else inside "$(printf '%q ' "$@")"; fi
  ;;
copy)
  mkdir -p "$machine/share"
  cp -r "$@" "$machine/share/"
  ;;
crash) ! pid=$(pid) || end_processes "$pid" ;;
reset)
  ! pid >/dev/null || fail "stop it first"
  rm -f "$machine/written"
  ;;
stop) stop ;;
*)
  sed -n '2,20s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
  exit 64
  ;;
esac
