"""`cola-jax generate`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from cola_jax.commands.arguments import Misuse, at_least, command, is_folder, open_output, step_of


def add(commands) -> None:
    example = 'cola-jax generate --workdir runs/demo/joint --prompt "Anna was in the kitchen." --sampling.steps=8'
    parser = command(commands, "generate", run, "continue prompts, block by block", example)
    parser.add_argument("--workdir", required=True, help="folder of a trained run")
    parser.add_argument("--step", default=None, help='a checkpoint\'s step, or "best"; the newest by default')
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--prompt", help="text to continue, streamed to stdout")
    source.add_argument("--prompts", help="file of prompts: one a line, or JSONL records with a field prompt")
    parser.add_argument("--output", default=None, help="JSONL file for --prompts; stdout by default")
    parser.add_argument("--batch-size", type=int, default=16, help="prompts of --prompts written at once")
    parser.add_argument("--seed", type=int, default=0, help="seed of the noise")
    parser.add_argument(
        "--sampling.NAME=VALUE",
        dest="_sampling",
        metavar="",
        default=None,
        help="any field of SamplingConfig, e.g. guidance",
    )


def run(options: argparse.Namespace) -> int:
    from cola_jax.config import literal
    from cola_jax.writer import Writer

    at_least(options, {"batch_size": 1})
    is_folder(options)
    step = step_of(options.step)
    sampling = {name: literal(value) for name, value in options.assignments}
    writer = Writer.load(options.workdir, step).with_sampling(**sampling)
    if options.prompt is not None:
        print(options.prompt, end="", flush=True)
        for piece in writer.stream(options.prompt, seed=options.seed):
            print(piece, end="", flush=True)
        print()
        return 0
    prompts = read_prompts(Path(options.prompts))
    with open_output(options.output) as out:
        for start in range(0, len(prompts), options.batch_size):
            batch = prompts[start : start + options.batch_size]
            numbers = range(start, start + len(batch))
            texts = writer.write(batch, seed=options.seed, samples=numbers)
            for prompt, text in zip(batch, texts):
                print(json.dumps({"prompt": prompt, "continuation": text}, ensure_ascii=False), file=out, flush=True)
    return 0


def read_prompts(path: Path) -> list[str]:
    """Reads one prompt a line, or JSONL records with a field `prompt` where the file is named so.

    Raises:
      Misuse: where the file is missing, empty, not text, or a record has no prompt.
    """
    if not path.is_file():
        raise Misuse(f"--prompts {path}: no such file")
    try:
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise Misuse(f"--prompts {path} is not UTF-8 text: {error}") from error
    if not lines:
        raise Misuse(f"--prompts {path} holds no prompts")
    return (
        [_prompt_of(line, path, number) for number, line in enumerate(lines, 1)] if path.suffix == ".jsonl" else lines
    )


def _prompt_of(line: str, path: Path, number: int) -> str:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise Misuse(f"--prompts {path}, line {number}, is not JSON: {error}") from error
    if not isinstance(record, dict) or not isinstance(record.get("prompt"), str):
        raise Misuse(f"--prompts {path}, line {number}: a record needs a field prompt with text")
    return record["prompt"]
