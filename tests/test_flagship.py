"""The published model's training step compiled for the topologies it has presets for: minutes and gigabytes a compile.

python -m pytest -m flagship
"""

import json
import subprocess
import sys

import pytest

from cola_jax import config as settings
from cola_jax.families import FAMILIES

pytestmark = pytest.mark.flagship
TOKENS = 1408 * 512  # of a step


@pytest.mark.parametrize("machine", ["v5p:2x2x4", "v5e:8x8"])
def test_joint_training_of_2b_fits_and_most_of_its_work_is_useful(machine, tpu_compiler):
    spec = f"cola_2b:joint,PREPARED,W1,{machine}"
    program = [sys.executable, "-m", "cola_jax.cli", "compile", "--config", spec, "--topology", machine]
    done = subprocess.run([*program, "--program", "train", "--json"], capture_output=True, text=True, timeout=3600)
    assert done.returncode == 0, done.stderr[-3000:]
    (report,) = json.loads(done.stdout)
    assert report["fits"] and report["total_bytes"] <= report["capacity"]
    assert report["unknown_loops"] == 0
    cost = FAMILIES["cola"].cost(settings.resolve(settings.load(spec)))
    assert report["useful_flops"] * report["devices"] == pytest.approx(cost.useful * TOKENS), "of the published batch"
    assert report["useful_flops"] >= 0.75 * report["flops"]
