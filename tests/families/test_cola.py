"""Stage 2, switch by switch: what reaches the encoder, what is drawn, what is trained.

Axes: B rows, N latents, C channels, S latents per block.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import batch_of, close, normal, packed, parameters, replace
from tiny import config as tiny_config

from cola_jax.config import RunConfig
from cola_jax.diffusion import path
from cola_jax.families import FAMILIES, cola, vae_terms
from cola_jax.models.text_vae import to_prior
from cola_jax.train.state import reference

B, N, S = 4, 16, 4
MODES = ("none", "input", "input_and_target")


def config(**changes):
    return tiny_config(dit__num_layers=1, vae__encoder_blocks=1, vae__decoder_blocks=1, **changes)


@pytest.fixture(scope="module")
def cfg():
    return config(flow__known_prefix_probability=0.5)


@pytest.fixture(scope="module")
def params(cfg):
    return parameters(cfg)


@pytest.fixture(scope="module")
def flow(cfg, params):
    """For each way of encoder_gradient: (z0, weights, known) -> (v, gradient of the summed errors to z0)."""
    noise = {"z1": normal(1, B, N, 4), "t": jnp.full((B, 1), 0.5)}
    place = jnp.tile(jnp.arange(N), (B, 1))

    def of(mode):
        chosen = replace(cfg, flow__encoder_gradient=mode)

        @jax.jit
        def run(z0, weights, known):
            def errors(z0):
                where = vae_terms.LatentPositions(place, None, weights)
                return cola.flow_matching(chosen, params, z0, noise | {"known": known}, where)[::-1]

            gradient, v = jax.grad(errors, has_aux=True)(z0)
            return v, gradient

        return run

    return noise, {mode: of(mode) for mode in MODES}


ALL, NONE_KNOWN = jnp.ones((B, N)), jnp.zeros((B, N), bool)


def test_flow_matching_reaches_the_encoder_as_the_switch_says(flow):
    noise, run = flow
    z0 = normal(0, B, N, 4)
    found = {mode: run[mode](z0, ALL, NONE_KNOWN) for mode in MODES}
    close(found["none"][0], found["input_and_target"][0])
    assert not np.asarray(found["none"][1]).any()
    assert np.abs(found["input"][1]).max() > 1e-2
    through_target = 2.0 * (found["none"][0] - path.velocity_target(z0, noise["z1"])) / 4  # d(v - z1 + z0)^2 / dz0
    close(found["input_and_target"][1] - found["input"][1], through_target, atol=1e-4)


@pytest.mark.parametrize("mode", ["input", "input_and_target"])
def test_a_block_sends_no_gradient_to_its_history(flow, mode):
    own = jnp.zeros((B, N)).at[:, 2 * S : 3 * S].set(1.0)
    gradient = np.asarray(flow[1][mode](normal(0, B, N, 4), own, NONE_KNOWN)[1])
    assert not np.delete(gradient, slice(2 * S, 3 * S), axis=1).any()
    assert np.all(np.abs(gradient[:, 2 * S : 3 * S]).max(-1) > 1e-4)


def test_a_block_reads_its_history_though_no_gradient_goes_there(flow):
    z0 = normal(0, B, N, 4)
    one = flow[1]["input"](z0, ALL, NONE_KNOWN)[0]
    other = flow[1]["input"](z0.at[:, 0].add(1.0), ALL, NONE_KNOWN)[0]
    assert np.all(np.abs(one - other).max((0, 2))[S:] > 1e-3)


def test_known_latents_are_clean_input_outside_the_loss_and_get_no_gradient(flow):
    known = NONE_KNOWN.at[:, S : S + 2].set(True)
    z0 = normal(0, B, N, 4)
    v, gradient = flow[1]["input_and_target"](z0, ALL, known)
    assert not np.asarray(gradient)[:, S : S + 2].any()
    assert np.all(np.abs(gradient)[:, S + 2 :].max(-1) > 1e-5)
    v_other, _ = flow[1]["input_and_target"](z0.at[:, S].add(1.0), ALL, known)
    assert np.all(np.abs(v - v_other).max((0, 2))[S:] > 1e-3)
    np.testing.assert_array_equal(cola.flow_weights(ALL, known), 1.0 - known)


# --- the whole loss --------------------------------------------------------------------------------------------------


def drawn(cfg, batch=None, step=0):
    batch = batch_of(cfg) if batch is None else batch
    noise, counts = FAMILIES[cfg.family].objective.draw(cfg, batch, jax.random.PRNGKey(3), step)
    return batch, noise, counts


@functools.cache
def compiled_loss(cfg):
    family = FAMILIES[cfg.family]
    return jax.jit(lambda p, frozen, *drawn: family.objective.loss(cfg, p, frozen, *drawn, 0))


@functools.cache
def compiled_gradient(cfg):
    family = FAMILIES[cfg.family]
    value = lambda p, fixed, frozen, *drawn: family.objective.loss(cfg, fixed | p, frozen, *drawn, 0)
    return jax.jit(jax.value_and_grad(value, has_aux=True))


def loss_of(cfg, params, batch, noise, counts):
    return compiled_loss(cfg)(params, {}, batch, noise, counts)


def gradient_of(cfg, params, frozen=None, only=("encoder",)):
    free, fixed = ({g: p for g, p in params.items() if (g in only) == chosen} for chosen in (True, False))
    return compiled_gradient(cfg)(free, fixed, frozen or {}, *drawn(cfg))


def largest(tree):
    return max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize(("mode", "reaches"), [("none", False), ("input", True)])
def test_the_flow_term_alone_trains_the_encoder_only_if_told_so(cfg, params, mode, reaches):
    alone = replace(cfg, flow__encoder_gradient=mode, objective__vae_weight=0.0)
    (value, _), gradient = gradient_of(alone, params, only=("encoder", "decoder"))
    assert value > 0.1
    assert (largest(gradient["encoder"]) > 1e-4) == reaches
    assert largest(gradient["decoder"]) == 0.0


def test_the_reference_term_is_0_at_the_start_and_pulls_back_after_a_move(params):
    cfg = config(objective__reference_weight=1.0, objective__vae_from="'w'", objective__vae_weight=0.0,
                 objective__flow_weight=0.0)  # fmt: skip
    frozen = reference(cfg, cola.FAMILY, params)
    assert set(frozen) == {"encoder"}
    (start, sums), gradient = gradient_of(cfg, params, frozen)
    assert abs(float(sums["reference_kl"])) < 1e-3 and abs(float(start)) < 1e-4
    assert largest(gradient) < 1e-3
    away = params | {"encoder": jax.tree.map(lambda leaf: leaf * 1.1, params["encoder"])}
    (moved, sums), gradient = gradient_of(cfg, away, frozen)
    assert moved > 1e-2 and float(sums["reference_kl"]) > 1.0
    assert largest(gradient) > 1e-2


def test_no_gradient_goes_to_the_reference(params):
    cfg = config(objective__reference_weight=1.0, objective__vae_from="'w'")
    batch, noise, counts = drawn(cfg)
    other = {"encoder": jax.tree.map(lambda leaf: leaf * 1.1, params["encoder"])}
    value = lambda frozen: cola.loss(cfg, params, frozen, batch, noise, counts, 0)[0]
    assert largest(jax.jit(jax.grad(value))(other)) == 0.0


def test_a_run_without_the_reference_term_keeps_no_reference(cfg, params):
    assert reference(cfg, cola.FAMILY, params) == {}


def test_the_mask_loss_can_be_left_out_and_then_nothing_is_masked(cfg, params):
    off = replace(cfg, objective__mask_weight=0.0)
    batch, noise, counts = drawn(off)
    assert "masked" not in noise and "masked" not in counts
    value, sums = loss_of(off, params, batch, noise, counts)
    on = drawn(cfg)
    with_mask, sums_on = loss_of(cfg, params, *on)
    assert "mask" not in sums and "mask" in cola.summarize(cfg, sums_on)
    close(sums["reconstruction"], sums_on["reconstruction"], atol=1e-3)
    expected = float(value) + cfg.objective.mask_weight * float(sums_on["mask"] / on[2]["masked"])
    np.testing.assert_allclose(with_mask, expected, rtol=1e-5)


def test_shift_and_scale_change_what_the_prior_sees_and_nothing_of_the_vae(cfg, params):
    arguments = drawn(cfg)
    _, sums = loss_of(cfg, params, *arguments)
    _, plain = loss_of(replace(cfg, vae__latent_shift=0.0, vae__latent_scale=1.0), params, *arguments)
    close(sums["reconstruction"], plain["reconstruction"], atol=1e-3)
    assert abs(float(sums["flow_matching"] - plain["flow_matching"])) > 0.1
    assert float(to_prior(cfg.vae, jnp.zeros(()))) == -0.25 * 1.5


def test_two_tokens_a_latent_halve_the_latents_and_are_still_nats_a_token():
    cfg = config(vae__patch_size=2, data__packing="best_fit")
    params, batch = parameters(cfg), packed(cfg, (8,))
    batch, noise, counts = drawn(cfg, batch)
    assert noise["z1"].shape == (B, N // 2, 4)
    assert (float(counts["tokens"]), float(counts["latents"]), float(counts["flow"])) == (32.0, 16.0, 16.0)
    _, sums = loss_of(cfg, params, batch, noise, counts)
    terms = vae_terms.per_token(cfg, sums, counts)
    np.testing.assert_allclose(terms["kl"], sums["kl"] / 32.0)
    np.testing.assert_allclose(terms["reconstruction"], sums["reconstruction"] / 32.0)


def test_padding_moves_neither_the_loss_nor_its_counts():
    cfg = config(data__packing="best_fit")
    params, batch = parameters(cfg), packed(cfg, (8, 4))
    _, noise, counts = drawn(cfg, batch)
    other = batch | {"tokens": np.where(batch["segments"] > 0, batch["tokens"], (batch["tokens"] + 1) % 13)}
    run = lambda batch: loss_of(cfg, params, batch, noise, counts)
    close(run(batch), run(other))
    assert float(counts["tokens"]) == 4 * 12.0
    inside = batch | {"tokens": np.where(batch["segments"] == 2, (batch["tokens"] + 1) % 13, batch["tokens"])}
    assert abs(float(run(batch)[0] - run(inside)[0])) > 1e-3


# --- what is drawn ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fields", [{}, {"flow__time_per": "block", "flow__known_prefix_probability": 0.5}])
def test_the_noise_of_a_row_depends_on_its_index_alone(fields):
    cfg = config(**fields)
    batch = batch_of(cfg)
    _, whole, _ = drawn(cfg, batch)
    some = [3, 1]
    part = {name: leaf[some] for name, leaf in batch_of(cfg, seed=9).items()}
    _, again, _ = drawn(cfg, part)
    close(jax.tree.map(lambda leaf: leaf[np.array(some)].astype(jnp.float32), whole),
          jax.tree.map(lambda leaf: leaf.astype(jnp.float32), again), atol=0, rtol=0)  # fmt: skip
    for name, leaf in whole.items():
        if name != "known":
            assert len(np.unique(np.asarray(leaf).reshape(B, -1), axis=0)) == B, f"{name}: rows draw alike"


def test_every_use_draws_for_itself_and_every_key_differently(cfg):
    batch, noise, _ = drawn(cfg)
    other, _ = cola.draw(cfg, batch, jax.random.PRNGKey(4), 0)
    assert all(np.any(np.asarray(noise[name]) != np.asarray(other[name])) for name in noise)
    draws = [np.asarray(noise[name]) for name in ("posterior", "posterior_masked", "z1")]
    assert all(np.abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 0.25 for a, b in zip(draws, draws[1:]))


@pytest.mark.parametrize(("per", "times"), [("sample", 1), ("block", 4)])
def test_times_are_drawn_for_samples_or_blocks(cfg, per, times):
    _, noise, _ = drawn(replace(cfg, flow__time_per=per))
    assert noise["t"].shape == (B, times)
    assert len(np.unique(noise["t"])) == B * times


def test_without_known_prefixes_every_latent_is_in_the_loss():
    _, noise, counts = drawn(config(flow__known_prefix_probability=0.0))
    assert "known" not in noise and float(counts["flow"]) == B * N


def test_only_tokens_of_a_document_are_masked():
    cfg = config(data__packing="best_fit", objective__mask_rate=1.0)
    batch = packed(cfg, (8,))
    _, noise, counts = drawn(cfg, batch)
    np.testing.assert_array_equal(noise["masked"], batch["weights"] > 0)
    assert float(counts["masked"]) == 4 * 8.0


# --- what is trained -------------------------------------------------------------------------------------------------

EVERYTHING, PRIOR = ("encoder", "decoder", "dit"), ("dit",)


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("fixed", [PRIOR] * 8),
        ("joint", [EVERYTHING] * 8),
        ("scratch", [EVERYTHING] * 8),
        ("interval", [EVERYTHING, EVERYTHING, PRIOR, PRIOR, PRIOR] * 2),
    ],
)
def test_the_latent_policy_says_which_groups_a_step_trains(policy, expected):
    cfg = replace(RunConfig(), objective__latent_policy=policy, objective__interval_period=5,
                  objective__interval_joint=2)  # fmt: skip
    assert [cola.training(cfg, step).groups for step in range(len(expected))] == expected


def test_the_vae_learns_at_its_own_rate():
    cfg = replace(RunConfig(), objective__vae_lr_ratio=0.01)
    assert cola.training(cfg, 0).rates == {"encoder": 0.01, "decoder": 0.01, "dit": 1.0}


def test_both_stages_start_from_the_same_vae(cfg):
    stage_1 = dataclasses.replace(cfg, family="text_vae")
    key = jax.random.PRNGKey(0)
    both = jax.jit(lambda: (FAMILIES["text_vae"].objective.init(stage_1, key), cola.init(cfg, key)))
    first, second = both()
    assert set(first) == {"encoder", "decoder"} and set(second) == {"encoder", "decoder", "dit"}
    close(first, {group: second[group] for group in first}, atol=0, rtol=0)
    drawn = [leaf for path, leaf in jax.tree_util.tree_leaves_with_path(second) if path[-1].key == "kernel"]
    kernels = [layer.ravel()[:8] for leaf in drawn for layer in (leaf if leaf.ndim == 3 else [leaf])]
    assert len({tuple(np.asarray(kernel).tolist()) for kernel in kernels}) == len(kernels), "two kernels drawn alike"


def test_every_family_stands_in_the_table_under_its_name():
    assert {name: family.name for name, family in FAMILIES.items()} == {name: name for name in FAMILIES}
    for family in FAMILIES.values():
        cfg = config(family=family.name)
        assert set(family.groups) == set(
            jax.eval_shape(lambda f=family, c=cfg: f.objective.init(c, jax.random.PRNGKey(0)))
        )
        assert set(family.training(cfg, 0).groups) <= set(family.groups) == set(family.training(cfg, 0).rates)
    assert FAMILIES["text_vae"].generator is None
