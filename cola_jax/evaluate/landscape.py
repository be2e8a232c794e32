"""Local density landscapes, as in the paper's Figure 11: log p_psi(z0^b + x d1 + y d2 | z0^{<b}) on a grid of x and y.

z0 are posterior means of held-out text as the DiT sees them. d1 and d2 are the two leading principal directions of the
blocks of held-out text nearest to z0^b, in units of their standard deviations along them.
Axes: B batch, N latents, S latents per block, C channels, G points per side, K neighbours, M blocks of held-out text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cola_jax.config import ConfigError, RunConfig
from cola_jax.data.errors import DataError
from cola_jax.data.tokenizers import Tokenizer
from cola_jax.evaluate import latents
from cola_jax.families import FAMILIES
from cola_jax.families.cola_likelihood import block_log_density
from cola_jax.families.likelihood import MonteCarlo
from cola_jax.models import build

NEIGHBOURS = 64  # number of neighbouring blocks for the principal directions
ROWS = 64  # number of blocks whose density is computed at once
Density = Callable[[np.ndarray], np.ndarray]


class Place(NamedTuple):
    """A block of held-out text: the latents before it (N, C), its own (S, C), its number, and its text."""

    past_NC: np.ndarray
    block_SC: np.ndarray
    number: int
    text: str


class Landscape(NamedTuple):
    """log p around a block.

    Attributes:
      text, block: the block's text and its number in its document, from 0.
      directions_2SC: unit length, orthogonal. deviations_2: of the neighbours along them.
      offsets_2G: coordinates of the grid points along each direction. log_p_GG: nats, the second direction first.
      neighbours_K2: coordinates of the neighbours.
    """

    text: str
    block: int
    directions_2SC: np.ndarray
    deviations_2: np.ndarray
    offsets_2G: np.ndarray
    log_p_GG: np.ndarray
    neighbours_K2: np.ndarray


def of_run(
    cfg: RunConfig,
    params: Any,
    tokenizer: Tokenizer,
    batches: Sequence[latents.Batch],
    count: int,
    points: int,
    extent: float,
    settings: MonteCarlo,
    seed: int,
) -> list[Landscape]:
    """Returns the landscapes around the middle blocks of the first `count` rows' first documents.

    Args:
      points: grid points along each direction. extent: half width of the grid, in standard deviations of the neighbours.
      seed: of the directions of divergence=hutchinson, the same ones at every point of a landscape.

    Raises:
      ConfigError: if the run is not of family cola. DataError: if there are too few blocks of held-out text.
    """
    if "dit" not in FAMILIES[cfg.family].groups:
        raise ConfigError(f"a run of family {cfg.family!r} has no prior over latents: landscapes need cola")
    places, all_MSC = blocks_of(cfg, params, tokenizer, batches)
    if len(places) < count:
        raise DataError(
            f"{count} landscapes were requested, and {len(places)} documents have a block: give more --batches"
        )
    found, networks, ode = [], build.of_cola(cfg), settings.ode
    for index, place in enumerate(places[:count]):
        key = jax.random.fold_in(jax.random.PRNGKey(seed), index)
        density = lambda z_MSC, place=place, key=key: block_log_density(
            networks, params, jnp.asarray(place.past_NC), z_MSC, jnp.broadcast_to(key, (len(z_MSC), *key.shape)), ode
        )
        found.append(around(place, all_MSC, density, points, extent))
    return found


def blocks_of(
    cfg: RunConfig, params: Any, tokenizer: Tokenizer, batches: Sequence[latents.Batch]
) -> tuple[list[Place], np.ndarray]:
    """Returns the middle block of every row's first document, and all blocks (M, S, C) within a single document."""
    size, patch = cfg.dit.block_size, cfg.vae.patch_size
    places, found = [], []
    for batch in batches:
        z0, real = (np.asarray(x) for x in latents.posterior_means(cfg, params, batch))
        documents = np.asarray(batch["segments"])[:, ::patch] * (real > 0)
        for row, (z0_NC, document_N) in enumerate(zip(z0, documents)):
            whole = document_N.reshape(-1, size)
            same = (whole == whole[:, :1]).all(axis=1) & (whole[:, 0] > 0)
            found.append(z0_NC.reshape(-1, size, z0_NC.shape[-1])[same])
            first = int(np.cumprod(same & (whole[:, 0] == 1)).sum())  # blocks of the first document
            if first:
                number = first // 2
                start = number * size
                tokens = np.asarray(batch["tokens"])[row, start * patch : (start + size) * patch]
                text = tokenizer.decode(tokens.tolist())
                places.append(Place(z0_NC[:start], z0_NC[start : start + size], number, text))
    return places, np.concatenate(found)


def around(place: Place, all_MSC: np.ndarray, density: Density, points: int, extent: float) -> Landscape:
    """Returns the landscape of `density`, (M, S, C) -> (M,), around a block.

    Raises:
      DataError: if there are fewer than three blocks, or all are equal.
    """
    shape = place.block_SC.shape
    directions, deviations, neighbours = directions_of(place.block_SC, all_MSC)
    steps = np.linspace(-extent, extent, points)
    offsets_2G = deviations[:, None] * steps
    across, up = np.meshgrid(*offsets_2G)
    moved = place.block_SC.reshape(1, -1) + across.reshape(-1, 1) * directions[0] + up.reshape(-1, 1) * directions[1]
    blocks = moved.reshape(-1, *shape).astype(np.float32)
    log_p = np.concatenate([_padded(density, blocks[i : i + ROWS]) for i in range(0, len(blocks), ROWS)])
    return Landscape(
        place.text, place.number, directions.reshape(2, *shape), deviations, offsets_2G,
        log_p.reshape(points, points), neighbours,
    )  # fmt: skip


def _padded(density: Density, blocks: np.ndarray) -> np.ndarray:
    """The density of at most ROWS blocks, computed for ROWS, so that every call has one shape."""
    filled = np.concatenate([blocks, np.repeat(blocks[-1:], ROWS - len(blocks), axis=0)])
    return np.asarray(density(filled))[: len(blocks)]


def directions_of(block_SC: np.ndarray, all_MSC: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the leading principal directions (2, S C) of a block's neighbours, their deviations (2,) and places (K, 2).

    Raises:
      DataError: see `around`.
    """
    own, others = block_SC.reshape(-1).astype(np.float64), all_MSC.reshape(len(all_MSC), -1).astype(np.float64)
    nearest = others[np.argsort(np.sum((others - own) ** 2, axis=1), kind="stable")[:NEIGHBOURS]]
    if len(nearest) < 3 or nearest.shape[1] < 2:
        raise DataError(f"{len(nearest)} blocks of {nearest.shape[1]} numbers: a landscape needs three blocks of two")
    _, spread, directions = np.linalg.svd(nearest - nearest.mean(axis=0), full_matrices=False)
    deviations = spread[:2] / np.sqrt(len(nearest) - 1)
    if not deviations[1] > 1e-6 * max(float(np.abs(nearest).max()), 1e-6):
        raise DataError("the blocks of held-out text are collinear: they span no plane")
    return directions[:2], deviations, (nearest - own) @ directions[:2].T


def as_dict(landscape: Landscape) -> dict[str, Any]:
    """Returns a landscape as JSON has it."""
    return {
        "text": landscape.text,
        "block": landscape.block,
        "directions": f"the two leading principal directions of the {len(landscape.neighbours_K2)} nearest held-out blocks",
        "deviations": landscape.deviations_2.tolist(),
        "offsets": landscape.offsets_2G.tolist(),
        "log_p": landscape.log_p_GG.tolist(),
    }
