#!/bin/sh
# Run once on the server, as root: a virtual host of its own, and two users with passwords of their own.
#   sh server.sh HOST[:PORT] FOLDER      writes FOLDER/pilot.url and FOLDER/submit.url, for their owner's eyes only
# RABBITMQCTL: another command than rabbitmqctl.
set -eu

[ $# = 2 ] || { sed -n '2,4s/^# //p' "$0" >&2; exit 64; }
ctl=${RABBITMQCTL:-rabbitmqctl}
password() { od -An -N16 -tx1 /dev/urandom | tr -d ' \n'; }

umask 077
mkdir -p "$2"
$ctl add_vhost plancton
for user in pilot submit; do
  word=$(password)
  # over stdin: an argument could be read by everybody on this machine
  echo "$word" | $ctl add_user "$user"
  echo "amqp://$user:$word@$1/plancton" >"$2/$user.url"
done
# A job can read what its pilot can: all that this user may do is take jobs and give results.
$ctl set_permissions -p plancton pilot '^$' '^results$' '^jobs$'
$ctl set_permissions -p plancton submit '^(jobs|results)$' '^(jobs|results|amq\.default)$' '^(jobs|results)$'
