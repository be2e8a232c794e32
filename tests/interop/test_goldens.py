"""The published PyTorch code's numbers on random small models in the released format (SPEC 9)."""

import itertools
import json
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cola_jax.config import ComputeConfig, RunConfig, SamplingConfig
from cola_jax.diffusion import path
from cola_jax.families import cola, vae_terms
from cola_jax.interop import released
from cola_jax.interop.golden_rope import golden_rope
from cola_jax.models import build

GOLDENS = Path(__file__).parents[1] / "data" / "goldens"
CLOSE = {"atol": 1e-4, "rtol": 0.0}
CLOSE_AFTER_SAMPLING = {"atol": 1e-3, "rtol": 0.0}
GENERATIONS = [("base", 0), ("base", 1), ("block16", 0), ("patch2", 0)]


class Golden(NamedTuple):
    cfg: RunConfig
    params: dict
    cases: dict

    def numbers(self, name):
        """0, 1, ... as far as the cases go."""
        return itertools.takewhile(lambda i: f"{name}.{i}" in self.cases, itertools.count())


def load(name):
    folder = GOLDENS / name
    vae, dit = released.read_vae_config(folder / "cola_vae"), released.read_dit_config(folder / "cola_dit")
    params = released.read_vae(folder / "cola_vae", vae) | released.read_dit(folder / "cola_dit", dit)
    cfg = RunConfig(vae=vae, dit=dit, compute=ComputeConfig(dtype="float32", attention_chunks=2))
    return Golden(cfg, jax.tree.map(jnp.asarray, params), dict(np.load(folder / "cases.npz")))


@pytest.fixture(scope="module")
def goldens():
    return {name: load(name) for name in ("base", "block16", "patch2")}


@pytest.fixture(params=["base", "block16", "patch2"])
def golden(request, goldens):
    return goldens[request.param]


def stacked(golden, name):
    """All cases of `name` as one batch: zeros behind the shorter ones, which block-causal networks cannot see.

    Returns (B, longest, ...) and the length of each.
    """
    rows = [golden.cases[f"{name}.{i}"] for i in golden.numbers(name)]
    longest = max(map(len, rows))
    padded = [np.pad(row, [(0, longest - len(row))] + [(0, 0)] * (row.ndim - 1)) for row in rows]
    return jnp.asarray(np.stack(padded)), [len(row) for row in rows]


def check(golden, found, name, **bounds):
    for i in golden.numbers(name):
        expected = golden.cases[f"{name}.{i}"]
        np.testing.assert_allclose(found[i, : len(expected)], expected, **bounds)


def positions(rows, latents):
    return jnp.tile(jnp.arange(latents), (rows, 1))


def test_the_encoder_gives_the_published_posteriors(golden):
    ids, _ = stacked(golden, "vae.ids")
    place = positions(len(ids), ids.shape[1] // golden.cfg.vae.patch_size)
    posterior = jax.jit(build.encoder(golden.cfg).apply)({"params": golden.params["encoder"]}, ids, place, None)
    check(golden, posterior.mean, "vae.mean", **CLOSE)
    check(golden, posterior.logvar, "vae.logvar", **CLOSE)


def test_the_decoder_gives_the_published_logits(golden):
    mean, _ = stacked(golden, "vae.mean")
    place = positions(*mean.shape[:2])
    logits = jax.jit(build.decoder(golden.cfg).apply)({"params": golden.params["decoder"]}, mean, place, None)
    check(golden, logits, "vae.logits", **CLOSE)


def test_the_dit_gives_the_published_velocities_at_a_time_for_each_position(golden):
    z, _ = stacked(golden, "dit.z")
    t, _ = stacked(golden, "dit.t")
    place = positions(*z.shape[:2])
    v = jax.jit(build.dit(golden.cfg).apply)({"params": golden.params["dit"]}, z, t / 1000.0, place, None)
    check(golden, v, "dit.v", **CLOSE)


def test_the_training_loss_gives_the_published_velocities_and_loss(golden):
    (z0, lengths), (z1, _), (mask, _) = (stacked(golden, f"fm.{name}") for name in ("z0", "z1", "loss_mask"))
    real = jnp.arange(z0.shape[1]) < jnp.asarray(lengths)[:, None]
    known = (stacked(golden, "fm.tpos")[0] == 0) & real
    where = vae_terms.Layout(positions(*z0.shape[:2]), None, real.astype(jnp.float32))
    t = jnp.stack([golden.cases[f"fm.t.{i}"] for i in golden.numbers("fm.t")])[:, None]
    noise = {"z1": z1, "t": t, "known": known}
    v, errors = jax.jit(lambda p, *args: cola.flow_matching(golden.cfg, p, *args))(golden.params, z0, noise, where)
    check(golden, v, "fm.v", **CLOSE)
    np.testing.assert_array_equal(cola.flow_weights(where.weights, known), mask.astype(jnp.float32))
    np.testing.assert_allclose(errors / mask.sum(), golden.cases["fm.loss"], **CLOSE)


def test_the_path_gives_the_published_points_and_targets(golden):
    for i in golden.numbers("fm.z0"):
        z0, z1, t = (golden.cases[f"fm.{name}.{i}"] for name in ("z0", "z1", "tpos"))
        np.testing.assert_allclose(path.interpolate(z0, z1, t[:, None] / 1000.0), golden.cases[f"fm.zt.{i}"], **CLOSE)
        np.testing.assert_allclose(path.velocity_target(z0, z1), golden.cases[f"fm.target.{i}"], **CLOSE)


@pytest.mark.parametrize(("name", "number"), GENERATIONS)
def test_generation_gives_the_published_latents_logits_and_tokens(goldens, name, number):
    golden = goldens[name]
    case = {key.split(".", 1)[1]: value for key, value in golden.cases.items() if key.startswith(f"gen{number}.")}
    prompts = [case[f"prompt.{i}"].tolist() for i in range(sum(key.startswith("prompt.") for key in case))]
    lengths = lambda cases: [len(golden.cases[f"{cases}.{i}"]) for i in golden.numbers(cases)]
    sampling = SamplingConfig(
        steps=int(case["steps"]), guidance=float(case["cfg"]), repetition_penalty=float(case["rp"]), temperature=0.0
    )
    span = golden.cfg.dit.block_size * golden.cfg.vae.patch_size
    count = -(-int(case["max_new_tokens"]) // span)
    written = cola.generate(
        RunConfig(vae=golden.cfg.vae, dit=golden.cfg.dit, compute=golden.cfg.compute, sampling=sampling),
        golden.params, prompts, noise=case["noise"], blocks=count, pad_id=int(case["pad"]),
        rope=golden_rope(lengths("dit.z"), lengths("fm.z0")),
    )  # fmt: skip
    tokens = [[] for _ in prompts]
    for index, (rows, block) in enumerate(written):
        np.testing.assert_allclose(block.latents, case["latents"][index], **CLOSE_AFTER_SAMPLING)
        np.testing.assert_allclose(block.logits, case["logits"][index], **CLOSE_AFTER_SAMPLING)
        tokens = [row + new for row, new in zip(tokens, rows)]
    assert index == count - 1
    assert tokens == [case[f"tokens.{i}"].tolist() for i in range(len(prompts))]


def test_every_published_generation_is_tested(goldens):
    found = [(name, int(key[3])) for name in goldens for key in goldens[name].cases if key.endswith(".steps")]
    assert sorted(found) == sorted(GENERATIONS)


def test_a_released_config_carries_the_sizes_of_the_model(goldens):
    raw = json.loads((GOLDENS / "patch2" / "cola_vae" / "config.json").read_text())
    vae = goldens["patch2"].cfg.vae
    assert (vae.patch_size, vae.num_heads, vae.latent_dim) == (2, 3, 12)
    assert (vae.ffn_dim, vae.decoder_blocks, vae.vocab_size) == (raw["ffn_dim"], raw["decoder_num_blocks"], 89)
    assert goldens["base"].cfg.dit.rope_dim == 12
