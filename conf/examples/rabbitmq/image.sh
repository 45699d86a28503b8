#!/bin/sh
# The pilot's image, from the distribution's packages: no registry and no root file system of somebody else is needed.
#   sh image.sh NAME:TAG [ARCHIVE.tar] [PACKAGE…]      PACKAGE: what your jobs want beside a shell and Python
# On Debian or Ubuntu, with mmdebstrap and an engine's docker command. The packages are those that apt finds on this machine.
# With an archive: also saved there, for image-archive on machines that have no registry.
# shellcheck disable=SC2016 # what is quoted is for apt-get and mmdebstrap to expand
set -eu

[ $# -gt 0 ] || { sed -n '2,5s/^# //p' "$0" >&2; exit 64; }
here=$(cd "$(dirname "$0")" && pwd)
name=$1
shift
archive=''
case ${1:-} in *.tar) archive=$1 && shift ;; esac
packages=python3-pika,ca-certificates,dash,coreutils,sed,grep
for package; do packages=$packages,$package; done
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

apt-get indextargets --format 'deb $(SITE) $(RELEASE) $(COMPONENT)' 'Identifier: Packages' | sort -u >"$work/sources"
# Packages are unpacked only: what their scripts would have done is done here, as far as it is wanted. Run once, so that Python's
# byte code is in the image: a pilot starts with a third of the CPU then. What writes does so inside the root: its links are absolute,
# and from outside they would lead to this machine's own files.
mmdebstrap -q --variant=extract --include="$packages" --extract-hook='mkdir -p "$1/opt/pilot"' \
  --extract-hook="copy-in $here/jobs.py $here/pilot.py /opt/pilot" \
  --extract-hook='env -u PYTHONDONTWRITEBYTECODE chroot "$1" /usr/bin/python3 -c "import sys; sys.path.insert(0, \"/opt/pilot\"); import pilot"' \
  --extract-hook='chroot "$1" /bin/sh -c "cat /usr/share/ca-certificates/mozilla/*.crt >/etc/ssl/certs/ca-certificates.crt"' \
  --extract-hook='rm -rf "$1/usr/share/doc" "$1/usr/share/man" "$1/usr/share/locale"' \
  '' "$work/root.tar" - <"$work/sources"
docker import -c 'CMD ["/usr/bin/python3", "/opt/pilot/pilot.py"]' "$work/root.tar" "$name" >/dev/null
[ -z "$archive" ] || docker save -o "$archive" "$name"
echo "$name"
