"""The latents of a trained model: posterior means of held-out text, and the accuracy of decoding from noised latents.

Axes: B batch, L tokens, N = L / P latents, C latent channels, M latents of all batches, K components.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cola_jax.config import ConfigError, RunConfig
from cola_jax.data import pipeline, tinyworld
from cola_jax.data.tokenizers import Tokenizer
from cola_jax.diffusion import path
from cola_jax.families import vae_terms
from cola_jax.models import build
from cola_jax.models.text_vae import from_prior, to_prior

FEW_DOCUMENTS = 64  # training documents that a generator makes if only its held-out documents are read
BANDS = ("commonest 1 %", "next 9 %", "the other 90 %")  # of the distinct tokens, by how often they occur
Batch = dict[str, Any]


class Latents(NamedTuple):
    """Latents of held-out text: means (M, C) as the DiT sees them and the label of each one's first token."""

    means: np.ndarray
    labels: list[str]


def heldout_rows(cfg: RunConfig, tokenizer: Tokenizer, batches: int) -> list[Batch]:
    """Returns held-out batches of a run, in its batch shape.

    Raises:
      DataError: if nothing is held out or the corpus cannot be read.
    """
    if any(source.kind == "tinyworld" for source in cfg.data.sources):
        data = dataclasses.replace(cfg.data, generated_documents=min(cfg.data.generated_documents, FEW_DOCUMENTS))
        cfg = dataclasses.replace(cfg, data=data)  # the held-out documents of a generator do not depend on it
    return pipeline.heldout_batches(cfg, pipeline.build_corpus(cfg, tokenizer), batches)


def collect(cfg: RunConfig, params: Any, tokenizer: Tokenizer, batches: Sequence[Batch]) -> Latents:
    """Encodes batches and labels every latent by its first token: word classes for the small world, else frequency bands."""
    means, tokens = [], []
    for batch in batches:
        z0, weights = posterior_means(cfg, params, _arrays(batch))
        real = np.asarray(weights) > 0
        means.append(np.asarray(z0)[real])
        tokens.append(np.asarray(batch["tokens"])[:, :: cfg.vae.patch_size][real])
    ids = np.concatenate(tokens)
    small_world = all(source.kind == "tinyworld" for source in cfg.data.sources)
    return Latents(np.concatenate(means), word_classes(ids, tokenizer) if small_world else frequency_bands(ids))


def word_classes(ids: np.ndarray, tokenizer: Tokenizer) -> list[str]:
    """Returns the small world's word class of each token; "end" for the end of a document."""
    known = {
        int(i): "end" if i == tokenizer.eos_id else tinyworld.word_class(tokenizer.decode([int(i)])) for i in set(ids)
    }
    return [known[int(i)] for i in ids]


def frequency_bands(ids: np.ndarray) -> list[str]:
    """Returns for each token which of BANDS it is in, ranked by how often it occurs among `ids`."""
    distinct, where, counts = np.unique(ids, return_inverse=True, return_counts=True)
    rank = np.empty(len(distinct), int)
    rank[np.lexsort((distinct, -counts))] = np.arange(len(distinct))
    band = np.searchsorted([0.01 * len(distinct), 0.1 * len(distinct)], rank, side="right")
    return [BANDS[b] for b in band[where]]


@partial(jax.jit, static_argnums=0)
def posterior_means(cfg: RunConfig, params: Any, batch: Batch) -> tuple[jax.Array, jax.Array]:
    """Returns the posterior means of a batch as the DiT sees them, (B, N, C) fp32, and 1 if one is of a document, (B, N)."""
    where = vae_terms.layout(cfg, batch)
    real = batch["weights"].reshape(*where.weights.shape, cfg.vae.patch_size)[..., 0] > 0
    mean = vae_terms.posterior_of(cfg, params, batch["tokens"], where).mean
    return to_prior(cfg.vae, mean), real.astype(jnp.float32)


def pca(x_MC: np.ndarray, components: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Returns coordinates along the directions of largest variance, (M, K), and the share of variance of each, (K,).

    The sign of a direction is such that its largest entry is positive.

    Raises:
      ConfigError: if there are fewer channels or points than components.
    """
    if not 0 < components <= min(x_MC.shape):
        raise ConfigError(f"components={components} of an array of shape {x_MC.shape}: expected 1 .. {min(x_MC.shape)}")
    centred = np.asarray(x_MC, np.float64) - np.mean(x_MC, axis=0)
    _, spread, directions_KC = np.linalg.svd(centred, full_matrices=False)
    signs = np.sign(directions_KC[np.arange(len(directions_KC)), np.argmax(np.abs(directions_KC), axis=1)])
    directions_KC = (directions_KC * signs[:, None])[:components]
    total = max(float(np.sum(spread**2)), np.finfo(float).tiny)
    return centred @ directions_KC.T, spread[:components] ** 2 / total


def accuracy_under_noise(
    cfg: RunConfig, params: Any, batches: Sequence[Batch], times: Sequence[float], seed: int
) -> list[float]:
    """Returns, for each t in [0, 1], the share of tokens decoded right from z_t = (1 - t) z0 + t z1 (SPEC 8).

    z0 is the posterior mean, z1 one N(0, I) draw of the seed that all times share; every latent carries the same t.

    Raises:
      ConfigError: for a time outside [0, 1].
    """
    wrong = [t for t in times if not 0 <= t <= 1]
    if wrong:
        raise ConfigError(f"times={wrong} are outside [0, 1]")
    right, total = np.zeros(len(times)), 0.0
    for index, batch in enumerate(batches):
        arrays = _arrays(batch)
        z0, _ = posterior_means(cfg, params, arrays)
        z1 = jax.random.normal(jax.random.fold_in(jax.random.PRNGKey(seed), index), z0.shape)
        right += [float(_right(cfg, params, arrays, z0, z1, jnp.float32(t))) for t in times]
        total += float(np.sum(batch["weights"]))
    return (right / max(total, 1.0)).tolist()


@partial(jax.jit, static_argnums=0)
def _right(cfg: RunConfig, params: Any, batch: Batch, z0_BNC: jax.Array, z1_BNC: jax.Array, t: jax.Array) -> jax.Array:
    """Number of tokens of a batch that the decoder gets right from z_t."""
    where = vae_terms.layout(cfg, batch)
    z_t = from_prior(cfg.vae, path.interpolate(z0_BNC, z1_BNC, t))
    logits = build.decoder(cfg).apply({"params": params["decoder"]}, z_t, where.positions, where.segments)
    return jnp.sum((jnp.argmax(logits, axis=-1) == batch["tokens"]) * batch["weights"])


def _arrays(batch: Batch) -> Batch:
    return {name: jnp.asarray(value) for name, value in batch.items()}
