#!/usr/bin/env bash
# TPU slices on GKE through xpk: builds an image of this project on top of a Python one and starts a workload.
#   CLUSTER=tpus TPU_TYPE=v5p-32 launch/gke_xpk.sh joint --config cola_2b:joint,/data/PREPARED,W1,v5p:2x2x4 --workdir /data/runs/joint
# Takes the workload's name (small letters, digits and dashes) and the arguments of `cola-jax train`, from any folder. With
# several slices set NUM_SLICES, and add --config.mesh.replica=NUM_SLICES. /data stands for a volume of the cluster:
# STORAGE=NAME mounts one that `xpk storage attach` has made known and that is not mounted into all workloads.
# More settings: ZONE and PROJECT, by default those of gcloud; BASE_IMAGE, an image with Python 3.11 or newer and bash.
#
# xpk restarts a workload whose process ended with status 42 or 127 to 255. A preempted run ends with 143, an error with 1 or 2:
# so it is restarted after a preemption, MAX_RESTARTS times (100), and not after an error. It goes on from its newest checkpoint,
# which it has GRACE seconds (120) to write. To start a workload of the same name again, xpk asks whether to delete the old one.
set -euo pipefail
if (($# < 2)); then
  echo "gke_xpk.sh: give the workload's name, then the arguments of cola-jax train: $0 NAME --config ..." >&2
  exit 2
fi
: "${CLUSTER:?name of the xpk cluster}" "${TPU_TYPE:?for example v5p-32}"
name=$1
shift
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
where=()
[[ -z ${ZONE:-} ]] || where+=(--zone="$ZONE")
[[ -z ${PROJECT:-} ]] || where+=(--project="$PROJECT")
[[ -z ${STORAGE:-} ]] || where+=(--storage="$STORAGE")
# exec: xpk passes SIGTERM on to the shell of this command alone, which must become the run to save a checkpoint.
xpk workload create \
  --cluster="$CLUSTER" --workload="$name" --tpu-type="$TPU_TYPE" --num-slices="${NUM_SLICES:-1}" "${where[@]}" \
  --base-docker-image="${BASE_IMAGE:-python:3.12}" --script-dir="$root" \
  --max-restarts="${MAX_RESTARTS:-100}" --termination-grace-period-seconds="${GRACE:-120}" \
  --command="pip install --quiet -e '.[tpu,gs]' && exec cola-jax train --distributed $(printf '%q ' "$@")"
