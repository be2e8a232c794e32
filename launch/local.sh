#!/usr/bin/env bash
# Several processes of one machine, on CPU: what a pod does, in small.
#   launch/local.sh 2 --config tinyworld:vae --workdir runs/two --config.mesh.data=-1
set -euo pipefail
count=$1; shift
port=${PORT:-12355}
pids=()
for id in $(seq 0 $((count - 1))); do
  cola-jax train --coordinator "localhost:$port" --num-processes "$count" --process-id "$id" "$@" &
  pids+=($!)
done
status=0
for pid in "${pids[@]}"; do wait "$pid" || status=$?; done
exit "$status"
