"""What may change when a run goes on, what may not, and what a run may go on from."""

import dataclasses
import io
import json
import signal

import jax
import numpy as np
import pytest
from toy_family import FAMILY, HELDOUT, batches, config

from cola_jax.config import ConfigError
from cola_jax.train import checkpoint, loop, stored
from cola_jax.train.checkpoint import load_params
from cola_jax.train.loop import Continued, train
from cola_jax.train.metrics import read_metrics
from cola_jax.train.stored import CheckpointError, steps_in
from cola_jax.train.workdir import WorkdirError


def run(workdir, cfg=None, make=batches, **arguments):
    """Trains the toy; returns the summary and what was said."""
    stream = io.StringIO()
    options = {"heldout_batches": HELDOUT, "family": FAMILY, "stream": stream, "devices": jax.devices()[:1]} | arguments
    return train(cfg or config(), workdir, make_batches=make, **options), stream.getvalue()


def losses(workdir, name="loss"):
    return {line["step"]: line[name] for line in read_metrics(workdir) if name in line}


def parameters(workdir, **arguments):
    return [np.asarray(x) for x in jax.tree.leaves(load_params(workdir, **arguments)[1])]


WSD = {"schedule": "wsd", "decay_steps": 0, "cooldown_steps": 2, "final_learning_rate": 0.0}


@pytest.mark.parametrize("schedule", [
    {"schedule": "cosine", "decay_steps": 100}, pytest.param({"schedule": "constant"}, marks=pytest.mark.slow),
])  # fmt: skip
def test_a_run_made_longer_goes_on_as_if_it_had_been_that_long(tmp_path, schedule):
    run(tmp_path / "long", config(8, optimizer=schedule))
    run(tmp_path / "grown", config(4, optimizer=schedule))
    summary, said = run(tmp_path / "grown", config(8, optimizer=schedule))
    assert summary.step == 8 and "train.steps: 4 -> 8" in said
    assert losses(tmp_path / "grown") == losses(tmp_path / "long")
    assert json.loads((tmp_path / "grown" / "config.json").read_text())["train"]["steps"] == 8


def test_a_length_that_would_have_changed_steps_that_are_done_is_refused(tmp_path):
    run(tmp_path, config(6, optimizer=WSD))
    with pytest.raises(WorkdirError) as error:
        run(tmp_path, config(12, optimizer=WSD))
    assert "the wsd schedule depends on the run's length" in str(error.value) and "step 6 of the 6" in str(error.value)


def test_a_stable_trunk_may_be_made_longer(tmp_path):
    make = lambda start: batches(start, {3: signal.SIGTERM})
    run(tmp_path, config(8, optimizer=WSD), make)
    summary, _ = run(tmp_path, config(12, optimizer=WSD))
    run(tmp_path / "whole", config(12, optimizer=WSD))
    assert summary.step == 12 and losses(tmp_path) == losses(tmp_path / "whole")


def test_fewer_steps_than_are_done_are_refused(tmp_path):
    run(tmp_path, config(4))
    with pytest.raises(WorkdirError, match=r"train\.steps: 4 -> 3, but 4 steps are done"):
        run(tmp_path, config(3))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The losses of a run of eight steps that nothing interrupts."""
    workdir = tmp_path_factory.mktemp("whole")
    run(workdir, config(8))
    return losses(workdir)


@pytest.mark.parametrize("changes", [
    {"train": {"accumulate": 4}}, {"mesh": {"fsdp": -1, "data": 1}},
    {"compute": {"remat": "full", "cross_entropy_chunk": 4}, "data": {"threads": 7},
     "checkpoint": {"every": 3, "keep_last": 1}},  # of which the toy's step reads nothing
], ids=lambda changes: next(iter(changes)))  # fmt: skip
def test_placement_and_reporting_may_change_and_the_losses_agree(tmp_path, whole, changes):
    run(tmp_path / "moved", config(8), lambda start: batches(start, {4: signal.SIGTERM}))
    summary, said = run(tmp_path / "moved", config(8, **changes))
    assert summary.step == 8 and "continuing with another config" in said
    moved = losses(tmp_path / "moved")
    np.testing.assert_allclose([moved[step] for step in range(1, 9)], [whole[step] for step in range(1, 9)], rtol=2e-5)


def test_a_run_without_a_checkpoint_has_not_begun_and_may_take_another_config(tmp_path):
    with pytest.raises(ConfigError):
        run(tmp_path, config(checkpoint={"every": 100}), make=lambda start: iter(()))
    assert steps_in(tmp_path / "checkpoints") == []
    summary, _ = run(tmp_path, dataclasses.replace(config(2), seed=1))
    assert summary.step == 2 and json.loads((tmp_path / "config.json").read_text())["seed"] == 1


def test_a_config_of_an_earlier_version_is_read_and_named(tmp_path):
    run(tmp_path, config(2))
    path = tmp_path / "config.json"
    old = json.loads(path.read_text())
    for group, name in (("train", "ema_decay"), ("train", "init_from"), ("train", "init_step"), ("train", "init_groups"),
                        ("train", "init_continue"), ("checkpoint", "every_minutes"), ("optimizer", "cooldown_steps"),
                        ("optimizer", "cooldown_form")):  # fmt: skip
        del old[group][name]
    old["objective"]["vae_from"] = ""
    path.write_text(json.dumps(old))
    summary, said = run(tmp_path, config(4))
    assert summary.step == 4 and "the stored config is of an earlier version" in said and "train.ema_decay" in said


def test_a_cooldown_goes_on_from_its_trunk_with_step_data_and_moments(tmp_path):
    seen = []

    def make(start):
        seen.append(start)
        return batches(start)

    trunk = config(6, optimizer={"schedule": "constant"}, checkpoint={"every": 2})
    run(tmp_path / "trunk", trunk)
    branch = config(8, optimizer=WSD | {"cooldown_steps": 4})
    summary, said = run(tmp_path / "branch", branch, make, continued=Continued(tmp_path / "trunk", 4))
    assert summary.step == 8 and seen == [4] and "continuing from step 4" in said
    run(tmp_path / "whole", branch)
    whole, found = losses(tmp_path / "whole"), losses(tmp_path / "branch")
    assert min(found) == 5
    assert found == {step: loss for step, loss in whole.items() if step > 4}, "constant until 4, as wsd of 8 - 4 is"
    for a, b in zip(parameters(tmp_path / "branch"), parameters(tmp_path / "whole"), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_a_cooldown_that_was_killed_goes_on_from_its_own_checkpoint(tmp_path):
    run(tmp_path / "trunk", config(4, optimizer={"schedule": "constant"}))
    branch, from_trunk = config(8, optimizer=WSD), {"continued": Continued(tmp_path / "trunk")}
    run(tmp_path / "whole", branch, **from_trunk)
    run(tmp_path / "killed", branch, lambda start: batches(start, {6: signal.SIGTERM}), **from_trunk)
    _, said = run(tmp_path / "killed", branch, **from_trunk)
    assert "resuming after step" in said and losses(tmp_path / "killed") == losses(tmp_path / "whole")


def test_a_trunk_without_optimizer_state_cannot_be_gone_on_from(tmp_path):
    from cola_jax.train.checkpoint import save_params

    run(tmp_path / "first", config(2))
    save_params(tmp_path / "weights", config(), load_params(tmp_path / "first")[1], {})
    with pytest.raises(CheckpointError, match=r"no optimizer state.*without train\.init_continue"):
        run(tmp_path / "branch", config(4), continued=Continued(tmp_path / "weights"))
    assert not (tmp_path / "branch" / "config.json").exists()


def test_the_average_follows_the_parameters_and_is_saved_evaluated_and_loaded(tmp_path):
    cfg = config(6, train={"ema_decay": 0.5, "eval_every": 3}, checkpoint={"every": 1, "keep_last": 9})
    run(tmp_path, cfg)
    expected = None
    for step in range(1, 7):
        params = load_params(tmp_path, step)[1]
        first = expected is None
        expected = params if first else jax.tree.map(lambda e, p: 0.5 * e + 0.5 * p, expected, params)
        if first:  # the average begins at the initial parameters, not at those of step 1
            expected = load_params(tmp_path, 1, ema=True)[1]
        for a, b in zip(jax.tree.leaves(load_params(tmp_path, step, ema=True)[1]), jax.tree.leaves(expected)):
            np.testing.assert_allclose(a, b, rtol=1e-6)
    assert sorted(losses(tmp_path, "heldout/ema/loss")) == [3, 6]
    assert losses(tmp_path, "heldout/ema/loss")[6] != losses(tmp_path, "heldout/loss")[6]


@pytest.mark.slow
def test_the_average_survives_a_restart_and_costs_the_training_nothing(tmp_path):
    cfg = config(8, train={"ema_decay": 0.9})
    run(tmp_path / "whole", cfg)
    run(tmp_path / "stopped", cfg, lambda start: batches(start, {4: signal.SIGTERM}))
    run(tmp_path / "stopped", cfg)
    for a, b in zip(parameters(tmp_path / "whole", ema=True), parameters(tmp_path / "stopped", ema=True), strict=True):
        np.testing.assert_array_equal(a, b)
    run(tmp_path / "without", config(8))
    assert losses(tmp_path / "without") == losses(tmp_path / "whole")
    with pytest.raises(CheckpointError, match="no average of the parameters"):
        load_params(tmp_path / "without", ema=True)


def test_a_checkpoint_is_written_after_so_many_minutes(tmp_path, monkeypatch):
    clock = iter(range(0, 10_000_000, 20))  # each look at the clock is 20 seconds later
    monkeypatch.setattr(loop.time, "monotonic", lambda: float(next(clock)))
    run(tmp_path, config(8, checkpoint={"every": 100, "every_minutes": 2.0, "keep_last": 99}))
    steps = steps_in(tmp_path / "checkpoints")
    assert steps[-1] == 8 and 1 < len(steps) < 8, steps


def test_without_minutes_steps_alone_decide(tmp_path):
    run(tmp_path, config(8, checkpoint={"every": 100}))
    assert steps_in(tmp_path / "checkpoints") == [8]


def test_a_first_checkpoint_that_cannot_be_read_back_stops_the_run(tmp_path, monkeypatch):
    def damaged(path, trees):
        raise stored.Damaged("params: gone")

    monkeypatch.setattr(stored, "verify", damaged)
    with pytest.raises(CheckpointError, match="the first checkpoint of this run, .*cannot be read back"):
        run(tmp_path)
    assert max(losses(tmp_path)) == 2, "nothing is trained past it"


def test_what_is_read_back_is_compared_bit_by_bit_in_parts(tmp_path, monkeypatch):
    from cola_jax.parallel.mesh import make_mesh
    from cola_jax.train.checkpoint import TREES, Checkpoints
    from cola_jax.train.integrity import leaves_by_path
    from cola_jax.train.state import abstract_state, init_state

    cfg = config()
    state = init_state(cfg, FAMILY, abstract_state(cfg, FAMILY, make_mesh(cfg.mesh, jax.devices()[:1])))
    checkpoints = Checkpoints(tmp_path, cfg, {}, print)
    checkpoints.save(state, {})
    checkpoints.close()
    trees = {name: leaves_by_path(getattr(state, name)) for name in TREES if leaves_by_path(getattr(state, name))}
    monkeypatch.setattr(stored, "CHUNK", 100)
    assert len(list(stored._parts(trees["params"]))) > 1
    stored.verify(tmp_path / "checkpoints" / "0", trees)
    meta = tmp_path / "checkpoints" / "0" / "meta" / "metadata"
    facts = json.loads(meta.read_text())
    facts["leaves"]["params/dit/input/kernel"]["fingerprint"] += 1
    meta.write_text(json.dumps(facts))
    with pytest.raises(stored.Damaged, match="params/dit/input/kernel"):
        stored.verify(tmp_path / "checkpoints" / "0", trees)


@pytest.mark.parametrize("name", ["lr[3e-4]", "a[bc]d"])
def test_a_path_whose_checkpoints_could_not_be_read_is_refused_at_the_start(tmp_path, name):
    with pytest.raises(WorkdirError, match=r"'\['"):
        run(tmp_path / name)
    assert not (tmp_path / name).exists()


@pytest.mark.parametrize("name", ["a b", "x{y}", "a*b?", "50%#", "\N{SNOWMAN}", "lr]x"])
def test_odd_names_of_workdirs_work(tmp_path, name):
    run(tmp_path / name, config(2))
    assert parameters(tmp_path / name)


def test_a_file_or_a_dangling_link_is_no_workdir(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for workdir, message in (("file", "is a file"), ("file/below", "is a file"), ("link", "is a link to")):
        with pytest.raises(WorkdirError, match=message):
            run(tmp_path / workdir)


def test_a_second_run_is_refused_and_the_first_one_loses_nothing(tmp_path):
    tried = []

    def make(start):
        for index, batch in enumerate(batches(start)):
            if index == 3:
                with pytest.raises(WorkdirError, match="is in use by process") as error:
                    run(tmp_path)
                tried.append(str(error.value))
            yield batch

    run(tmp_path, make=make)
    assert tried
    run(tmp_path.parent / f"{tmp_path.name}-whole")
    assert losses(tmp_path) == losses(tmp_path.parent / f"{tmp_path.name}-whole")


def test_a_disk_that_is_full_is_one_line_and_the_run_goes_on_when_there_is_room(tmp_path, monkeypatch):
    def full(*arguments, **options):
        raise ValueError("RESOURCE_EXHAUSTED: Error writing\nmore")

    cfg = config(8, checkpoint={"every": 2, "asynchronous": False})
    real = checkpoint.ocp.AsyncCheckpointer.save
    saved = []

    def save(self, path, *arguments, **options):
        saved.append(path.name)
        return full() if path.name == "4" else real(self, path, *arguments, **options)

    monkeypatch.setattr(checkpoint.ocp.AsyncCheckpointer, "save", save)
    with pytest.raises(
        CheckpointError, match="could not be written below .*RESOURCE_EXHAUSTED: Error writing.: free"
    ) as error:
        run(tmp_path, cfg)
    assert "\n" not in str(error.value) and saved == ["2", "4"]
    monkeypatch.undo()
    _, said = run(tmp_path, cfg)
    run(tmp_path.parent / f"{tmp_path.name}-whole", cfg)
    assert "resuming after step 2" in said and losses(tmp_path) == losses(tmp_path.parent / f"{tmp_path.name}-whole")
