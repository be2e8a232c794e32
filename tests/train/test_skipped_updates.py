"""Steps whose loss or gradient is not finite, with train.skip_nonfinite."""

import dataclasses
import io
import signal

import jax
import numpy as np
import pytest
from toy_family import FAMILY, HELDOUT, batch_of, batches, config

from cola_jax.parallel.hosts import batch_putter
from cola_jax.parallel.mesh import make_mesh
from cola_jax.train.checkpoint import load_params
from cola_jax.train.loop import train
from cola_jax.train.metrics import read_metrics
from cola_jax.train.run import TrainingDiverged
from cola_jax.train.state import abstract_state, init_state
from cola_jax.train.step import train_step
from cola_jax.train.stored import steps_in


def broken_at(*indices, signals=None):
    """Batches of which those of `indices` have no finite loss; signals as in `batches`."""

    def make(start):
        for index, batch in enumerate(batches(start, signals), start):
            yield batch_of(index, value=np.nan) if index in indices else batch

    return make


def run(workdir, cfg, make):
    stream = io.StringIO()
    options = {"heldout_batches": HELDOUT, "family": FAMILY, "stream": stream, "devices": jax.devices()[:1]}
    return train(cfg, workdir, make_batches=make, **options), stream.getvalue()


def skipping(most, **changes):
    return config(train={"skip_nonfinite": most}, checkpoint={"every": 2, "keep_last": 9} | changes)


def column(workdir, name):
    return {line["step"]: line[name] for line in read_metrics(workdir) if name in line}


def test_a_skipped_update_is_the_identity_and_the_rest_goes_on(tmp_path):
    cfg = skipping(1)
    summary, said = run(tmp_path, cfg, broken_at(4))
    assert (summary.step, summary.metrics["skipped_steps"]) == (8, 1)
    assert "step 5: " in said and "the update is skipped, 1 of at most 1 (train.skip_nonfinite)" in said
    mesh = make_mesh(cfg.mesh, jax.devices()[:1])
    abstract = abstract_state(cfg, FAMILY, mesh)
    state, put = init_state(cfg, FAMILY, abstract), batch_putter(mesh, cfg.train.batch_size)
    update, expected = train_step(cfg, FAMILY, ("encoder", "dit"), mesh, abstract), {}
    for index in range(8):
        if index == 4:
            state = dataclasses.replace(state, step=state.step + 1)
            continue
        state, metrics = update(state, put(batch_of(index)))
        expected[index + 1] = float(metrics["loss"])
    found = column(tmp_path, "loss")
    assert found.pop(5) is None
    assert found == expected
    for a, b in zip(jax.tree.leaves(load_params(tmp_path)[1]), jax.tree.leaves(state.params), strict=True):
        np.testing.assert_array_equal(a, b)


def test_one_more_than_may_be_skipped_stops_the_run(tmp_path):
    with pytest.raises(
        TrainingDiverged, match=r"step 7: .*not applied after 2 skipped \(train.skip_nonfinite\)"
    ) as error:
        run(tmp_path, skipping(2), broken_at(1, 3, 6))
    assert (error.value.step, error.value.skipped) == (7, 2)
    assert steps_in(tmp_path / "checkpoints") == [2, 4, 6]
    assert column(tmp_path, "skipped_steps") == {1: 0, 2: 1, 3: 1, 4: 2, 5: 2, 6: 2, 7: 2}


def test_without_the_field_nothing_is_skipped_or_counted(tmp_path):
    with pytest.raises(TrainingDiverged, match="step 5: .*was not applied, and"):
        run(tmp_path, config(), broken_at(4))
    assert not column(tmp_path, "skipped_steps")


def test_a_resumed_run_skips_the_same_batches_and_counts_the_same(tmp_path):
    run(tmp_path / "whole", skipping(2), broken_at(1, 5))
    stopped, _ = run(tmp_path / "stopped", skipping(2), broken_at(1, 5, signals={3: signal.SIGTERM}))
    assert stopped.interrupted and 3 < stopped.step < 6
    run(tmp_path / "stopped", skipping(2), broken_at(1, 5))
    for name in ("loss", "skipped_steps"):
        assert column(tmp_path / "stopped", name) == column(tmp_path / "whole", name)


def test_the_count_is_that_of_the_checkpoint_and_a_stopped_run_may_be_allowed_more(tmp_path):
    for _ in range(2):  # the second start resumes after step 4, with one skipped update, and stops at the same step
        with pytest.raises(TrainingDiverged) as error:
            run(tmp_path, skipping(1), broken_at(2, 5))
        assert (error.value.step, error.value.skipped) == (6, 1)
    summary, said = run(tmp_path, skipping(2), broken_at(2, 5))
    assert summary.step == 8 and "train.skip_nonfinite: 1 -> 2" in said
    run(tmp_path / "whole", skipping(2), broken_at(2, 5))
    assert column(tmp_path, "loss") == column(tmp_path / "whole", "loss")
