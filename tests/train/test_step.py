import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from toy_family import FAMILY, HELDOUT, batch_of, config

from cola_jax.parallel.hosts import batch_putter
from cola_jax.parallel.mesh import MeshError, make_mesh
from cola_jax.train import optimizer
from cola_jax.train.state import abstract_state, init_state
from cola_jax.train.step import eval_step, evaluate, train_step


def setup(cfg):
    """Returns the mesh, the abstract and the first state, and a function that places batches."""
    mesh = make_mesh(cfg.mesh, jax.devices()[:1])
    abstract = abstract_state(cfg, FAMILY, mesh)
    return mesh, abstract, init_state(cfg, FAMILY, abstract), batch_putter(mesh, cfg.train.batch_size)


def run(cfg, trained=("encoder", "dit"), steps=3, first=0):
    mesh, abstract, state, put = setup(cfg)
    update = train_step(cfg, FAMILY, trained, mesh, abstract)
    history = []
    for index in range(first, first + steps):
        state, metrics = update(state, put(batch_of(index)))
        history.append(jax.device_get(metrics))
    return jax.device_get(state), history


def same(a, b):
    leaves = list(zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))
    return bool(leaves) and all(np.array_equal(x, y) for x, y in leaves)


def test_accumulation_does_not_change_the_step():
    whole, whole_metrics = run(config(), steps=3)
    cut, cut_metrics = run(config(train={"accumulate": 4}), steps=3)
    for a, b in zip(jax.tree.leaves(whole.params), jax.tree.leaves(cut.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)
    for a, b in zip(whole_metrics, cut_metrics, strict=True):
        for name in a:
            np.testing.assert_allclose(a[name], b[name], rtol=1e-5, atol=1e-6, err_msg=name)


def test_accumulation_weighs_every_token_alike_whatever_its_microbatch():
    batch = batch_of(0)
    batch["weights"][::4] = 0.0  # the first microbatch of four counts nothing
    results = []
    for accumulate in (1, 4):
        cfg = config(train={"accumulate": accumulate})
        mesh, abstract, state, put = setup(cfg)
        results.append(train_step(cfg, FAMILY, ("encoder", "dit"), mesh, abstract)(state, put(batch))[1])
    np.testing.assert_allclose(results[0]["grad_norm"], results[1]["grad_norm"], rtol=1e-5)


def test_every_step_draws_its_own_noise_and_a_repeated_step_the_same():
    cfg = config(optimizer={"learning_rate": 1e-30, "initial_learning_rate": 0.0, "weight_decay": 0.0})
    mesh, abstract, state, put = setup(cfg)
    update = train_step(cfg, FAMILY, ("encoder", "dit"), mesh, abstract)
    seen = []
    for _ in range(2):
        state, metrics = update(state, put(batch_of(0)))
        seen.append(float(metrics["loss"]))
    again = setup(cfg)[2]
    assert seen[0] != seen[1]
    assert seen[0] == float(update(again, put(batch_of(0)))[1]["loss"])


def test_groups_that_a_step_does_not_train_keep_parameters_and_moments():
    cfg = config(policy="interval")
    mesh, abstract, state, put = setup(cfg)
    state, _ = train_step(cfg, FAMILY, ("encoder", "dit"), mesh, abstract)(state, put(batch_of(0)))
    before = jax.device_get(state)
    state, metrics = train_step(cfg, FAMILY, ("dit",), mesh, abstract)(state, put(batch_of(1)))
    after = jax.device_get(state)
    assert same(before.params["encoder"], after.params["encoder"])
    assert same(before.opt_state["encoder"], after.opt_state["encoder"])
    assert not same(before.params["dit"], after.params["dit"])
    assert int(before.opt_state["dit"].count) + 1 == int(after.opt_state["dit"].count)
    assert "grad_norm/encoder" not in metrics


def test_groups_that_are_never_trained_have_no_moments():
    assert optimizer.ever_trained(config(policy="fixed"), FAMILY) == ("dit",)
    assert optimizer.ever_trained(config(policy="interval"), FAMILY) == ("encoder", "dit")
    mesh, abstract, state, _ = setup(config(policy="fixed"))
    assert list(state.opt_state) == ["dit"]
    with pytest.raises(ValueError, match="encoder"):
        train_step(config(policy="fixed"), FAMILY, ("encoder",), mesh, abstract)


def test_frozen_parameters_stay_as_they_began():
    first = jax.device_get(setup(config())[2])
    state, _ = run(config())
    assert same(first.params["encoder"], state.frozen["encoder"])
    assert not same(state.params["encoder"], state.frozen["encoder"])


def test_the_update_is_adamw_after_a_clip_over_all_trained_groups():
    cfg = config(optimizer={"clip_norm": 0.5, "weight_decay": 0.1})
    opt = cfg.optimizer
    ratio = {"encoder": 0.5, "dit": 1.0}
    params = {group: {"w": jnp.arange(3.0) + 1} for group in ratio}
    grads = {"encoder": {"w": jnp.array([1.0, -2.0, 3.0])}, "dit": {"w": jnp.array([0.5, 0.5, -4.0])}}
    opt_state = {group: optimizer.directions(opt).init(params[group]) for group in params}
    chains = {
        group: optax.chain(
            optax.adamw(
                lambda step, r=ratio[group]: r * optimizer.schedule(opt, 8)(step),
                opt.b1,
                opt.b2,
                opt.eps,
                weight_decay=0.1,
            )
        )
        for group in ratio
    }
    expected, expected_state = params, {group: chains[group].init(params[group]) for group in ratio}
    for step in range(3):
        params, opt_state, stats = optimizer.update(cfg, FAMILY, grads, opt_state, params, step)
        clipped = optax.clip_by_global_norm(0.5).update(grads, optax.EmptyState())[0]
        for group in ratio:
            change, expected_state[group] = chains[group].update(clipped[group], expected_state[group], expected[group])
            expected = {**expected, group: optax.apply_updates(expected[group], change)}
    np.testing.assert_allclose(stats["grad_norm"], optax.tree.norm(grads), rtol=1e-6)
    for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_the_learning_rate_warms_up_and_falls_to_its_final_value():
    cfg = dataclasses.replace(config().optimizer, warmup_steps=10, decay_steps=110, final_learning_rate=1e-3)
    rate = optimizer.schedule(cfg, 8)
    np.testing.assert_allclose(rate(0), cfg.initial_learning_rate, rtol=1e-3)
    np.testing.assert_allclose([rate(10), rate(60), rate(110), rate(500)], [1e-2, 5.5e-3, 1e-3, 1e-3], rtol=1e-5)
    constant = optimizer.schedule(dataclasses.replace(cfg, schedule="constant", warmup_steps=0), 8)
    np.testing.assert_allclose([constant(0), constant(500)], [1e-2, 1e-2])


@pytest.mark.parametrize("accumulate", [1, 4])
def test_a_step_that_is_not_finite_changes_nothing_but_its_number(accumulate):
    cfg = config(train={"accumulate": accumulate})
    mesh, abstract, state, put = setup(cfg)
    before = jax.device_get(state)
    broken = batch_of(0)
    broken["weights"][3, 2] = np.nan
    update = train_step(cfg, FAMILY, ("encoder", "dit"), mesh, abstract)
    state, metrics = update(state, put(broken))
    assert int(metrics["nonfinite"]) == 1
    assert same(dataclasses.replace(before, step=np.int32(1)), jax.device_get(state))
    state, metrics = update(state, put(batch_of(0)))
    assert int(metrics["nonfinite"]) == 0
    assert int(state.step) == 2


def test_evaluation_is_the_same_each_time_and_leaves_the_state_alone():
    cfg = config()
    mesh, abstract, state, put = setup(cfg)
    step = eval_step(cfg, FAMILY, mesh, abstract)
    first = evaluate(cfg, FAMILY, step, state, map(put, HELDOUT))
    assert first == evaluate(cfg, FAMILY, step, state, map(put, HELDOUT))
    assert set(first) == {"loss", "square"}
    with pytest.raises(ValueError, match="at least one batch"):
        evaluate(cfg, FAMILY, step, state, [])


def test_evaluation_weighs_batches_by_their_tokens():
    cfg = config()
    mesh, abstract, state, put = setup(cfg)
    step = eval_step(cfg, FAMILY, mesh, abstract)
    light = {**HELDOUT[1], "weights": HELDOUT[1]["weights"] * 0.0}
    light["weights"][0] = 1.0
    alone = [float(step(state, put(batch), jnp.int32(i))[2]["square"]) for i, batch in enumerate((HELDOUT[0], light))]
    both = evaluate(cfg, FAMILY, step, state, map(put, (HELDOUT[0], light)))
    np.testing.assert_allclose(both["square"], sum(alone) / (16 * 8 + 8), rtol=1e-6)


def test_given_groups_replace_drawn_ones_and_others_are_drawn_as_before():
    cfg = config()
    mesh, abstract, state, _ = setup(cfg)
    given = jax.tree.map(lambda x: np.asarray(x) + 1, state.params["encoder"])
    started = init_state(cfg, FAMILY, abstract, {"encoder": given})
    assert same(started.params["encoder"], given)
    assert same(started.frozen["encoder"], given)
    assert same(started.params["dit"], state.params["dit"])


def test_training_from_given_arrays_does_not_consume_them():
    cfg = config()
    mesh, abstract, state, put = setup(cfg)
    before = jax.device_get(state.params)
    started = init_state(cfg, FAMILY, abstract, state.params)
    train_step(cfg, FAMILY, ("encoder", "dit"), mesh, abstract)(started, put(batch_of(0)))
    assert same(state.params, before)


def test_given_groups_that_do_not_fit_are_named():
    cfg = config()
    _, abstract, _, _ = setup(cfg)
    wrong = {"encoder": {"patch": {"kernel": np.zeros((8, 3), np.float32), "gain": np.zeros(3, np.float32)}}}
    with pytest.raises(ValueError) as error:
        init_state(cfg, FAMILY, abstract, wrong)
    message = str(error.value)
    assert "encoder/patch/bias is missing" in message
    assert "encoder/patch/gain float32[3] is not expected" in message
    assert "encoder/patch/kernel is float32[8,3], expected float32[8,16]" in message


def test_a_batch_that_does_not_divide_is_refused_before_compiling():
    cfg = config(train={"batch_size": 18, "accumulate": 4})
    mesh, abstract, _, _ = setup(cfg)
    with pytest.raises(MeshError, match=r"train\.batch_size=18"):
        train_step(cfg, FAMILY, ("dit",), mesh, abstract)


def test_bf16_moments_are_kept_in_bf16_and_step_nearly_as_fp32_ones():
    exact, _ = run(config(), steps=4)
    rounded, _ = run(config(optimizer={"learning_rate": 1e-2, "moment_dtype": "bfloat16"}), steps=4)
    kept = {x.dtype.name for x in jax.tree.leaves(rounded.opt_state["dit"])}
    assert kept == {"bfloat16", "int32"}
    assert {x.dtype.name for x in jax.tree.leaves(rounded.params)} == {"float32"}
    first = jax.device_get(setup(config())[2]).params
    for a, b, c in zip(*(jax.tree.leaves(tree) for tree in (exact.params, rounded.params, first))):
        assert np.abs(a - b).max() < 0.05 * max(np.abs(a - c).max(), 1e-6)
