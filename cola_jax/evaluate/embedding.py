"""Latents in two dimensions: principal components, and a neighbour embedding.

The neighbour embedding is scikit-learn's t-SNE, the optional extra `latents`; it is imported only
when it is used.

Axes: M latents, C latent channels.
"""

from __future__ import annotations

import numpy as np

from cola_jax.evaluate.latents import Latents

MOST = 2000  # number of latents that are embedded: the time of t-SNE grows faster than linearly
PERPLEXITY = 30.0  # of t-SNE: its effective number of neighbours


def some(latents: Latents, seed: int) -> Latents:
    """Returns at most MOST of the latents, drawn without replacement, in order."""
    if len(latents.labels) <= MOST:
        return latents
    chosen = np.sort(np.random.default_rng(seed).choice(len(latents.labels), MOST, replace=False))
    return Latents(latents.means[chosen], [latents.labels[index] for index in chosen])


def tsne(x_MC: np.ndarray, seed: int) -> np.ndarray:
    """Returns t-SNE coordinates (M, 2), the same for a seed on the same machine.

    Raises:
      ImportError: if scikit-learn is not installed.
    """
    try:
        from sklearn.manifold import TSNE
    except ImportError as error:
        raise ImportError("t-SNE needs scikit-learn: pip install -e '.[latents]', or give --embedding pca") from error
    perplexity = min(PERPLEXITY, (len(x_MC) - 1) / 3)
    return TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(np.asarray(x_MC, np.float32))
