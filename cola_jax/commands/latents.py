"""`cola-jax latents`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from cola_jax.commands.arguments import Misuse, command


def add(commands) -> None:
    example = "cola-jax latents --workdir runs/notes/joint --batches 4"
    parser = command(commands, "latents", run, "say what the latents of a run hold and how far they moved", example)
    parser.add_argument("--workdir", required=True, help="folder of a run of family text_vae or cola")
    parser.add_argument("--batches", type=int, default=4, help="held-out batches to look at")
    parser.add_argument("--levels", type=int, default=9, help="noise levels from t = 0 to 1, both included")
    parser.add_argument("--seed", type=int, default=0, help="seed of the noise and of the probe's halves")
    parser.add_argument("--json", action="store_true", help="one JSON object in place of lines")


def run(options: argparse.Namespace) -> int:
    from cola_jax.evaluate import probes

    for name, least in (("batches", 1), ("levels", 2)):
        if getattr(options, name) < least:
            raise Misuse(f"--{name} {getattr(options, name)} must be at least {least}")
    if not Path(options.workdir).is_dir():
        raise Misuse(f"--workdir {options.workdir}: no such folder")
    times = [index / (options.levels - 1) for index in range(options.levels)]
    told = probes.of_run(options.workdir, options.batches, times, options.seed)
    if options.json:
        print(json.dumps(told, indent=2))
        return 0
    print(f"step {told['step']}, {told['latents']} latents of held-out text")
    for name, value in told["probe"].items():
        print(f"linear probe, {name}: {value:.3f}")
    for level in told["noise"]:
        print(f"reconstruction at t = {level['t']:.3f}: {level['accuracy']:.3f}")
    for row in told["drift"]:
        print(
            f"step {row['step']} against the newest: cosine {row['cosine']:.3f}, moved {row['moved']:.3f}, CKA {row['cka']:.3f}"
        )
    return 0
