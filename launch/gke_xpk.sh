#!/usr/bin/env bash
# TPU slices on GKE through xpk: builds an image of the current folder on top of a JAX one and starts a workload.
#   CLUSTER=... TPU_TYPE=v5p-32 NUM_SLICES=1 launch/gke_xpk.sh NAME --config cola_2b:joint,/data/PREPARED,W1,v5p:2x2x4 --workdir /data/runs/joint
# With several slices add --config.mesh.replica=NUM_SLICES. /data stands for a volume that the cluster mounts.
set -euo pipefail
: "${CLUSTER:?name of the xpk cluster}" "${TPU_TYPE:?for example v5p-32}" "${BASE_IMAGE:?an image with Python 3.11 or newer}"
name=$1; shift
xpk workload create \
  --cluster "$CLUSTER" --workload "$name" --tpu-type "$TPU_TYPE" --num-slices "${NUM_SLICES:-1}" \
  --base-docker-image "$BASE_IMAGE" --script-dir . \
  --command "pip install --quiet -e '.[tpu]' && cola-jax train --distributed $(printf '%q ' "$@")"
