"""Training steps of full size compiled for the topologies they are planned for: minutes and gigabytes a compile.

python -m pytest -m flagship
"""

import json
import subprocess
import sys

import pytest

from cola_jax import config as settings
from cola_jax.families import FAMILIES

pytestmark = pytest.mark.flagship
PRESETS = [(f"cola_2b:joint,PREPARED,W1,{machine}", machine) for machine in ("v5p:2x2x4", "v5e:8x8")]


PLANS = [(f"cola_{size}:joint,PREPARED,W1", "v5p:8x8x16") for size in ("8b", "70b")]


@pytest.mark.parametrize("spec,topology", PRESETS + PLANS)
def test_joint_training_fits_and_most_of_its_work_is_useful(spec, topology, tpu_compiler):
    program = [sys.executable, "-m", "cola_jax.cli", "compile", "--config", spec, "--topology", topology]
    done = subprocess.run([*program, "--program", "train", "--json"], capture_output=True, text=True, timeout=3600)
    assert done.returncode == 0, done.stderr[-3000:]
    (report,) = json.loads(done.stdout)
    assert report["fits"] and report["total_bytes"] <= report["capacity"]
    assert report["unknown_loops"] == 0
    cfg = settings.resolve(settings.load(spec))
    tokens = cfg.train.batch_size * cfg.train.sequence_length
    assert tokens == 1408 * 512 or "2b" not in spec, "the published batch"
    useful = FAMILIES["cola"].objective.cost(cfg).useful * tokens
    assert report["useful_flops"] * report["devices"] == pytest.approx(useful)
    assert report["useful_flops"] >= 0.75 * report["flops"]
