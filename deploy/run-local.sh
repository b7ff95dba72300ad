#!/bin/bash
# Starts an aggregator and an agent of this machine, and shows the live ranking until Ctrl-C; the web page meanwhile is at
# LOITER_HTTP. Leaves nothing behind: neither a process nor a file. Expects loiter and loiter-agent on the PATH.
set -euo pipefail
# Neither the settings of an agent that is installed here nor the environment are to send this anywhere else.
address=${LOITER_LISTEN:-127.0.0.1:7433}
page=${LOITER_HTTP:-127.0.0.1:7434}
for setting in "${!LOITER_@}"; do unset "$setting"; done
data=$(mktemp -d -t loiter-run.XXXXXX)
pids=()

finish() {
  trap - EXIT
  trap '' INT TERM HUP # a second signal is not to leave the two running
  for pid in "${pids[@]}"; do kill -TERM "$pid" 2>/dev/null || true; done
  for pid in "${pids[@]}"; do wait "$pid" 2>/dev/null || true; done
  rm -rf "$data"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

fail() {
  echo "run: $1" >&2
  cat "$2" >&2
  exit 1
}

# Ctrl-C goes to every process of the terminal's session: in one of their own, these two are ended in order by `finish`.
setsid loiter serve --config /dev/null --listen "$address" --http "$page" --data-dir "$data/store" \
  >"$data/aggregator.log" 2>&1 &
pids+=($!)
aggregator=$!
for _ in $(seq 100); do
  grep -q 'listening on' "$data/aggregator.log" && break
  kill -0 "$aggregator" 2>/dev/null || fail "the aggregator did not start:" "$data/aggregator.log"
  sleep 0.1
done
[ "$page" = off ] || echo "web page: http://$page/"
setsid loiter-agent run --config /dev/null --server "$address" --interval 2s --cpu-budget 10% --state-dir "$data/agent" >"$data/agent.log" 2>&1 &
pids=($! "${pids[@]}") # the agent is to end first

for _ in $(seq 100); do
  [ "$(loiter top hosts --server "$address" -o csv 2>/dev/null | wc -l)" -lt 2 ] || break
  kill -0 "${pids[0]}" 2>/dev/null || fail "the agent did not start:" "$data/agent.log"
  sleep 0.2
done
# In the background, and waited for: so a signal to this script is acted on at once.
loiter top processes --server "$address" --window 10m --watch <&0 &
pids=($! "${pids[@]}")
wait "$!" || true
