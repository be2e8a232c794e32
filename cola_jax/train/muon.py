"""Muon: momentum orthogonalised matrix by matrix (Jordan et al. 2024), at the scale of AdamW's updates.

Axes: L layers of a stack, I inputs, O outputs of a matrix.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from cola_jax.config.fields import OptimizerConfig

Tree = Any

QUINTIC = (3.4445, -4.7750, 2.0315)  # x <- a x + b x^3 + c x^5 drives singular values from (0, 1] to about 0.7 .. 1.2
ADAM_RMS = 0.2  # root mean square of a typical AdamW update (Liu et al. 2025, arXiv 2502.16982)


def labels(params: Tree) -> Tree:
    """Returns "muon" for the stacked matrices (L, I, O) of a group's blocks, and "adam" for all else."""
    label = lambda path, leaf: "muon" if leaf.ndim == 3 and path[0].key == "blocks" else "adam"
    return jax.tree_util.tree_map_with_path(label, params)


def muon(cfg: OptimizerConfig) -> optax.GradientTransformation:
    """Nesterov momentum, each matrix of it orthogonalised and scaled to the root mean square ADAM_RMS."""

    def direct(updates: Tree, _: Tree | None = None) -> Tree:
        scale = lambda m: ADAM_RMS * max(m.shape[1:]) ** 0.5  # an orthogonal matrix has the rms max(I, O)^-1/2
        return jax.tree.map(lambda m: scale(m) * orthogonalize(m, cfg.muon_steps), updates)

    return optax.chain(optax.trace(cfg.muon_momentum, nesterov=True), optax.stateless(direct))


def orthogonalize(m_LIO: jax.Array, steps: int) -> jax.Array:
    """Moves the singular values of every matrix of a stack near 1 by `steps` Newton-Schulz iterations. (L, I, O), fp32."""
    wide = m_LIO.shape[1] <= m_LIO.shape[2]
    x = m_LIO if wide else jnp.swapaxes(m_LIO, 1, 2)
    x = x / (jnp.linalg.norm(x, axis=(1, 2), keepdims=True) + 1e-12)
    a, b, c = QUINTIC
    for _ in range(steps):
        square = jnp.einsum("lio,ljo->lij", x, x)
        x = a * x + (b * square + c * square @ square) @ x
    return x if wide else jnp.swapaxes(x, 1, 2)
