"""`cola-jax generate`."""

from __future__ import annotations

import argparse
import json

from cola_jax.commands.arguments import (
    LARGEST_BATCH,
    SEEDS,
    Misuse,
    at_least,
    below,
    check_output,
    command,
    is_folder,
    is_stdout,
    open_output,
    path_argument,
    run_arguments,
    sampling_argument,
    sampling_of,
    step_of,
)

BATCH_SIZE = 16


def add(commands) -> None:
    example = 'cola-jax generate --workdir runs/demo/joint --prompt "Anna was in the kitchen." --sampling.steps=8'
    parser = command(commands, "generate", run, "continue prompts, block by block", example)
    run_arguments(parser)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--prompt", help="text to continue, streamed to stdout")
    source.add_argument(
        "--prompts", type=path_argument, metavar="FILE",
        help="file of prompts, - for stdin: one per line, or JSONL records with a field prompt; may be compressed",
    )  # fmt: skip
    parser.add_argument(
        "--output", type=path_argument, default=None, metavar="FILE", help="JSONL with prompt and continuation"
    )
    parser.add_argument(
        "--batch-size", type=int, default=None, help=f"prompts of --prompts generated at once, {BATCH_SIZE} by default"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the noise, if the sampler uses any")
    sampling_argument(parser)


def run(options: argparse.Namespace) -> int:
    from cola_jax.evaluate import prompts
    from cola_jax.runs.writer import Writer

    at_least(options, {"batch_size": 1})
    below(options, {"seed": SEEDS, "batch_size": LARGEST_BATCH})
    step = step_of(options.step)
    if options.prompt is not None and options.batch_size is not None:
        raise Misuse("--batch-size needs --prompts")
    is_folder(options)
    check_output(options.output, options.prompts)
    read = [prompts.Prompt("--prompt", options.prompt)] if options.prompts is None else prompts.read(options.prompts)
    writer = Writer.load(options.workdir, step, ema=options.ema).with_sampling(**sampling_of(options))
    rows = prompts.encode(writer, read)
    if options.prompt is not None and is_stdout(options.output):
        print(options.prompt, end="", flush=True)
        for [piece] in writer.stream_rows(rows, seed=options.seed):
            print(piece, end="", flush=True)
        print()
        return 0
    with open_output(options.output) as out:
        for prompt, text in prompts.answers(writer, read, rows, options.seed, options.batch_size or BATCH_SIZE):
            print(json.dumps({"prompt": prompt, "continuation": text}, ensure_ascii=False), file=out, flush=True)
    return 0
