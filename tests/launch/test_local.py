"""launch/local.sh: two real processes train as one does; what its exit status is, and whom a signal reaches."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from conftest import LAUNCH, executable, until

from cola_jax import cli, config

BOUND = 2e-5  # relative, of a loss: the order of fp32 additions


def start(folder, program, *arguments, **environment):
    """Starts local.sh with a program for cola-jax."""
    executable(folder / "bin" / "cola-jax", program)
    environment = os.environ | {"PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"} | environment
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(["bash", LAUNCH / "local.sh", *arguments], cwd=folder, env=environment, text=True, **quiet)


def test_it_starts_every_process_and_fails_with_the_first_that_does(tmp_path):
    process = start(
        tmp_path, 'echo "$@" >>said\ncase "$@" in *"id 1"*) exit 3;; *"id 2"*) exit 4;; esac', "3", "--workdir", "a *",
        PORT="1",
    )  # fmt: skip
    process.communicate(timeout=30)
    assert process.returncode == 3
    said = sorted((tmp_path / "said").read_text().splitlines())
    common = "train --coordinator localhost:1 --num-processes 3 --process-id"
    assert said == [f"{common} {index} --workdir a *" for index in range(3)]


def test_a_signal_reaches_every_process_and_their_status_is_passed_on(tmp_path):
    program = "trap 'sleep 0.5; touch stopped.$7; exit 143' TERM\ntouch ready.$7\nfor i in {1..300}; do sleep 0.1; done"
    process = start(tmp_path, program, "2", "--workdir", "w")
    until(lambda: len(list(tmp_path.glob("ready.*"))) == 2)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 143
    assert len(list(tmp_path.glob("stopped.*"))) == 2  # it waited for both


@pytest.mark.slow
def test_two_processes_train_as_one_does(text_config, tmp_path):
    arguments = ["--config", f"{text_config}:vae", "--config.mesh.data=-1", "--config.objective.mask_weight=0.0"]
    arguments += ["--config.train.eval_every=0", f"--config.train.eval_batches={config.base().train.eval_batches}"]
    environment = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "PYTHONPATH": str(LAUNCH.parent)}
    program = f'exec "{sys.executable}" -m cola_jax.cli "$@"'
    process = start(tmp_path, program, "2", *arguments, "--workdir", "the run", **environment)
    _, error = process.communicate(timeout=200)
    assert process.returncode == 0, error[-3000:]
    assert cli.main(["train", *arguments, "--workdir", str(tmp_path / "alone")]) == 0
    runs = [(tmp_path / name / "metrics.jsonl").read_text().splitlines() for name in ("the run", "alone")]
    two, one = ([line["loss"] for line in map(json.loads, run) if "loss" in line] for run in runs)
    assert len(two) == 3
    np.testing.assert_allclose(two, one, rtol=BOUND)
