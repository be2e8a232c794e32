#!/usr/bin/env bash
# A TPU slice of TPU VMs: copies this project to every host, installs it there with a Python of its own, and starts the run on all.
#   launch/tpu_vm.sh NAME ZONE --config cola_2b:joint,gs-mounted/PREPARED,W1,v5e:8x8 --workdir /mnt/shared/runs/joint
# Takes the arguments of `cola-jax train` after the name and zone of the slice, from any folder. The workdir is gs://BUCKET/..., or
# on a disk that all hosts see: /mnt/shared stands for one that is mounted on each. Relative paths are relative to the copy of the
# project. The same line continues a run, also on a new slice of that name.
set -euo pipefail
if (($# < 3)); then
  echo "tpu_vm.sh: give the slice's name and zone, then the arguments of cola-jax train: $0 NAME ZONE --config ..." >&2
  exit 2
fi
name=$1 zone=$2
shift 2
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
archive=$(mktemp -d)/cola_jax.tar.gz
trap 'rm -rf "${archive%/*}"' EXIT

everywhere() { gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all --command="$1"; }

tar -C "$root" --exclude=./.git --exclude='./.venv*' --exclude=./runs --exclude=./workdirs --exclude='./.*_cache' -czf "$archive" .
gcloud compute tpus tpu-vm scp "$archive" "$name:cola_jax.tar.gz" --zone="$zone" --worker=all
# uv brings a Python that is new enough: that of the images is 3.10. pip's --target works also where a system forbids installs.
everywhere "mkdir -p cola_jax && tar -xzf cola_jax.tar.gz -C cola_jax \
&& python3 -m pip install --quiet --upgrade --target=cola_jax_uv uv && export PYTHONPATH=cola_jax_uv \
&& python3 -m uv venv --quiet --allow-existing --python=3.12 cola_jax_env \
&& python3 -m uv pip install --quiet --python=cola_jax_env/bin/python -e 'cola_jax[tpu,gs]'"
everywhere "cd cola_jax && exec ../cola_jax_env/bin/cola-jax train --distributed $(printf '%q ' "$@")"
