"""Latents in the plane: principal components, and an embedding that keeps neighbours together.

The neighbour embedding is scikit-learn's t-SNE, the optional extra `latents`; nothing here imports it before it is asked for.
Axes: M latents, C latent channels.
"""

from __future__ import annotations

import numpy as np

from cola_jax.evaluate.latents import Latents

MOST = 2000  # latents that are embedded: t-SNE takes time that grows faster than they do
PERPLEXITY = 30.0  # neighbours of a latent, as t-SNE counts them


def some(latents: Latents, seed: int) -> Latents:
    """Returns at most MOST of the latents, drawn without replacement, in their order."""
    if len(latents.labels) <= MOST:
        return latents
    chosen = np.sort(np.random.default_rng(seed).choice(len(latents.labels), MOST, replace=False))
    return Latents(latents.means[chosen], [latents.labels[index] for index in chosen])


def tsne(x_MC: np.ndarray, seed: int) -> np.ndarray:
    """Returns t-SNE coordinates (M, 2), the same for a seed on the same machine.

    Raises:
      ImportError: where scikit-learn is not installed.
    """
    try:
        from sklearn.manifold import TSNE
    except ImportError as error:
        raise ImportError("t-SNE needs scikit-learn: pip install -e '.[latents]', or give --embedding pca") from error
    perplexity = min(PERPLEXITY, (len(x_MC) - 1) / 3)
    return TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(np.asarray(x_MC, np.float32))
