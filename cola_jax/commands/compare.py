"""`cola-jax compare`."""

from __future__ import annotations

import argparse
import json

from cola_jax.commands.arguments import command, path_argument


def add(commands) -> None:
    example = "cola-jax compare cola_2b:joint,PREPARED,W ar_2b:PREPARED llada_2b:PREPARED"
    parser = command(
        commands, "compare", run, "compare configs or runs: fields, parameters, FLOPs, and what is not matched", example
    )
    parser.add_argument(
        "configs",
        nargs="+",
        metavar="CONFIG",
        type=path_argument,
        help="FILE[:ARG] or a name in experiments/, or a workdir",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object instead of lines")


def run(options: argparse.Namespace) -> int:
    from cola_jax.runs import comparison

    compared = comparison.compare_runs(options.configs)
    print(json.dumps(compared, indent=2) if options.json else comparison.as_text(compared))
    return 0
