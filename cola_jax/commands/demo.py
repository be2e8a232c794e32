"""`cola-jax demo`."""

from __future__ import annotations

import argparse

from cola_jax.commands.arguments import command, path_argument


def add(commands) -> None:
    example = "cola-jax demo --workdir runs/demo"
    parser = command(commands, "demo", run, "train both stages on stories of a small world and write a report", example)
    parser.add_argument(
        "--workdir", type=path_argument, default="runs/demo", help="folder of the run; the same one continues it"
    )
    parser.add_argument("--seed", type=int, default=None, help="seed of parameters and noise, instead of the config's")


def run(options: argparse.Namespace) -> int:
    from cola_jax.demo.demo import demo

    demo(options.workdir, seed=options.seed, overrides=options.assignments)
    return 0
