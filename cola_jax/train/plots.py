"""Plots of a run's metrics, one PNG per metric, training and held-out in one plot."""

from __future__ import annotations

import io

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from cola_jax import storage
from cola_jax.storage import AnyPath
from cola_jax.train.metrics import GOODPUT, read_metrics

HELDOUT = "heldout/"


def plot_metrics(workdir: str | AnyPath) -> list[AnyPath]:
    """Draws every metric of metrics.jsonl into WORKDIR/plots; returns the files."""
    curves: dict[str, list[tuple[int, float]]] = {}
    for line in read_metrics(workdir):
        for name, value in line.items():
            if name != "step" and value is not None and not name.startswith(GOODPUT):
                curves.setdefault(name, []).append((line["step"], value))
    target = storage.path(workdir) / "plots"
    storage.make_folder(target)
    names = sorted({name.removeprefix(HELDOUT) for name in curves})
    return [_plot(name, curves, target / f"{name.replace('/', '_')}.png") for name in names]


def _plot(name: str, curves: dict[str, list[tuple[int, float]]], path: AnyPath) -> AnyPath:
    figure = Figure(figsize=(6, 4), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for key, label, style in ((name, "training", "-"), (HELDOUT + name, "held-out", "o-")):
        if key in curves:
            steps, values = zip(*curves[key])
            axes.plot(steps, values, style, label=label, linewidth=1, markersize=3)
    axes.set(xlabel="step", ylabel=name)
    axes.grid(alpha=0.3)
    axes.legend()
    image = io.BytesIO()
    figure.savefig(image, format="png")
    storage.write_bytes(path, image.getvalue())
    return path
