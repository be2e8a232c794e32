"""Plots of an evaluation, one PNG each, 900 pixels wide."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from cola_jax import storage
from cola_jax.evaluate.landscape import Landscape
from cola_jax.evaluate.latents import Latents, pca
from cola_jax.evaluate.trace import Trace
from cola_jax.storage import AnyPath

WIDTH, DPI = 9.0, 100  # inches and pixels per inch
HELDOUT = "heldout/"
LOSSES = {
    "vae": (("reconstruction", "reconstruction\n(nats per token)"), ("mask", "masked tokens\n(nats per token)")),
    "joint": (
        ("flow_matching", "flow matching\n(squared error)"),
        ("reconstruction", "reconstruction\n(nats per token)"),
    ),
}
SHARES = (("well_formed", "well-formed sentences"), ("entailed", "entailed answers"), ("chance", "answers by chance"))
Lines = Sequence[dict[str, Any]]


def plot_losses(stages: dict[str, Lines], path: AnyPath) -> AnyPath:
    """Draws the losses of both stages, training and held-out, from lines of metrics.jsonl by stage ("vae", "joint")."""
    figure = _figure(6.0)
    grid = figure.subplots(2, 2)
    titles = {"vae": "Stage 1: Text VAE", "joint": "Stage 2: VAE and DiT together"}
    for column, stage in enumerate(LOSSES):
        for row, (name, label) in enumerate(LOSSES[stage]):
            axes = grid[row, column]
            for key, legend, style in ((name, "training", "-"), (HELDOUT + name, "held-out", "o")):
                points = [(line["step"], line[key]) for line in stages.get(stage, ()) if line.get(key) is not None]
                if points:
                    axes.plot(*zip(*points), style, label=legend, linewidth=1.2, markersize=5)
            axes.set(ylabel=label, yscale="log")
            if axes.lines:
                axes.legend(frameon=False)
            _quiet(axes)
        grid[0, column].set_title(titles[stage])
        grid[1, column].set_xlabel("step")
    return _save(figure, path)


def plot_latents(latents: Latents, path: AnyPath) -> AnyPath:
    """Draws the first two principal components of latents, coloured by their label."""
    coordinates, shares = pca(latents.means, 2)
    title = f"{len(latents.labels)} latents of held-out text, by the class of their token"
    return plot_points(coordinates, latents.labels, title, principal(shares), path)


def principal(shares: Sequence[float]) -> tuple[str, str]:
    """Returns the names of two principal axes of these shares of the variance."""
    return f"first principal component ({shares[0]:.0%} of the variance)", f"second ({shares[1]:.0%})"


def plot_points(
    points_M2: np.ndarray, labels: Sequence[str], title: str, axes_names: tuple[str, str], path: AnyPath
) -> AnyPath:
    """Draws points in the plane, coloured by their label, the commonest first."""
    labels = np.asarray(labels)
    names = sorted(set(labels.tolist()), key=lambda name: (-int(np.sum(labels == name)), name))
    figure = _figure(6.5)
    axes = figure.subplots()
    for name in names:
        axes.scatter(*points_M2[labels == name].T, s=9, alpha=0.6, linewidths=0, label=name)
    axes.set(xlabel=axes_names[0], ylabel=axes_names[1], title=title)
    axes.legend(frameon=False, markerscale=3, loc="center left", bbox_to_anchor=(1.0, 0.5))
    _quiet(axes)
    return _save(figure, path)


def plot_landscapes(landscapes: Sequence[Landscape], path: AnyPath) -> AnyPath:
    """Draws log p around blocks, one panel each, relative to the maximum; a cross at the block, dots at its neighbours."""
    columns = min(len(landscapes), 2)
    rows = -(-len(landscapes) // columns)
    figure = _figure(4.2 * rows)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat[len(landscapes) :]:
        axes.set_axis_off()
    for axes, landscape in zip(grid.flat, landscapes):
        across, up = landscape.offsets_2G
        low = landscape.log_p_GG - landscape.log_p_GG.max()
        filled = axes.contourf(across, up, low, levels=16, cmap="viridis")
        figure.colorbar(filled, ax=axes, label="log p below the highest (nats)")
        inside = np.all(np.abs(landscape.neighbours_K2) <= landscape.offsets_2G[:, -1], axis=1)
        axes.scatter(*landscape.neighbours_K2[inside].T, s=8, color="white", alpha=0.7, linewidths=0)
        axes.plot(0, 0, "rx", markersize=9, markeredgewidth=2)
        axes.set_title(_short(landscape.text, 40), fontsize=9, parse_math=False)
        axes.set(xlabel="first principal direction", ylabel="second")
    return _save(figure, path)


def plot_noise(times: Sequence[float], accuracies: Sequence[float], path: AnyPath) -> AnyPath:
    """Draws the share of tokens decoded right from noised latents, against 1000 t."""
    figure = _figure(4.5)
    axes = figure.subplots()
    axes.plot(1000 * np.asarray(times), accuracies, "o-", linewidth=1.5, markersize=5)
    axes.set(
        xlabel="noise level 1000 t (0: the latents, 1000: noise alone)",
        ylabel="tokens decoded right",
        title="Reconstruction of held-out text from noised latents",
        ylim=(-0.02, 1.04),
    )
    _quiet(axes)
    return _save(figure, path)


def plot_sweep(rows: Lines, own: tuple[float, int], path: AnyPath) -> AnyPath:
    """Draws the figures of a sweep against guidance and against solver steps; `own`: the writer's guidance and steps."""
    guidance, steps = own
    figure = _figure(4.5)
    left, right = figure.subplots(1, 2, sharey=True)
    _quality(left, [row for row in rows if row["steps"] == steps], "guidance")
    left.set(xlabel=f"guidance scale ({steps} steps)", ylabel="share")
    _quality(right, [row for row in rows if row["guidance"] == guidance], "steps")
    right.set(xlabel=f"solver steps per block (guidance {guidance:g})", xscale="log")
    counts = sorted({row["steps"] for row in rows if row["guidance"] == guidance})
    right.set_xticks(counts, [str(count) for count in counts])
    right.minorticks_off()
    right.legend(frameon=False, loc="lower right")
    return _save(figure, path)


def _quality(axes: Axes, rows: Lines, name: str) -> None:
    for share, label in SHARES:
        points = sorted((row[name], row[share]) for row in rows)
        if points:
            axes.plot(*zip(*points), "o:" if share == "chance" else "o-", label=label, linewidth=1.5, markersize=5)
    axes.set_ylim(-0.02, 1.04)
    _quiet(axes)


def plot_trace(trace: Trace, texts: Sequence[str], path: AnyPath) -> AnyPath:
    """Draws the latents of all blocks, side by side, at every solver step, one row each, beside the text they decode to.

    Args:
      texts: what the blocks decode to after each step, one fewer than there are states.
    """
    blocks, rows, size, channels = trace.states.shape
    states = trace.states.swapaxes(0, 1).reshape(rows, -1)
    figure = _figure(0.6 + 0.3 * len(states))
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    left.imshow(states, aspect="auto", cmap="RdBu_r", vmin=-2.5, vmax=2.5, interpolation="nearest")
    left.set_yticks(range(len(states)), [_time_label(index, len(states) - 1) for index in range(len(states))])
    numbers = [
        f"{block + 1}" if size == 1 else f"{block + 1}.{latent + 1}" for block, latent in np.ndindex(blocks, size)
    ]
    left.set_xticks((np.arange(blocks * size) + 0.5) * channels - 0.5, numbers)
    left.set(xlabel=f"{'block' if size == 1 else 'block.latent'}, {channels} channels each", ylabel="1000 t")
    right.set_axis_off()
    for row, text in enumerate(["(noise)", *texts]):
        right.text(0.0, row, _short(text), va="center", fontsize=8, parse_math=False)
    return _save(figure, path)


def _time_label(index: int, steps: int) -> str:
    return f"{1000 * (1 - index / steps):.0f}"


def _short(text: str, most: int = 52) -> str:
    line = " ".join(text.split())
    return line if len(line) <= most else line[: most - 1] + "…"


def _figure(height: float) -> Figure:
    figure = Figure(figsize=(WIDTH, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _quiet(axes: Axes) -> None:
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def _save(figure: Figure, path: AnyPath) -> AnyPath:
    storage.make_folder(path.parent)
    image = io.BytesIO()
    figure.savefig(image, format=path.suffix.removeprefix("."))
    storage.write_bytes(path, image.getvalue())
    return path
