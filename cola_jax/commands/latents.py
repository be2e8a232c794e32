"""`cola-jax latents`."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

from cola_jax import storage
from cola_jax.commands.arguments import MANY, Misuse, at_least, below, command, is_folder, path_argument, step_of

PRIOR = ("points", "extent", "steps", "solver", "divergence")  # read only if landscapes are drawn


def add(commands) -> None:
    example = "cola-jax latents --workdir runs/notes/joint --pictures latents --landscapes 4"
    parser = command(
        commands,
        "latents",
        run,
        "probe the latents of a run, decode them under noise, and measure their drift",
        example,
    )
    parser.add_argument(
        "--workdir", type=path_argument, required=True, help="folder of a run of family text_vae or cola"
    )
    parser.add_argument("--step", default=None, help='a checkpoint\'s step, or "best"; the newest by default')
    parser.add_argument("--batches", type=int, default=4, help="number of held-out batches")
    parser.add_argument("--levels", type=int, default=9, help="noise levels from t = 0 to 1, both included")
    parser.add_argument("--seed", type=int, default=0, help="seed of the noise, the probe's halves and the embedding")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of lines")
    parser.add_argument(
        "--pictures", type=path_argument, metavar="FOLDER", help="plot the latents in two dimensions into FOLDER"
    )
    parser.add_argument(
        "--embedding", nargs="+", choices=("pca", "tsne"), default=None,
        help="with --pictures: method; both by default, t-SNE needs the extra `latents`",
    )  # fmt: skip
    parser.add_argument(
        "--landscapes", type=int, default=None, metavar="N",
        help="with --pictures, family cola: plot log p of the prior around blocks of N held-out documents",
    )  # fmt: skip
    parser.add_argument("--points", type=int, default=None, help="grid points along each direction, 15 by default")
    parser.add_argument(
        "--extent", type=float, default=None,
        help="half width of a landscape, in standard deviations of the neighbouring blocks, 3 by default",
    )  # fmt: skip
    parser.add_argument("--steps", type=int, default=None, help="solver steps of the prior's ODE, 16 by default")
    parser.add_argument("--solver", choices=("euler", "midpoint", "heun"), default=None, help="heun by default")
    parser.add_argument(
        "--divergence", choices=("hutchinson", "exact"), default=None,
        help="exact by default: one derivative for each channel of each latent of a block",
    )  # fmt: skip


def run(options: argparse.Namespace) -> int:
    from cola_jax.evaluate import probes

    _check(options)
    times = [index / (options.levels - 1) for index in range(options.levels)]
    found = probes.of_run(options.workdir, options.batches, times, options.seed, step_of(options.step))
    pictures = _draw(options) if options.pictures else []
    if options.json:
        print(json.dumps(found | {"pictures": [str(path) for path in pictures]}, indent=2))
        return 0
    print(f"step {found['step']}, {found['latents']} latents of held-out text")
    for name, value in found["probe"].items():
        print(f"linear probe, {name}: {value:.3f}")
    for level in found["noise"]:
        print(f"reconstruction at t = {level['t']:.3f}: {level['accuracy']:.3f}")
    for row in found["drift"]:
        moved = f"cosine {row['cosine']:.3f}, moved {row['moved']:.3f}, CKA {row['cka']:.3f}"
        print(f"step {row['step']} against step {found['step']}: {moved}")
    for path in pictures:
        print(path)
    return 0


def _check(options: argparse.Namespace) -> None:
    """Raises Misuse if the arguments contradict each other."""
    at_least(options, {"batches": 1, "levels": 2, "landscapes": 1, "points": 2, "steps": 1})
    below(
        options, {"seed": 2**32, "levels": MANY, "landscapes": MANY, "points": MANY, "steps": MANY}
    )  # seed: the bound of scikit-learn
    step_of(options.step)
    if options.extent is not None and not 0 < options.extent < math.inf:
        raise Misuse(f"--extent {options.extent} must be positive and finite")
    pictures = storage.path(options.pictures) if options.pictures else None
    if pictures and pictures.exists() and not pictures.is_dir():
        raise Misuse(f"--pictures {options.pictures} is not a folder")
    for name in ("embedding", "landscapes"):
        if getattr(options, name) is not None and not options.pictures:
            raise Misuse(f"--{name} needs --pictures FOLDER")
    unread = [name for name in PRIOR if getattr(options, name) is not None and options.landscapes is None]
    if unread:
        raise Misuse(f"--{unread[0]} needs --landscapes N")
    is_folder(options)


def _draw(options: argparse.Namespace) -> list[Path]:
    from cola_jax.evaluate import latent_pictures
    from cola_jax.evaluate.latent_pictures import Landscapes

    landscapes = None
    if options.landscapes is not None:
        given = {name: getattr(options, name) for name in PRIOR if getattr(options, name) is not None}
        landscapes = Landscapes(count=options.landscapes, **given)
    return latent_pictures.draw(
        options.workdir, step_of(options.step), options.pictures, tuple(options.embedding or ("pca", "tsne")),
        landscapes, batches=options.batches, seed=options.seed,
    )  # fmt: skip
