"""Training under a real Slurm: two nodes train as one process does, through a preemption and a requeue; which GPUs jax gets."""

import json

import numpy as np
import pytest
from conftest import until

from cola_jax import cli

pytestmark = pytest.mark.slow

BOUND = 2e-5  # relative, of a loss: the order of fp32 additions
ARGUMENT = "notes/*.txt, a b"
CONFIG = """
import runpy
from pathlib import Path
from cola_jax import config

def get_config(arg=None):
    assert arg == {argument!r}, arg
    c = runpy.run_path({base!r})["get_config"]("vae")
    c.train.steps = int(Path({steps!r}).read_text())  # the test decides when a run has its end
    c.train.eval_every, c.train.eval_batches = 0, config.base().train.eval_batches
    c.checkpoint.every, c.mesh.data, c.objective.mask_weight = 2, -1, 0.0
    return c
"""
RECORD = """
import json, pathlib, sys
import jax
from cola_jax import cli

initialize = jax.distributed.initialize

def recorded(*args, **kwargs):
    initialize(*args, **kwargs)
    state = jax._src.distributed.global_state
    devices = jax.config.values["jax_cuda_visible_devices"]
    facts = {{"id": state.process_id, "count": state.num_processes, "address": state.coordinator_address, "devices": devices}}
    pathlib.Path({folder!r}, f"{{state.process_id}}.json").write_text(json.dumps(facts))
    jax.distributed.shutdown()
    sys.exit(0)

jax.distributed.initialize = recorded
cli.main(sys.argv[1:])
"""


@pytest.fixture
def given(text_config, tmp_path):
    """(config file, file of the number of steps)."""
    steps, config = tmp_path / "steps", tmp_path / "a config.py"
    steps.write_text("100000")
    config.write_text(CONFIG.format(argument=ARGUMENT, base=str(text_config), steps=str(steps)))
    return config, steps


def saved(workdir):
    """The newest step that has a checkpoint; 0 without one."""
    return max((int(path.name) for path in workdir.glob("checkpoints/*") if path.name.isdigit()), default=0)


def losses(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def test_two_nodes_train_as_one_process_through_a_preemption_and_a_requeue(slurm, given, tmp_path):
    config, steps = given
    arguments = ["--config", f"{config}:{ARGUMENT}", "--workdir", "the run"]
    folder = tmp_path / "another folder"
    folder.mkdir()
    job = slurm.submit(folder, "--nodes=2", "--time=10", arguments=arguments)
    reached = lambda step: until(lambda: slurm.lives(job) and saved(folder / "the run") >= step, 200, slurm.told)
    reached(2)
    slurm("scancel", "--signal=TERM", "--batch", job)  # as at the time limit
    slurm.wait(job, "PENDING")
    first = saved(folder / "the run")
    reached(first + 2)
    slurm("scontrol", "requeue", job)  # as by an operator
    slurm.wait(job, "PENDING")
    last = saved(folder / "the run") + 3
    steps.write_text(str(last))
    facts = slurm.wait(job, "COMPLETED", "FAILED", seconds=200)
    said = (folder / f"slurm-{job}.out").read_text()
    assert (facts["JobState"], facts["Restarts"]) == ("COMPLETED", "2"), said[-3000:]
    assert f"status 143 at step {first}" in said and "requeued" in said and "Slurm ends this job itself" in said
    assert f"{last} of {last} steps done" in said
    assert cli.main(["train", "--config", f"{config}:{ARGUMENT}", "--workdir", str(tmp_path / "alone")]) == 0
    found = losses(folder / "the run")
    assert len(found) == last > first + 2
    np.testing.assert_allclose(found, losses(tmp_path / "alone"), rtol=BOUND)


@pytest.mark.parametrize("options,devices", [
    (["--nodes=2"], ["all", "all"]),  # one process per node takes all GPUs
    (["--ntasks-per-node=2", "--gpus-per-node=2"], ["0", "1"]),  # one process per GPU
    (["--ntasks-per-node=2", "--gpus-per-task=4"], ["all", "all"]),  # all of the four that Slurm shows it
])  # fmt: skip
def test_each_process_gets_its_ids_and_its_gpus(slurm, tmp_path, options, devices):
    record = tmp_path / "record.py"
    record.write_text(RECORD.format(folder=str(tmp_path)))
    job = slurm.submit(tmp_path, *options, arguments=["--workdir", "w"], program=f'exec python "{record}" "$@"')
    assert slurm.wait(job, "COMPLETED", "FAILED")["JobState"] == "COMPLETED", slurm.told()
    facts = [json.loads((tmp_path / f"{process}.json").read_text()) for process in range(2)]
    assert [fact["devices"] for fact in facts] == devices
    assert [(fact["id"], fact["count"]) for fact in facts] == [(0, 2), (1, 2)]
    port = int(job) % 4096 + 61440  # of the job: two jobs of a node have two
    assert {fact["address"] for fact in facts} == {f"127.0.0.1:{port}"}
