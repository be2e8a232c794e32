"""Linear probes of the latents, and their drift over training.

Axes: M latents, C latent channels, K classes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from cola_jax import storage
from cola_jax.config import ConfigError, resolve
from cola_jax.data import tokenizers
from cola_jax.data.errors import DataError
from cola_jax.evaluate import latents
from cola_jax.families import FAMILIES
from cola_jax.storage import AnyPath
from cola_jax.train.checkpoint import chosen_step, load_params
from cola_jax.train.stored import folder, steps_in
from cola_jax.train.workdir import TOKENIZER

RIDGE = 1e-3  # of the probe, relative to the mean square of a channel


def probe(x_MC: np.ndarray, labels: Sequence[str], seed: int) -> dict[str, float]:
    """Fits a linear classifier (ridge regression to one-hot classes) on half of the latents and tests it on the others.

    Returns:
      accuracy; majority, that of always predicting the most frequent class of the first half; recall/CLASS of each
      class tested.

    Raises:
      DataError: if there are fewer than four latents or one class.
    """
    classes, target_M = np.unique(np.asarray(labels), return_inverse=True)
    if len(labels) < 4 or len(classes) < 2:
        raise DataError(f"a probe needs at least four latents of two classes, got {len(labels)} of {len(classes)}")
    order = np.random.default_rng(seed).permutation(len(labels))
    fitted, tested = np.array_split(order, 2)
    mean, spread = x_MC[fitted].mean(axis=0), x_MC[fitted].std(axis=0) + 1e-8
    features = np.concatenate([(x_MC - mean) / spread, np.ones((len(x_MC), 1))], axis=1).astype(np.float64)
    one_hot = np.eye(len(classes))[target_M]
    gram = features[fitted].T @ features[fitted] + RIDGE * len(fitted) * np.eye(features.shape[1])
    weights = np.linalg.solve(gram, features[fitted].T @ one_hot[fitted])
    said = np.argmax(features[tested] @ weights, axis=1)
    right = said == target_M[tested]
    commonest = Counter(target_M[fitted].tolist()).most_common(1)[0][0]
    figures = {"accuracy": float(right.mean()), "majority": float((target_M[tested] == commonest).mean())}
    present = [k for k in range(len(classes)) if (target_M[tested] == k).any()]
    return figures | {f"recall/{classes[k]}": float(right[target_M[tested] == k].mean()) for k in present}


def similarity(one_MC: np.ndarray, other_MC: np.ndarray) -> dict[str, float]:
    """Compares two sets of latents of the same text.

    Returns:
      cosine: mean over latents; moved: root mean square distance over that of the second; cka: linear centred kernel
        alignment,
      which is invariant to rotations and a common scale.
    """
    one, other = (np.asarray(x, np.float64) for x in (one_MC, other_MC))
    length = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    cosine = np.sum(one * other, axis=1) / np.maximum(length, 1e-12)
    moved = np.sqrt(np.mean((one - other) ** 2) / max(float(np.mean(other**2)), 1e-12))
    a, b = one - one.mean(axis=0), other - other.mean(axis=0)
    norms = np.linalg.norm(a.T @ a) * np.linalg.norm(b.T @ b)
    cka = np.linalg.norm(a.T @ b) ** 2 / max(float(norms), 1e-12)
    return {"cosine": float(cosine.mean()), "moved": float(moved), "cka": float(cka)}


def of_run(
    workdir: str | AnyPath, batches: int, times: Sequence[float], seed: int, step: int | str | None = None
) -> dict[str, Any]:
    """Returns probes and drift of the latents of a run at `step`, the newest by default, on its own held-out text.

    Returns:
      step; probe: see `probe`, of word classes on the small world and of frequency bands elsewhere; noise: reconstruction
      accuracy by t; drift: a row of `similarity` to this checkpoint for every earlier one that is kept, by step.

    Raises:
      ConfigError: for a run without a VAE. CheckpointError: if there is no checkpoint. DataError: see `probe`.
    """
    workdir = storage.path(workdir, "workdir")
    config, params = load_params(workdir, step)
    cfg = resolve(config)
    if "encoder" not in FAMILIES[cfg.family].groups:
        raise ConfigError(f"{workdir} is a run of family {cfg.family!r}, which has no latents: text_vae and cola have")
    tokenizer = tokenizers.load(workdir / TOKENIZER)
    rows = latents.heldout_rows(cfg, tokenizer, batches)
    newest = latents.collect(cfg, params, tokenizer, rows)
    accuracy = latents.accuracy_under_noise(cfg, params, rows, times, seed)
    last = chosen_step(workdir, step)
    drift = []
    for earlier in (kept for kept in steps_in(folder(workdir)) if kept < last):
        _, before = load_params(workdir, earlier)
        drift.append({"step": earlier} | similarity(latents.collect(cfg, before, tokenizer, rows).means, newest.means))
    return {
        "step": last,
        "latents": len(newest.labels),
        "probe": probe(newest.means, newest.labels, seed),
        "noise": [{"t": t, "accuracy": value} for t, value in zip(times, accuracy)],
        "drift": drift,
    }
