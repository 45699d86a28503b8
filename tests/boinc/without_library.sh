#!/bin/sh
# A task that knows nothing of BOINC's library: counts the seconds to a number, with a checkpoint at each. The client takes the file
# boinc_finish_called as its end.
#   without_library.sh NAME SECONDS
at=0
[ ! -f checkpoint ] || at=$(cat checkpoint)
echo "begin $1 $at" >>out.txt
while [ "$at" -lt "$2" ]; do
  sleep 1
  at=$((at + 1))
  echo "$at" >checkpoint.new && mv checkpoint.new checkpoint
done
echo "done $1 $at" >>out.txt
echo 0 >boinc_finish_called
