#!/bin/sh
# The pilot's image, from a Debian release that has HTCondor: no registry and no root file system of somebody else is needed.
#   sh image.sh NAME:TAG [ARCHIVE.tar] [SUITE]      SUITE: the release, trixie if not given
# On Debian or Ubuntu, with mmdebstrap and an engine's docker command. The packages come from the mirror that apt uses here.
# With an archive: also saved there, for image-archive on machines that have no registry.
set -eu

[ $# -gt 0 ] || { sed -n '2,5s/^# //p' "$0" >&2; exit 64; }
here=$(cd "$(dirname "$0")" && pwd)
name=$1
shift
archive=''
case ${1:-} in *.tar) archive=$1 && shift ;; esac
suite=${1:-trixie}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# shellcheck disable=SC2016 # what is quoted is for apt-get and mmdebstrap to expand
{
  mirror=$(apt-get indextargets --format '$(SITE)' | grep -v security | sort -u | head -n 1)
  mmdebstrap -q --variant=essential --include=condor --customize-hook="copy-in $here/pilot /usr/local/bin" \
    --customize-hook='chmod 755 "$1/usr/local/bin/pilot"' \
    --customize-hook="upload $here/pilot.config /etc/condor/config.d/50-pilot.config" \
    --customize-hook='rm -rf "$1/usr/share/doc" "$1/usr/share/man" "$1/usr/share/locale"' \
    "$suite" "$work/root.tar" "$mirror"
}
docker import -c 'CMD ["/usr/local/bin/pilot"]' "$work/root.tar" "$name" >/dev/null
[ -z "$archive" ] || docker save -o "$archive" "$name"
echo "$name"
