#!/usr/bin/env bash
# A TPU slice of TPU VMs: installs the project on every host and starts the run on all of them.
#   launch/tpu_vm.sh NAME ZONE --config cola_2b:joint,gs-mounted/PREPARED,W1,v5e:8x8 --workdir /mnt/shared/runs/joint
# The repository is taken from the current folder; /mnt/shared stands for a disk that all hosts see.
set -euo pipefail
name=$1 zone=$2; shift 2
everywhere=(gcloud compute tpus tpu-vm ssh "$name" --zone "$zone" --worker=all --command)
tar --exclude=.git --exclude=runs -czf /tmp/cola_jax.tar.gz .
gcloud compute tpus tpu-vm scp /tmp/cola_jax.tar.gz "$name": --zone "$zone" --worker=all
"${everywhere[@]}" "mkdir -p cola_jax && tar -xzf cola_jax.tar.gz -C cola_jax && pip install --quiet -e 'cola_jax[tpu]'"
"${everywhere[@]}" "cd cola_jax && ~/.local/bin/cola-jax train --distributed $(printf '%q ' "$@")"
