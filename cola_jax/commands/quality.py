"""`cola-jax quality`."""

from __future__ import annotations

import argparse

from cola_jax.commands.arguments import (
    LARGEST_BATCH,
    Misuse,
    at_least,
    below,
    command,
    is_folder,
    path_argument,
    print_figures,
    step_of,
)


def add(commands) -> None:
    example = "cola-jax quality out.jsonl --judge runs/ar"
    parser = command(
        commands, "quality", run, "measure diversity, repetition and generative perplexity of free text", example
    )
    parser.add_argument(
        "file",
        type=path_argument,
        help="JSONL with prompt and continuation, as `cola-jax generate --prompts` writes it",
    )
    parser.add_argument(
        "--judge", type=path_argument, metavar="WORKDIR", help="run of family ar that computes generative perplexity"
    )
    parser.add_argument("--judge-step", default=None, help='a checkpoint\'s step of the judge, or "best"')
    parser.add_argument("--checker", action="store_true", help="check the texts as stories of the small world")
    parser.add_argument("--batch-size", type=int, default=None, help="batch size of the judge, 32 by default")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of lines")


def run(options: argparse.Namespace) -> int:
    from cola_jax.evaluate import quality
    from cola_jax.runs.writer import Writer

    at_least(options, {"batch_size": 1})
    below(options, {"batch_size": LARGEST_BATCH})
    for name in ("judge_step", "batch_size"):
        if getattr(options, name) is not None and not options.judge:
            raise Misuse(f"--{name.replace('_', '-')} needs --judge")
    step = step_of(options.judge_step, "--judge-step")
    if options.judge:
        is_folder(options, "judge")
    written = quality.read(options.file)
    figures = quality.figures(written, options.checker)
    if options.judge:
        judge = Writer.load(options.judge, step)
        figures |= quality.generative_perplexity(judge, written, options.batch_size or 32)
    print_figures(figures, options.json)
    return 0
