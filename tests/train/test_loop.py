import dataclasses
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import toy_family
from kept_tokenizer import load_tokenizer
from toy_family import FAMILY, HELDOUT, batch_of, batches, config

from cola_jax.train.checkpoint import load_params
from cola_jax.train.loop import train
from cola_jax.train.metrics import read_metrics
from cola_jax.train.run import TrainingDiverged
from cola_jax.train.stored import steps_in
from cola_jax.train.workdir import WorkdirError

ROOT = Path(__file__).resolve().parents[2]


def run(workdir, cfg=None, make=batches, **arguments):
    """Trains the toy here; returns the summary and what was said."""
    stream = io.StringIO()
    options = {"heldout_batches": HELDOUT, "family": FAMILY, "stream": stream, "devices": jax.devices()[:1]} | arguments
    return train(cfg or config(), workdir, make_batches=make, **options), stream.getvalue()


def run_apart(workdir, *arguments, devices=1, check=True):
    """Trains the toy in another process; returns its exit status and its summary."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
    }
    command = [sys.executable, toy_family.__file__, str(workdir), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert not check or done.returncode == 0, done.stderr
    return done.returncode, json.loads(done.stdout) if done.stdout else None


def losses(workdir, name="loss"):
    return {line["step"]: line[name] for line in read_metrics(workdir) if name in line}


def parameters(workdir):
    return [np.asarray(x) for x in jax.tree.leaves(load_params(workdir)[1])]


def same(a, b):
    return losses(a) == losses(b) and all((x == y).all() for x, y in zip(parameters(a), parameters(b), strict=True))


def test_a_run_leaves_config_metrics_pictures_and_checkpoints(tmp_path, pictures):
    cfg = config(train={"eval_every": 4})
    summary, said = run(tmp_path, cfg, tokenizer={"a.model": b"x"})
    assert (summary.step, summary.interrupted) == (8, False)
    assert summary.metrics["loss"] == losses(tmp_path)[8]
    assert summary.heldout["loss"] == losses(tmp_path, "heldout/loss")[8]
    assert json.loads((tmp_path / "config.json").read_text())["train"]["steps"] == 8
    assert sorted(losses(tmp_path)) == list(range(1, 9))
    assert sorted(losses(tmp_path, "heldout/loss")) == [4, 8]
    assert (tmp_path / "plots" / "loss.png").exists()
    assert steps_in(tmp_path / "checkpoints") == [4, 6, 8]
    assert load_tokenizer(tmp_path) == {"a.model": b"x"}
    assert "dit/input/kernel" in said
    assert losses(tmp_path)[8] < losses(tmp_path)[1]


def test_a_run_that_was_killed_goes_on_as_if_it_had_not_been(tmp_path):
    changes = {"every": 3, "asynchronous": False}
    cfg = config(policy="interval", checkpoint=changes)
    run(tmp_path / "whole", cfg)
    options = ("--policy", "interval", "--checkpoint", json.dumps(changes), "--kill-at", "5")
    status, _ = run_apart(tmp_path / "killed", *options, check=False)
    assert status == -signal.SIGKILL
    assert 3 < max(losses(tmp_path / "killed")) < 6
    _, said = run(tmp_path / "killed", cfg)
    assert "resuming after step 3" in said
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")
    for a, b in zip(parameters(tmp_path / "killed"), parameters(tmp_path / "whole"), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_eight_devices_train_as_one_does_and_go_on_from_its_checkpoint(tmp_path):
    run(tmp_path / "one")
    run_apart(tmp_path / "eight", "--mesh", '{"data": 2, "fsdp": 2, "tensor": 2}', devices=8)
    one, eight = losses(tmp_path / "one"), losses(tmp_path / "eight")
    np.testing.assert_allclose([eight[step] for step in range(1, 9)], [one[step] for step in range(1, 9)], rtol=1e-5)
    run(tmp_path / "moved", make=lambda start: batches(start, {5: signal.SIGTERM}))
    _, summary = run_apart(tmp_path / "moved", "--mesh", '{"data": 1, "fsdp": 8}', devices=8)
    assert "resuming after step" in summary["said"]
    moved = losses(tmp_path / "moved")
    np.testing.assert_allclose([moved[step] for step in range(1, 9)], [one[step] for step in range(1, 9)], rtol=1e-5)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_leaves_and_gives_the_handlers_back(tmp_path, number):
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    summary, said = run(tmp_path, make=lambda start: batches(start, {4: number}))
    assert summary.interrupted
    assert 4 < summary.step < 8
    assert steps_in(tmp_path / "checkpoints")[-1] == summary.step
    assert f"stopped by a signal after step {summary.step}" in said
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
    again, _ = run(tmp_path)
    assert (again.step, again.interrupted) == (8, False)
    run(tmp_path.parent / f"{tmp_path.name}-whole")
    assert losses(tmp_path) == losses(tmp_path.parent / f"{tmp_path.name}-whole")


def test_a_loss_that_is_not_finite_stops_and_leaves_the_last_good_checkpoint(tmp_path):
    def make(start):
        for index in range(start, 100):
            yield batch_of(index, value=np.nan if index == 4 else 1.0)

    with pytest.raises(TrainingDiverged, match="step 5: .*loss.* not finite") as error:
        run(tmp_path, make=make)
    assert error.value.step == 5
    assert {"loss", "grad_norm", "square"} <= set(error.value.terms)
    assert steps_in(tmp_path / "checkpoints") == [2, 4]
    run(tmp_path / "whole")
    run(tmp_path)
    assert losses(tmp_path) == losses(tmp_path / "whole")


def test_a_workdir_of_another_config_is_refused_with_the_differences(tmp_path):
    run(tmp_path, config(steps=2))
    other = dataclasses.replace(config(steps=2, optimizer={"learning_rate": 0.5}), seed=1)
    with pytest.raises(WorkdirError) as error:
        run(tmp_path, other)
    assert "optimizer.learning_rate: 0.01 -> 0.5" in str(error.value)
    assert "seed: 66 -> 1" in str(error.value)
    assert json.loads((tmp_path / "config.json").read_text())["seed"] == 66


def test_how_often_things_are_shown_may_change_and_a_finished_run_says_so(tmp_path):
    run(tmp_path, config(steps=2))
    summary, said = run(tmp_path, config(steps=2, train={"log_every": 7}, checkpoint={"keep_last": 1}))
    assert "all 2 steps are already done" in said
    assert (summary.step, summary.interrupted) == (2, False)


def test_a_damaged_newest_checkpoint_costs_its_steps_and_nothing_else(tmp_path):
    run(tmp_path)
    whole = losses(tmp_path)
    (tmp_path / "checkpoints" / "8" / "meta" / "metadata").write_text("")
    _, said = run(tmp_path)
    assert f"warning: checkpoint {tmp_path / 'checkpoints' / '8'}" in said
    assert "resuming after step 6" in said
    assert losses(tmp_path) == whole


def test_the_best_checkpoint_is_that_of_the_lowest_heldout_metric(tmp_path):
    cfg = config(checkpoint={"best_metric": "square", "keep_last": 1}, optimizer={"learning_rate": 0.5})
    run(tmp_path, cfg)
    scores = losses(tmp_path, "heldout/square")
    assert sorted(scores) == [2, 4, 6, 8]
    assert set(steps_in(tmp_path / "checkpoints")) == {8, min(scores, key=scores.get)}


def test_a_best_metric_that_does_not_exist_is_refused_before_training(tmp_path):
    with pytest.raises(ValueError, match="'perplexity' is not a held-out metric; those are loss, square"):
        run(tmp_path, config(checkpoint={"best_metric": "perplexity"}))
    with pytest.raises(ValueError, match="needs held-out batches"):
        run(tmp_path, config(checkpoint={"best_metric": "loss"}), heldout_batches=[])
    assert not (tmp_path / "config.json").exists()


def test_batches_that_end_early_are_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"ended before step 4, but train\.steps=8"):
        run(tmp_path, make=lambda start: [batch_of(index) for index in range(start, 3)])


def test_given_parameters_are_where_training_starts(tmp_path):
    run(tmp_path / "first", config(steps=2))
    params = load_params(tmp_path / "first")[1]
    run(tmp_path / "second", config(steps=2, policy="fixed"), params_init={"encoder": params["encoder"]})
    second = load_params(tmp_path / "second")[1]
    np.testing.assert_array_equal(second["encoder"]["patch"]["kernel"], params["encoder"]["patch"]["kernel"])
    assert not np.array_equal(second["dit"]["input"]["kernel"], params["dit"]["input"]["kernel"])
