#!/bin/bash
# Like run-local.sh, with something to see: programs of the leak lab misbehave, each in its own way, until Ctrl-C. As
# root each is in a network namespace of its own, otherwise on this machine's loopback address. Leaves nothing behind.
# Expects loiter, loiter-agent and the python that they run under on the PATH.
set -euo pipefail
cd "$(dirname "$0")/.."
export PYTHONPATH=$PWD/tests
data=$(mktemp -d -t loiter-demo.XXXXXX)
pids=()

finish() {
  trap - EXIT
  trap '' INT TERM HUP # a second Ctrl-C must not leave half of it behind
  for pid in "${pids[@]}"; do kill -TERM "$pid" 2>/dev/null || true; done
  for pid in "${pids[@]}"; do wait "$pid" 2>/dev/null || true; done
  rm -rf "$data"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# The programs end when their standard input does: so with this script at the latest, whatever ends it.
mkfifo "$data/stdin"
exec 9<>"$data/stdin"

isolate=()
# shellcheck disable=SC2016 # for the shell inside
if [ "$(id -u)" = 0 ] && unshare --net true 2>/dev/null; then
  isolate=(unshare --net sh -c 'ip link set lo up && exec "$@"' sh)
fi

misbehave() {
  local program=$1
  shift
  setsid "${isolate[@]}" python "tests/leaklab/programs/$program.py" "$@" \
    <"$data/stdin" >/dev/null 2>>"$data/programs.log" 9>&- &
  pids+=($!)
}

misbehave forgets_to_close --per-second 2
misbehave idle_pool --connections 40
misbehave blocked_on_lock --per-second 0.5
misbehave stops_accepting
misbehave crawler --per-second 50
misbehave quiet_pool

# In the background, and waited for: so a signal to this script is acted on at once. In a session of its own, so that
# what it is told it is told once, by `finish`.
setsid deploy/run-local.sh <&0 9>&- &
pids=($! "${pids[@]}") # what watches the programs is to end before them
wait "$!"
