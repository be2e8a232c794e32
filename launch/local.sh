#!/usr/bin/env bash
# Several processes of one machine, on CPU: what a pod does, in small. Takes their number and the arguments of `cola-jax train`.
#   launch/local.sh 2 --config tinyworld:vae --workdir runs/two --config.mesh.data=-1
# The exit status is that of the first process that fails. PORT=N chooses the port on which process 0 listens, JAX_PLATFORMS
# another backend. SIGTERM and Ctrl-C reach all processes, which save a checkpoint.
set -uo pipefail
count=${1:-}
if [[ ! $count =~ ^[1-9][0-9]*$ ]]; then
  echo "local.sh: give the number of processes, then the arguments of cola-jax train: $0 2 --config ..." >&2
  exit 2
fi
shift
export JAX_PLATFORMS=${JAX_PLATFORMS:-cpu}

# Prints a port that nothing listens on.
free_port() {
  local port
  while port=$((20000 + RANDOM % 10000)); do
    (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || break
  done
  echo "$port"
}

port=${PORT:-$(free_port)} pids=() interrupted=0
trap 'interrupted=1; kill -TERM "${pids[@]}" 2>/dev/null' TERM INT
for ((id = 0; id < count; id++)); do
  cola-jax train --coordinator "localhost:$port" --num-processes "$count" --process-id "$id" "$@" &
  pids+=($!)
done
status=0
for pid in "${pids[@]}"; do
  wait "$pid"
  code=$?
  while ((interrupted)); do # a signal ends `wait`, not the process
    interrupted=0
    wait "$pid"
    again=$?
    ((again == 127)) || code=$again # 127: the status has been taken already
  done
  ((status)) || status=$code
done
exit "$status"
