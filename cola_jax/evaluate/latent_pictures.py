"""Plots of a run's latents in two dimensions, and of the prior's density around some of them, with the values as JSON."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

from cola_jax import storage
from cola_jax.config import ConfigError, resolve, without_kernels
from cola_jax.data import tokenizers
from cola_jax.evaluate import embedding, landscape, latents, plots
from cola_jax.families import FAMILIES
from cola_jax.families.likelihood import MonteCarlo
from cola_jax.storage import AnyPath
from cola_jax.train.checkpoint import load_params
from cola_jax.train.workdir import TOKENIZER


@dataclass(frozen=True)
class Landscapes:
    """Number, resolution and extent of landscapes, and settings of the prior's density; see `cola-jax latents --help`."""

    count: int
    points: int = 15
    extent: float = 3.0
    steps: int = 16
    solver: str = "heun"
    divergence: str = "exact"


def draw(
    workdir: str | AnyPath,
    step: int | str | None,
    folder: str | AnyPath,
    embeddings: tuple[str, ...],
    asked: Landscapes | None,
    *,
    batches: int,
    seed: int,
) -> list[AnyPath]:
    """Plots the latents of held-out text into `folder`, and landscapes if requested.

    Args:
      embeddings: of "pca" and "tsne".

    Returns:
      The files: pca.png, tsne.png and embedding.json with every latent's label and coordinates; landscapes.png and .json.

    Raises:
      ConfigError: for a run without a VAE, landscapes of one without a prior, or pca of a single channel.
      ImportError: for tsne without scikit-learn. DataError: see `landscape.of_run`.
    """
    workdir, folder = storage.path(workdir, "workdir"), storage.path(folder, "folder")
    tree, params = load_params(workdir, step)
    cfg = without_kernels(resolve(tree))
    if "encoder" not in FAMILIES[cfg.family].groups:
        raise ConfigError(f"{workdir} is a run of family {cfg.family!r}, which has no latents: text_vae and cola have")
    tokenizer = tokenizers.load(workdir / TOKENIZER)
    rows = latents.heldout_rows(cfg, tokenizer, batches)
    found = latents.collect(cfg, params, tokenizer, rows)
    files = _embed(embedding.some(found, seed), embeddings, folder, seed)
    if asked is None:
        return files
    settings = MonteCarlo(
        draws=1, estimator="elbo", **{n: getattr(asked, n) for n in ("steps", "solver", "divergence")}
    )
    around = landscape.of_run(cfg, params, tokenizer, rows, asked.count, asked.points, asked.extent, settings, seed)
    plots.plot_landscapes(around, folder / "landscapes.png")
    record = dataclasses.asdict(asked) | {"landscapes": [landscape.as_dict(one) for one in around]}
    _write(folder / "landscapes.json", record)
    return [*files, folder / "landscapes.png", folder / "landscapes.json"]


def _embed(some: latents.Latents, embeddings: tuple[str, ...], folder: AnyPath, seed: int) -> list[AnyPath]:
    record: dict[str, Any] = {"labels": some.labels}
    files = []
    title = f"{len(some.labels)} latents of held-out text, by the class of their token"
    for name in embeddings:
        if name == "pca":
            points, shares = latents.pca(some.means, 2)
            axes, record["variance_shares"] = plots.principal(shares), shares.tolist()
        else:
            points, axes = embedding.tsne(some.means, seed), ("t-SNE, first coordinate", "second")
        record[name] = points.tolist()
        files.append(plots.plot_points(points, some.labels, title, axes, folder / f"{name}.png"))
    _write(folder / "embedding.json", record)
    return [*files, folder / "embedding.json"]


def _write(path: AnyPath, tree: dict[str, Any]) -> None:
    storage.write_bytes(path, (json.dumps(tree) + "\n").encode())
