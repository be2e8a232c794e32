"""The counts against the paper's figures, the parameters, and what the compiler says of the same program."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import batch_of, config

from cola_jax.config import ComputeConfig, RunConfig
from cola_jax.families import FAMILIES
from cola_jax.models import pairs, visibility
from cola_jax.models.chunks import chunk_bounds
from cola_jax.parallel.chips import chip_of
from cola_jax.scaling import accounting
from cola_jax.train.state import reference

WIDE = {
    "vae__dim": 256, "vae__ffn_dim": 768, "vae__num_heads": 2, "vae__vocab_size": 1024, "vae__latent_dim": 16,
    "vae__encoder_blocks": 1, "vae__decoder_blocks": 1, "dit__dim": 256, "dit__num_layers": 2, "dit__num_heads": 2,
    "dit__head_dim": 128, "dit__rope_dim": 96, "dit__block_size": 16, "dit__expand_ratio": 4, "backbone__dim": 256,
    "backbone__ffn_dim": 768, "backbone__vocab_size": 1024, "backbone__num_heads": 2, "backbone__kv_heads": 1,
    "train__sequence_length": 128, "train__batch_size": 2, "compute__scan_layers": False, "compute__attention_chunks": 2,
}  # fmt: skip
CASES = {
    "stage 1": ("text_vae", {}),
    "joint, a time for each block": ("cola", {"flow__time_per": "block"}),
    "patches, no mask loss": ("cola", {"vae__patch_size": 2, "dit__block_size": 8, "objective__mask_weight": 0.0}),
    "fixed VAE": ("cola", {"objective__latent_policy": "fixed", "objective__vae_from": "W"}),
    "a reference": ("cola", {"objective__vae_from": "W", "objective__reference_weight": 0.1}),
    "ar": ("ar", {}),
    "llada": ("llada", {}),
    "plaid": ("plaid", {}),
}
QUICK_CASES = ("stage 1", "ar")


def compilers_flops(cfg):
    """FLOPs of loss and gradient of one batch, as XLA counts them."""
    family = FAMILIES[cfg.family]
    trained = family.training(cfg, 0).groups
    params = jax.eval_shape(lambda: family.objective.init(cfg, jax.random.PRNGKey(0)))

    def gradient(params, frozen, batch):
        noise, counts = family.objective.draw(cfg, batch, jax.random.PRNGKey(0), 0)
        loss = lambda free: family.objective.loss(cfg, {**params, **free}, frozen, batch, noise, counts, 0)
        return jax.value_and_grad(loss, has_aux=True)({group: params[group] for group in trained})

    frozen = reference(cfg, family, params)
    return jax.jit(gradient).lower(params, frozen, batch_of(cfg)).compile().cost_analysis()["flops"]


@pytest.mark.parametrize(
    "case", [case if case in QUICK_CASES else pytest.param(case, marks=pytest.mark.slow) for case in CASES]
)
def test_the_count_is_the_compilers_within_five_percent_where_nothing_is_rematerialised(case):
    name, changes = CASES[case]
    cfg = config(family=name, **(WIDE | changes))
    tokens = cfg.train.batch_size * cfg.train.sequence_length
    assert FAMILIES[name].objective.cost(cfg).total * tokens == pytest.approx(compilers_flops(cfg), rel=0.05)


def test_the_papers_axis_gives_its_figures():
    tokens = functools.partial(accounting.tokens_of, RunConfig())
    assert tokens(1) == 720_896
    assert accounting.paper_exaflops(tokens(10_000)) == pytest.approx(77.86, abs=0.005)
    assert accounting.paper_exaflops(tokens(15_000)) == pytest.approx(116.785, abs=0.005)
    assert accounting.paper_exaflops(tokens(256_900)) == pytest.approx(2000, rel=1e-4)


def test_parameters_by_group_are_those_of_the_published_sizes():
    assert FAMILIES["cola"].objective.cost(RunConfig()).params == {
        "encoder": 250_896_416, "decoder": 250_975_158, "dit": 1_829_875_728,
    }  # fmt: skip
    assert sum(FAMILIES["ar"].objective.cost(RunConfig(family="ar")).params.values()) == 2_222_790_656


def test_state_holds_parameters_moments_of_what_is_trained_and_the_reference():
    joint = {"objective__vae_from": "W", "objective__reference_weight": 0.1}
    cost = FAMILIES["cola"].objective.cost(config(**joint))
    assert cost.state_bytes == 4 * (3 * sum(cost.params.values()) + cost.params["encoder"])
    fixed = FAMILIES["cola"].objective.cost(config(objective__latent_policy="fixed", objective__vae_from="W"))
    assert fixed.state_bytes == 4 * (sum(fixed.params.values()) + 2 * fixed.params["dit"])


def test_an_interval_costs_the_mean_of_its_steps():
    cost = lambda **changes: FAMILIES["cola"].objective.cost(config(objective__vae_from="W", **changes))
    unmasked = {"objective__mask_weight": 0.0}  # a fixed VAE decodes no masked rows
    joint, fixed = cost(**unmasked), cost(objective__latent_policy="fixed")
    policy = {"objective__latent_policy": "interval", "objective__interval_period": 4, "objective__interval_joint": 1}
    interval = cost(**policy, **unmasked)
    assert interval.total == pytest.approx(0.25 * joint.total + 0.75 * fixed.total)
    assert interval.state_bytes == joint.state_bytes


@pytest.mark.parametrize("length,block,chunks", [(16, 4, 2), (16, 1, 3), (24, 4, 8), (8, 8, 4)])
def test_pairs_are_those_of_the_pattern_and_of_the_chunks(length, block, chunks):
    q, k = np.arange(length)[:, None] // block, np.arange(length)[None, :] // block
    past = k < length // block - 1
    patterns = {
        pairs.block_causal: visibility.block_causal(q, k).sum(),
        pairs.noisy: (visibility.earlier_block(q, k) & past).sum() + visibility.same_block(q, k).sum(),
        pairs.clean: (visibility.block_causal(q, k) & past & past.T).sum(),
    }
    for pattern, live in patterns.items():
        found = pattern(length, block, ComputeConfig(attention_chunks=chunks))
        assert found.live == live
        assert found.computed >= live
        assert (
            pattern(length, block, ComputeConfig(attention_chunks=length)).computed == live
        )  # a chunk for each block computes nothing in vain
    wide = chunk_bounds(length, block, 1)
    assert (
        wide == [(0, length)]
        and pairs.block_causal(length, block, ComputeConfig(attention_chunks=1)).computed == length**2
    )


class Device:
    def __init__(self, kind, cores=1):
        self.device_kind, self.num_cores = kind, cores


def test_mfu_is_the_useful_share_of_all_peaks():
    chip = chip_of(Device("TPU v5", 2))
    assert chip.flops == 459e12
    assert chip_of(Device("TPU v4", 2)).flops == 2 * chip_of(Device("TPU v4", 1)).flops == 275e12
    assert chip_of(jax.devices("cpu")[0]) is None
    cost = FAMILIES["cola"].objective.cost(config(compute__attention_chunks=1))
    assert 0 < cost.masked < cost.total and cost.useful == cost.total - cost.masked
    assert accounting.mfu(cost.useful, chip.flops / cost.useful, 2 * chip.flops) == 0.5


def test_a_run_says_what_it_costs_on_both_axes():
    cfg = RunConfig()
    said = accounting.describe(cfg, FAMILIES["cola"].objective.cost(cfg))
    assert "2,331,747,302" in said and "7786 on the paper's axis" in said
    assert said.count("\n") == 2
    assert jnp.isfinite(FAMILIES["cola"].objective.cost(cfg).total)
