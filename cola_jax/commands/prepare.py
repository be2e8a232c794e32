"""`cola-jax prepare`."""

from __future__ import annotations

import argparse
import json

from cola_jax.commands.arguments import command, config_arguments, path_argument


def add(commands) -> None:
    example = "cola-jax prepare --config own_text:vae,notes/*.txt --output prepared/notes"
    parser = command(commands, "prepare", run, "tokenize and pack a corpus once, into ArrayRecord files", example)
    config_arguments(parser)
    parser.add_argument(
        "--output", type=path_argument, required=True, help="output folder; it must not hold a corpus yet"
    )


def run(options: argparse.Namespace) -> int:
    from cola_jax import config
    from cola_jax.data.prepare import prepare_corpus

    cfg = config.resolve(config.override(config.load(options.config), options.assignments))
    print(json.dumps(prepare_corpus(cfg, options.output), indent=2))
    return 0
