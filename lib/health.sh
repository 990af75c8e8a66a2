#!/bin/sh
# Prints what lib/health.py's verdict() returns, and ends with 0 if that is `ok`.
file=${1:-/dev/shm/wgroutemgr.health}

if ! read -r deadline state 2>/dev/null <"$file"; then
    state="there is no $file: no daemon runs here, or it cannot write that file"
else
    read -r uptime _ </proc/uptime
    if [ "$state" = ok ] && [ "${uptime%.*}" -ge "$deadline" ]; then
        state="a pass is overdue: the daemon hangs, or the machine is too busy for it"
    fi
fi
printf '%s\n' "$state"
[ "$state" = ok ]
