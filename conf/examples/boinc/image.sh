#!/bin/sh
# The pilot's image, from the distribution's packages: BOINC's client with the libraries it needs, busybox, certificates, `pilot`.
#   sh image.sh NAME:TAG [ARCHIVE.tar]
# On Debian or Ubuntu, as root, with mmdebstrap and an engine's docker command. The packages are those that apt finds on this machine.
# With an archive: also saved there, for image-archive on machines that have no registry.
set -eu

[ $# -gt 0 ] || { sed -n '2,5s/^# //p' "$0" >&2; exit 64; }
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Run in the root that the packages were unpacked to: what the client does not need stays there.
cat >"$work/pick" <<'END'
set -eu
/bin/busybox mkdir -p /image/bin
/bin/busybox --install -s /image/bin
PATH=/image/bin
mkdir -p /image/etc/ssl/certs /image/tmp /image/data /image/proc
chmod 1777 /image/tmp
for file in /usr/bin/boinc $(LD_TRACE_LOADED_OBJECTS=1 /usr/bin/boinc | sed -n 's,^[^/]*\(/[^ ]*\) (0x.*,\1,p'); do
  mkdir -p "/image${file%/*}"
  cp -L "$file" "/image$file"
done
rm -f /image/bin/busybox
cp /bin/busybox /image/bin
cat /usr/share/ca-certificates/mozilla/*.crt >/image/etc/ssl/certs/ca-certificates.crt
echo 'hosts: files dns' >/image/etc/nsswitch.conf
cp /pilot /image/bin/pilot
chmod 755 /image/bin/pilot
tar -C /image -cf - .
END

# shellcheck disable=SC2016 # what is quoted is for apt-get and mmdebstrap to expand
apt-get indextargets --format 'deb $(SITE) $(RELEASE) $(COMPONENT)' 'Identifier: Packages' | sort -u >"$work/sources"
# Packages that are only unpacked: the links to /usr that their places stand on are made here.
# shellcheck disable=SC2016
mmdebstrap -q --variant=extract --format=null --include=boinc-client,busybox-static,ca-certificates \
  --setup-hook='for name in bin sbin lib lib64; do mkdir -p "$1/usr/$name"; ln -s "usr/$name" "$1/$name"; done' \
  --extract-hook="cp '$here/pilot' '$work/pick' \"\$1\"" \
  --extract-hook="chroot \"\$1\" /bin/busybox sh /pick >'$work/root.tar'" \
  '' /dev/null - <"$work/sources"
docker import -c 'CMD ["/bin/pilot"]' "$work/root.tar" "$1" >/dev/null
[ $# = 1 ] || docker save -o "$2" "$1"
echo "$1"
