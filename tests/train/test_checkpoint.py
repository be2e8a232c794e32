import dataclasses
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from kept_tokenizer import load_tokenizer
from toy_family import FAMILY, config

from cola_jax.parallel.mesh import make_mesh
from cola_jax.train.checkpoint import Checkpoints, kept_steps, load_params, save_params
from cola_jax.train.integrity import fingerprints
from cola_jax.train.state import abstract_state, complete, init_state
from cola_jax.train.stored import CheckpointError, steps_in


def setup(cfg):
    mesh = make_mesh(cfg.mesh, jax.devices()[:1])
    abstract = abstract_state(cfg, FAMILY, mesh)
    return abstract, init_state(cfg, FAMILY, abstract)


def at(state, step):
    """A state of that step, unlike those of other steps."""
    params = jax.tree.map(lambda x: x + step, state.params)
    return dataclasses.replace(state, step=jnp.int32(step), params=params)


def written(workdir, steps=(2, 4), cfg=None, scores=()):
    """Writes checkpoints; returns the abstract and the first state, and the list of warnings to come."""
    cfg = cfg or config()
    abstract, state = setup(cfg)
    checkpoints = Checkpoints(workdir, cfg, {"vocab.txt": b"\x00a\nb"}, print)
    for step, score in zip(steps, scores or [None] * len(steps)):
        checkpoints.save(at(state, step), {} if score is None else {"square": score})
    checkpoints.close()
    return abstract, state


def restored(workdir, abstract, cfg=None):
    warnings = []
    checkpoints = Checkpoints(workdir, cfg or config(), {}, warnings.append)
    try:
        found = checkpoints.restore(abstract)
        return None if found is None else complete(config(), FAMILY, abstract, *found), warnings
    finally:
        checkpoints.close()


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def truncate(folder):
    for path in (folder / "params" / "d").iterdir():
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def decode_to_other_values(folder):
    shutil.rmtree(folder / "params")
    shutil.copytree(folder.parent / "2" / "params", folder / "params")


DAMAGE = {
    "truncated": truncate,
    "other values": decode_to_other_values,
    "values gone": lambda folder: shutil.rmtree(folder / "opt_state" / "d"),
    "item gone": lambda folder: shutil.rmtree(folder / "params"),
    "meta gone": lambda folder: shutil.rmtree(folder / "meta"),
    "meta cut": lambda folder: (folder / "meta" / "metadata").write_text('{"format": 1, "ste'),
    "empty folder": lambda folder: (shutil.rmtree(folder), folder.mkdir()),
}


def test_what_is_restored_is_what_was_saved(tmp_path):
    abstract, state = written(tmp_path)
    found, warnings = restored(tmp_path, abstract)
    assert same(found, at(state, 4))
    assert jax.tree.structure(found) == jax.tree.structure(state)
    assert warnings == []


def test_parameters_from_elsewhere_begin_a_run_with_a_fresh_optimizer(tmp_path):
    abstract, state = setup(config())
    save_params(tmp_path, config(), at(state, 3).params, {"vocab.txt": b"a"})
    assert load_tokenizer(tmp_path) == {"vocab.txt": b"a"}
    first, warnings = restored(tmp_path, abstract)
    assert int(first.step) == 0 and not warnings
    assert jax.tree.structure(first) == jax.tree.structure(state) and same(first.params, at(state, 3).params)
    assert same(first.opt_state, state.opt_state)
    assert jax.tree.map(lambda x: x.sharding, first) == jax.tree.map(lambda x: x.sharding, abstract)


def test_the_frozen_reference_of_a_run_that_begins_with_parameters_is_a_copy_of_theirs(tmp_path):
    mesh = make_mesh(config().mesh, jax.devices()[:1])
    abstract = abstract_state(config(), FAMILY, mesh)
    params = at(init_state(config(), FAMILY, abstract), 3).params
    first = complete(config(), FAMILY, abstract, 0, {"params": params})
    assert same(first.frozen, {"encoder": params["encoder"]})
    pointer = lambda x: x.unsafe_buffer_pointer()
    kept = {pointer(x) for x in jax.tree.leaves(first.params)}
    assert kept.isdisjoint(pointer(x) for x in jax.tree.leaves(first.frozen))


def test_a_checkpoint_of_a_run_that_lost_its_optimizer_is_damaged(tmp_path):
    abstract, _ = written(tmp_path, steps=(2,))
    shutil.rmtree(tmp_path / "checkpoints" / "2" / "opt_state")
    with pytest.raises(CheckpointError, match="opt_state"):
        restored(tmp_path, abstract)


def test_a_new_workdir_has_nothing_to_restore(tmp_path):
    abstract, _ = setup(config())
    assert restored(tmp_path, abstract) == (None, [])


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_newest_checkpoint_is_named_and_the_older_one_taken(tmp_path, kind):
    abstract, state = written(tmp_path)
    DAMAGE[kind](tmp_path / "checkpoints" / "4")
    _, params = load_params(tmp_path, warn=lambda line: None)
    found, warnings = restored(tmp_path, abstract)
    assert same(found, at(state, 2))
    assert len(warnings) == 1
    assert str(tmp_path / "checkpoints" / "4") in warnings[0]
    assert (tmp_path / "checkpoints" / "4.damaged").is_dir()
    if kind != "values gone":  # of the optimizer, which generation does not read
        assert same(params, at(state, 2).params)


def test_the_step_of_a_damaged_checkpoint_can_be_written_again(tmp_path):
    abstract, state = written(tmp_path)
    truncate(tmp_path / "checkpoints" / "4")
    checkpoints = Checkpoints(tmp_path, config(), {}, lambda line: None)
    checkpoints.restore(abstract)
    checkpoints.save(at(state, 4), {})
    checkpoints.close()
    assert same(restored(tmp_path, abstract)[0], at(state, 4))


def test_no_good_checkpoint_is_an_error_that_says_why_of_each(tmp_path):
    abstract, _ = written(tmp_path)
    for step in ("2", "4"):
        truncate(tmp_path / "checkpoints" / step)
    with pytest.raises(CheckpointError) as error:
        restored(tmp_path, abstract)
    assert str(tmp_path / "checkpoints" / "2") in str(error.value)
    assert str(tmp_path / "checkpoints" / "4") in str(error.value)


def test_missing_extra_and_misshapen_leaves_are_all_named(tmp_path):
    abstract, _ = written(tmp_path)
    params = jax.tree.map(lambda x: x, abstract.params)
    patch, sharding = params["encoder"]["patch"], abstract.step.sharding
    patch["kernel"] = jax.ShapeDtypeStruct((8, 32), jnp.float32, sharding=sharding)
    patch["gain"] = jax.ShapeDtypeStruct((16,), jnp.float32, sharding=sharding)
    del patch["bias"]
    with pytest.raises(CheckpointError) as error:
        restored(tmp_path, dataclasses.replace(abstract, params=params))
    message = str(error.value)
    assert "params/encoder/patch/kernel is float32[8,16], expected float32[8,32]" in message
    assert "params/encoder/patch/gain is missing, expected float32[16]" in message
    assert "params/encoder/patch/bias float32[16] is not expected" in message


def test_another_format_is_an_error_and_not_taken_for_damage(tmp_path):
    abstract, _ = written(tmp_path)
    meta = tmp_path / "checkpoints" / "4" / "meta" / "metadata"
    meta.write_text(meta.read_text().replace('"format": 1', '"format": 99').replace('"format":1', '"format": 99'))
    with pytest.raises(CheckpointError, match="format 99"):
        restored(tmp_path, abstract)


def test_what_was_not_finished_is_not_found_and_is_cleared_away(tmp_path):
    abstract, state = written(tmp_path)
    folder = tmp_path / "checkpoints"
    shutil.copytree(folder / "4", folder / "6.orbax-checkpoint-tmp")
    shutil.copytree(folder / "4", folder / "1.removed")
    assert load_params(tmp_path)[0]["seed"] == 66
    assert same(restored(tmp_path, abstract)[0], at(state, 4))
    assert sorted(path.name for path in folder.iterdir()) == ["2", "4"]


def test_the_newest_the_regular_and_the_best_stay():
    cfg = dataclasses.replace(config().checkpoint, keep_last=2, keep_every=10, best_metric="loss", keep_best=1)
    metrics = {5: {"loss": 1.0}, 10: {"loss": 9.0}, 15: {"loss": 2.0}, 20: {}, 25: {"loss": 3.0}, 30: {}, 35: {}}
    assert kept_steps(metrics, cfg) == {5, 10, 20, 30, 35}
    assert kept_steps(metrics, dataclasses.replace(cfg, best_metric="", keep_every=0)) == {30, 35}


def test_only_what_should_stay_is_on_disk(tmp_path):
    cfg = config(checkpoint={"keep_last": 1, "keep_every": 4, "best_metric": "square"})
    abstract, state = written(tmp_path, (2, 3, 4, 5, 6), cfg, (0.5, 0.1, 0.4, 0.3, 0.2))
    assert steps_in(tmp_path / "checkpoints") == [3, 4, 6]
    config_dict, params = load_params(tmp_path, "best")
    assert same(params, at(state, 3).params)
    assert config_dict["checkpoint"]["best_metric"] == "square"
    assert same(load_params(tmp_path, 4)[1], at(state, 4).params)
    assert same(restored(tmp_path, abstract, cfg)[0], at(state, 6))


def test_a_step_that_is_not_there_is_an_error_that_lists_those_that_are(tmp_path):
    with pytest.raises(CheckpointError, match="has no checkpoint; it has none"):
        load_params(tmp_path)
    written(tmp_path)
    with pytest.raises(CheckpointError, match=r"step 3; it has \[2, 4\]"):
        load_params(tmp_path, 3)
    with pytest.raises(CheckpointError, match=r"none has the metric"):
        load_params(tmp_path, "best")


def test_the_tokenizer_travels_with_the_checkpoint(tmp_path):
    written(tmp_path)
    assert load_tokenizer(tmp_path) == {"vocab.txt": b"\x00a\nb"}


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.int32, jnp.int8, jnp.bool_])
def test_the_fingerprint_sees_one_changed_swapped_or_zeroed_value(dtype):
    one, zero = jnp.ones((), dtype), jnp.zeros((), dtype)
    x = (jax.random.normal(jax.random.PRNGKey(0), (3, 5, 7)) * 50).astype(dtype)
    x = x.at[1, 1, 1].set(one).at[1, 1, 2].set(zero)
    swapped = x.at[1, 1, 1].set(x[1, 1, 2]).at[1, 1, 2].set(x[1, 1, 1])
    variants = [x, x.at[1, 1, 1].set(zero), swapped, x.at[1].set(zero)]
    prints = [fingerprints({"x": variant})["x"] for variant in variants]
    assert len(set(prints)) == len(prints)
    assert prints[0] == fingerprints({"x": np.asarray(x)})["x"]
