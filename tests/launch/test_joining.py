"""What a process hands to jax under Slurm's variables: ids, and which GPUs it takes."""

import json
import os
import subprocess
import sys

import pytest

from cola_jax import cli

RANK_3_OF_THE_NODE = {
    "SLURM_JOB_ID": "8192", "SLURM_STEP_NODELIST": "127.0.0.[1-2]", "SLURM_NTASKS": "1", "SLURM_PROCID": "0",
    "SLURM_LOCALID": "3",
}  # fmt: skip
PROGRAM = """
import json, sys
import jax
from cola_jax.cli import build_parser
from cola_jax.commands.processes import join

join(build_parser().parse_args(["train", "--workdir", "w", *sys.argv[1:]]))
state = jax._src.distributed.global_state
devices = jax.config.values["jax_cuda_visible_devices"]
print(json.dumps([state.coordinator_address, state.num_processes, state.process_id, devices]))
"""


@pytest.mark.parametrize("flags,address,devices", [
    (["--distributed"], "127.0.0.1:61440", "3"),
    (["--distributed", "--all-local-devices"], "127.0.0.1:61440", "all"),
    (["--coordinator", "127.0.0.1:61441", "--num-processes", "1", "--process-id", "0"], "127.0.0.1:61441", "all"),
])  # fmt: skip
def test_a_process_takes_the_gpu_of_its_rank_or_all_where_it_is_told_so(flags, address, devices):
    environment = os.environ | RANK_3_OF_THE_NODE | {"JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", PROGRAM, *flags], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout) == [address, 1, 0, devices]


def test_all_local_devices_alone_is_refused(capsys):
    assert cli.main(["train", "--workdir", "w", "--config", "tinyworld:vae", "--all-local-devices"]) == 2
    assert "--all-local-devices goes with --distributed" in capsys.readouterr().err
