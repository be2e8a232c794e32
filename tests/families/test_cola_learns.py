"""Cola learns a small language in both stages: rows that repeat a word of four symbols, tested on words it has not seen.

Axes: B rows, L = 16 tokens, N latents.
"""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import batch_of, config

from cola_jax.families import FAMILIES
from cola_jax.families.rows import RowOptions
from cola_jax.models import build
from cola_jax.parallel.hosts import batch_putter
from cola_jax.parallel.mesh import make_mesh
from cola_jax.train.state import abstract_state, init_state
from cola_jax.train.step import train_step

pytestmark = pytest.mark.slow
SYMBOLS, PAD, ROWS = 5, 6, 32  # a guess is right once in five times
STEPS = {"text_vae": 60, "cola": 250}
WORDS = np.random.default_rng(0).permutation(list(itertools.product(range(SYMBOLS), repeat=4)))
HELDOUT, TRAINING = WORDS[:80], WORDS[80:]
SIZES = {
    "vae__vocab_size": 7, "vae__dim": 32, "vae__ffn_dim": 48, "vae__encoder_blocks": 1, "vae__decoder_blocks": 1,
    "vae__block__init_std": 0.1, "vae__latent_shift": 0.0, "vae__latent_scale": 1.0, "dit__num_layers": 1,
    "dit__dim": 32, "dit__head_dim": 16, "dit__rope_dim": 16, "dit__zero_init": True, "compute__attention_chunks": 1,
}  # fmt: skip
TRAINED = {
    "train__batch_size": ROWS, "train__accumulate": 1, "objective__mask_weight": 0.0, "mesh__data": 1,
    "optimizer__learning_rate": 5e-3, "optimizer__warmup_steps": 1, "optimizer__schedule": "cosine",
}  # fmt: skip


def train(name, start, **changes):
    """Trains a family on the training words; returns its parameters and the mean metrics of the last 20 steps."""
    steps = {"train__steps": STEPS[name], "optimizer__decay_steps": STEPS[name]}
    cfg = config(family=name, **SIZES, **TRAINED, **steps, **changes)
    family, mesh = FAMILIES[name], make_mesh(cfg.mesh, jax.devices()[:1])
    abstract = abstract_state(cfg, family, mesh)
    state, put = init_state(cfg, family, abstract), batch_putter(mesh, ROWS)
    state = dataclasses.replace(state, params=state.params | start)
    update = train_step(cfg, family, family.training(cfg, 0).groups, mesh, abstract)
    random, seen = np.random.default_rng(0), []
    for _ in range(STEPS[name]):
        words = TRAINING[random.integers(0, len(TRAINING), ROWS)]
        state, metrics = update(state, put(batch_of(cfg) | {"tokens": np.tile(words, 4).astype(np.int32)}))
        seen.append(jax.device_get(metrics))
    return state.params, {metric: np.mean([one[metric] for one in seen[-20:]]) for metric in seen[0]}


@pytest.fixture(scope="module")
def learnt():
    """Parameters after both stages, and the metrics of each."""
    params, first = train("text_vae", {})
    params, second = train("cola", params, objective__vae_lr_ratio=0.1)
    return params, first, second


def test_the_vae_learns_to_reconstruct_and_the_prior_to_predict_latents(learnt):
    params, first, second = learnt
    assert first["reconstruction"] < 0.1 and second["reconstruction"] < 0.1, "in nats a token; a guess costs 1.6"
    assert second["flow_matching"] < 0.1, "of a variance of 1 for each of noise and latents"
    cfg = config(**SIZES)
    tokens, place = jnp.asarray(np.tile(HELDOUT, 4)), jnp.arange(16)[None]
    mean = build.encoder(cfg).apply({"params": params["encoder"]}, tokens, place, None).mean
    logits = build.decoder(cfg).apply({"params": params["decoder"]}, mean, place, None)
    right = np.mean(np.asarray(logits.argmax(-1) == tokens))
    assert right > 0.95, f"{right} of the tokens of words it has not seen; chance is 0.2"


def test_words_it_has_not_seen_are_repeated(learnt):
    cfg = config(**SIZES, sampling__max_new_tokens=8, sampling__steps=4, sampling__guidance=1.0)
    prompts, rows = np.tile(HELDOUT, 2).tolist(), [[] for _ in HELDOUT]
    for new, _ in FAMILIES["cola"].generator.generate(cfg, learnt[0], prompts, RowOptions(PAD)):
        rows = [row + more for row, more in zip(rows, new, strict=True)]
    right = np.mean(np.array(rows) == np.tile(HELDOUT, 2))
    assert right > 0.8, f"{right} of the tokens written; chance is 0.2"
