#!/bin/sh
# Attaches this machine to a BOINC project: asks for the account key and keeps it, makes the directory, and adds the class of plancton.toml
# to Plancton's configuration, which is read again then. Once more with another NAME: one more pilot, which is another host to the project.
#   sh attach.sh https://project.example.org/ [NAME]      as root, where image.sh has built science/boinc-pilot:1
# The key is asked for, or read from standard input. PLANCTON_ETC and BOINC_DIR: other folders than /etc/plancton and /var/lib/boinc-pilot.
set -eu

url=${1:-} name=${2:-boinc}
etc=${PLANCTON_ETC:-/etc/plancton} dir=${BOINC_DIR:-/var/lib/boinc-pilot}
here=$(cd "$(dirname "$0")" && pwd)
fail() { echo "attach.sh: $*" >&2; exit 1; }

case $url in
http://*.* | https://*.*) ;;
*) sed -n '2,6s/^# //p' "$0" >&2; exit 64 ;;
esac
case $url$name in *[!A-Za-z0-9:/._~-]*) fail "only letters, digits and : / . _ ~ - can be in the address and the name" ;; esac
[ -w "$etc" ] || fail "$etc is not there, or not yours to write: Plancton is to be installed, and this run as root"
! grep -q "^ *name *= *\"$name\"" "$etc/config.toml" 2>/dev/null || fail "$etc/config.toml has a class '$name' already; give another NAME"

[ ! -t 0 ] || { printf 'account key of %s (it is not shown): ' "$url" >&2; stty -echo; trap 'stty echo' EXIT; }
read -r key || true
[ ! -t 0 ] || { stty echo; trap - EXIT; echo >&2; }
case $key in '' | *[!A-Za-z0-9_]*) fail 'that is no account key: nothing was changed' ;; esac

(umask 377 && rm -f "$etc/$name.key" && printf '%s\n' "$key" >"$etc/$name.key")
mkdir -p "$dir"
mkdir -m 700 "$dir/$name" 2>/dev/null || true # one that is there may have unfinished work in it
chown 65534:65534 "$dir/$name"
{
  echo
  sed -e "s|https://project.example.org/|$url|; s|^name = .*|name = \"$name\"|; s|/etc/plancton/boinc.key|$etc/$name.key|" \
    -e "s|/var/lib/boinc-pilot/boinc|$dir/$name|" "$here/plancton.toml"
} >>"$etc/config.toml"
echo "made: $etc/$name.key, $dir/$name, and the class '$name' in $etc/config.toml"
if systemctl is-active -q plancton 2>/dev/null; then systemctl reload plancton; else echo 'Plancton does not run under systemd here: have it read its configuration again'; fi
