"""Several processes on loopback train as one does, survive the loss of one, and go on in another number."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from cola_jax import cli
from cola_jax.train.metrics import read_metrics
from cola_jax.train.stored import folder, steps_in

BOUND = 2e-5  # relative, of a loss: the order of fp32 additions


def port():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


def arguments(config, workdir, steps, *more):
    """Of `cola-jax`."""
    common = ["train", "--config", f"{config}:vae", "--workdir", str(workdir), f"--config.train.steps={steps}"]
    common += ["--config.mesh.data=-1", "--config.checkpoint.every=2", *more]
    return [*common, "--config.train.eval_every=0", "--config.objective.mask_weight=0.0"]


def start(config, workdir, count, steps, *more, main=("-m", "cola_jax.cli")):
    """Starts `cola-jax train`, or another `main`, in `count` processes of one CPU device each."""
    coordinator = f"localhost:{port()}"
    program = [sys.executable, *main, *arguments(config, workdir, steps, *more)]
    flags = lambda index: ["--coordinator", coordinator, "--num-processes", str(count), "--process-id", str(index)]
    return [
        subprocess.Popen(
            program + flags(index),
            stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "JAX_PLATFORMS": "cpu"},
        )
        for index in range(count)
    ]


def finish(processes):
    """Waits for all; returns what they said."""
    said = [process.communicate(timeout=300) for process in processes]
    assert all(process.returncode == 0 for process in processes), said[0][1][-2000:]
    return said


def losses(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


@pytest.fixture(scope="module")
def alone(text_config, tmp_path_factory):
    """The losses of six steps of this one process."""
    workdir = tmp_path_factory.mktemp("alone")
    assert cli.main(arguments(text_config, workdir, 6)) == 0
    return losses(workdir)


@pytest.mark.slow
def test_four_processes_train_as_one_does(text_config, tmp_path, alone):
    said = finish(start(text_config, tmp_path, 4, 6))
    np.testing.assert_allclose(losses(tmp_path), alone, rtol=BOUND)
    assert "step 6/6" in said[0][1] and all("step 6/6" not in err for _, err in said[1:])  # one process speaks


@pytest.mark.slow
def test_two_train_as_one_does_and_after_one_is_lost_the_run_goes_on_in_another_number(text_config, tmp_path, alone):
    processes = start(text_config, tmp_path, 2, 100_000, "--config.train.log_every=1")
    deadline = time.monotonic() + 200
    while not (tmp_path / "checkpoints" / "6").is_dir():
        assert time.monotonic() < deadline and processes[0].poll() is None
        time.sleep(0.2)
    os.kill(processes[1].pid, signal.SIGKILL)
    for process in processes:
        process.kill()
        process.communicate()
    steps = sorted(int(path.name) for path in (tmp_path / "checkpoints").iterdir() if path.name.isdigit())
    more = steps[-1] + 2
    path = tmp_path / "config.json"
    path.write_text(path.read_text().replace('"steps": 100000', f'"steps": {more}'))
    assert cli.main(arguments(text_config, tmp_path, more)) == 0
    found = losses(tmp_path)
    assert len(found) == more
    np.testing.assert_allclose(found[:6], alone, rtol=BOUND)  # those of the two


LOST_INSIDE_A_SAVE = """
import os, sys
import jax, orbax.checkpoint as ocp
from cola_jax import cli
from cola_jax.train.metrics import read_metrics
from cola_jax.train.stored import folder, steps_in
real = ocp.AsyncCheckpointer.save
def save(self, path, *arguments, **options):
    if jax.process_index() == 1 and path.name.split(".")[0] == "4":
        os._exit(9)
    return real(self, path, *arguments, **options)
ocp.AsyncCheckpointer.save = save
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_a_host_that_is_lost_inside_a_save_costs_that_save_alone(text_config, bucket, alone):
    processes = start(text_config, bucket, 2, 6, main=("-c", LOST_INSIDE_A_SAVE))
    assert processes[1].wait(timeout=200) == 9
    time.sleep(2.0)  # the other one waits for it
    processes[0].kill()
    for process in processes:
        process.communicate()
    assert steps_in(folder(bucket)) == [2]
    finish(start(text_config, bucket, 2, 6))
    found = [line["loss"] for line in read_metrics(bucket) if "loss" in line]
    np.testing.assert_allclose(found, alone, rtol=BOUND)
    assert steps_in(folder(bucket))[-1] == 6


@pytest.mark.parametrize(
    "flags,message",
    [
        (["--coordinator", "localhost:1"], "go together"),
        (["--distributed", "--process-id", "0"], "leave out --coordinator"),
        (["--coordinator", "localhost:1", "--num-processes", "2", "--process-id", "2"], "from 0 to 1"),
    ],
)
def test_flags_that_do_not_hold_together_are_named(flags, message, capsys, tmp_path):
    assert cli.main(["train", "--config", "tinyworld:vae", "--workdir", str(tmp_path), *flags]) == 2
    assert message in capsys.readouterr().err
