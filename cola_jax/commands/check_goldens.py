"""`cola-jax check-goldens`."""

from __future__ import annotations

import argparse
import json

from cola_jax.commands.arguments import command, path_argument


def add(commands) -> None:
    example = "cola-jax check-goldens goldens/base --json"
    text = "compare with a published implementation's numbers on small models"
    parser = command(commands, "check-goldens", run, text, example)
    parser.add_argument(
        "folder", type=path_argument, help="folder with cases.npz and its models, or a folder of such folders"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object instead of lines")
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16"), default="float32",
        help="dtype of matmuls; bounds apply to float32 only: bfloat16 reports its differences without a verdict",
    )  # fmt: skip


def run(options: argparse.Namespace) -> int:
    from cola_jax.interop import goldens

    report = goldens.check(options.folder, options.dtype)
    print(json.dumps(goldens.as_json(report), indent=2) if options.json else goldens.as_text(report))
    return 0 if report.passed else 1
