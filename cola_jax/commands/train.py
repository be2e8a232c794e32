"""`cola-jax train`."""

from __future__ import annotations

import argparse
import time

from cola_jax import storage
from cola_jax.commands.arguments import PREEMPTED, command, config_arguments, path_argument
from cola_jax.commands.processes import join, process_arguments


def add(commands) -> None:
    example = "cola-jax train --config own_text:vae,notes/*.txt --workdir runs/notes --config.train.steps=2000"
    parser = command(commands, "train", run, "train the model of a config, or continue its workdir", example)
    config_arguments(parser, required=False)
    process_arguments(parser)
    parser.add_argument(
        "--workdir",
        type=path_argument,
        required=True,
        help="folder of the run; the same command continues it, then --config may be omitted",
    )
    parser.add_argument(
        "--executable", default=None, type=path_argument, metavar="FILE",
        help="training step saved by `cola-jax compile --save FILE`, instead of compiling; a pickle: load only trusted files",
    )  # fmt: skip


def run(options: argparse.Namespace) -> int:
    begun = time.perf_counter()
    join(options)
    from cola_jax import config, runs
    from cola_jax.train.workdir import stored_config

    if options.config is None:
        tree = config.to_config_dict(config.resolve(stored_config(storage.path(options.workdir))))
    else:
        tree = config.load(options.config)
    cfg = config.resolve(config.override(tree, options.assignments))
    summary = runs.run_training(cfg, options.workdir, executable=options.executable, begun=begun)
    print(f"{options.workdir}: {summary.step} of {cfg.train.steps} steps done")
    return PREEMPTED if summary.interrupted else 0
