"""`cola-jax score`."""

from __future__ import annotations

import argparse
import json

from cola_jax.commands.arguments import Misuse, command, path_argument


def add(commands) -> None:
    example = "cola-jax score --task mmlu generations/mmlu.jsonl --json"
    parser = command(commands, "score", run, "score existing generations", example)
    parser.add_argument("--task", required=True, help="a task of the protocol, which defines how an answer is scored")
    parser.add_argument(
        "files",
        nargs="+",
        type=path_argument,
        metavar="FILE",
        help="JSONL with generate, answer or ground_truth, choices",
    )
    parser.add_argument(
        "--scorer", choices=("release", "paper", "both"), default="both",
        help="release: as for the published numbers; paper: the choice that matches best",
    )  # fmt: skip
    parser.add_argument(
        "--protocol", type=path_argument, metavar="FILE", help="TOML file instead of the paper's protocol"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object instead of lines")


def run(options: argparse.Namespace) -> int:
    from cola_jax.evaluate import protocol, summary
    from cola_jax.evaluate.records import read_generations

    task = protocol.task_of(protocol.load(options.protocol), options.task)
    scorers = ("release", "paper") if options.scorer == "both" else (options.scorer,)
    if len(set(options.files)) < len(options.files):
        raise Misuse("a file is given twice: each is scored once")
    read = {name: read_generations(name) for name in options.files}
    parts = dict(read)
    if len(read) > 1:
        parts["all files"] = [generation for generations in read.values() for generation in generations]
    rows = [
        {"task": task.name, "file": name} | row
        for name, generations in parts.items()
        for row in summary.scored(task, generations, scorers)
    ]
    print(json.dumps({"scores": rows}, indent=2) if options.json else summary.as_text(rows))
    return 0
