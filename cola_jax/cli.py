"""`cola-jax COMMAND`: parses, calls, prints. Exit status: 0 done, 1 failed, 2 misused."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TextIO


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command. Returns the exit status; errors of the user's making are one line on stderr."""
    parser = build_parser()
    options, rest = parser.parse_known_args(arguments)
    command: Callable[[argparse.Namespace], int] = options.run
    try:
        options.assignments = (
            assignments(rest) if hasattr(options, "config") or options.command == "demo" else none_of(rest)
        )
        return command(options)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 1
    except Exception as error:
        status = status_of(error)
        if status is None:
            raise
        print(f"cola-jax {options.command}: {error}", file=sys.stderr)
        return status


def status_of(error: Exception) -> int | None:
    """2 for what the user can put right in the command, its config or files; 1 for a run that failed; None for a bug."""
    from cola_jax.config import ConfigError
    from cola_jax.data.errors import DataError
    from cola_jax.generate.prompts import PromptError
    from cola_jax.interop.errors import ReleasedFormatError
    from cola_jax.parallel.mesh import MeshError
    from cola_jax.train.run import TrainingDiverged
    from cola_jax.train.stored import CheckpointError
    from cola_jax.train.workdir import WorkdirError

    if isinstance(error, (ConfigError, DataError, PromptError, ReleasedFormatError, MeshError, WorkdirError, Misuse)):
        return 2
    return 1 if isinstance(error, (TrainingDiverged, CheckpointError, ImportError)) else None


class Misuse(ValueError):
    """A command line that does not hold together."""


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cola-jax", description="Pretrain continuous latent diffusion language models."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_demo(commands)
    _add_train(commands)
    _add_generate(commands)
    _add_prepare(commands)
    _add_convert(commands)
    _add_check_goldens(commands)
    return parser


def _command(commands, name: str, run: Callable[..., int], text: str, example: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name,
        help=text,
        description=f"{text[0].upper()}{text[1:]}.",
        epilog=f"example: {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.set_defaults(run=run)
    return parser


def _add_demo(commands) -> None:
    example = "cola-jax demo --workdir runs/demo"
    parser = _command(
        commands, "demo", run_demo, "train both stages on a small world of stories and report on them", example
    )
    parser.add_argument("--workdir", default="runs/demo", help="folder of the run; the same one continues it")
    parser.add_argument("--seed", type=int, default=None, help="seed of parameters and noise, in place of the config's")


def _add_train(commands) -> None:
    example = "cola-jax train --config own_text:vae,notes/*.txt --workdir runs/notes --config.train.steps=2000"
    parser = _command(commands, "train", run_train, "train the model of a config, or continue its workdir", example)
    _config_arguments(parser, required=False)
    parser.add_argument(
        "--workdir",
        required=True,
        help="folder of the run; the same command continues it, and --config may be left out",
    )


def _add_generate(commands) -> None:
    example = 'cola-jax generate --workdir runs/demo/joint --prompt "Anna was in the kitchen." --sampling.steps=8'
    parser = _command(commands, "generate", run_generate, "continue prompts, block by block", example)
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


def _add_prepare(commands) -> None:
    example = "cola-jax prepare --config own_text:vae,notes/*.txt --output prepared/notes"
    parser = _command(
        commands, "prepare", run_prepare, "tokenize and pack a corpus once, into ArrayRecord files", example
    )
    _config_arguments(parser)
    parser.add_argument("--output", required=True, help="folder to write; it must not hold a corpus yet")


def _add_convert(commands) -> None:
    example = "cola-jax convert import released/ runs/continued --config own_text:joint,notes/*.txt"
    parser = _command(
        commands, "convert", run_convert, "turn a released checkpoint into a workdir, or a workdir into one", example
    )
    parser.add_argument("direction", choices=("import", "export"), help="into a workdir, or out of one")
    parser.add_argument("source", help="released folder (cola_vae/, cola_dit/, tokenizer.json); export: the workdir")
    parser.add_argument("target", help="folder to make; it must be empty or absent")
    _config_arguments(parser, required=False)
    parser.add_argument("--step", default=None, help='export: a checkpoint\'s step, or "best"; the newest by default')
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16", "float16"), default=None,
        help="export: of all weights; by default as imported, or float32",
    )  # fmt: skip


def _add_check_goldens(commands) -> None:
    example = "cola-jax check-goldens goldens/base --json"
    text = "compare with a published implementation's numbers on small models"
    parser = _command(commands, "check-goldens", run_check_goldens, text, example)
    parser.add_argument("folder", help="folder with cases.npz and the models they are of, or a folder of such folders")
    parser.add_argument("--json", action="store_true", help="one JSON object in place of lines")
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16"), default="float32",
        help="of matmuls; the bounds are float32's: bfloat16 reports its drift and judges nothing",
    )  # fmt: skip


def _config_arguments(parser: argparse.ArgumentParser, required: bool = True) -> None:
    parser.add_argument(
        "--config", required=required, metavar="FILE[:ARG]", help="config file, or a name in experiments/"
    )
    parser.add_argument(
        "--config.a.b=VALUE", dest="_config", metavar="", default=None, help="override a field of the config"
    )


def assignments(rest: Sequence[str], prefix: str = "--config.") -> list[tuple[str, str]]:
    """Reads `--config.a.b=VALUE` arguments.

    Raises:
      Misuse: for anything else.
    """
    pairs = []
    for argument in rest:
        name, equals, value = argument.partition("=")
        if not name.startswith(prefix) or not equals:
            raise Misuse(f"unknown argument {argument!r}; overrides are {prefix}NAME=VALUE")
        pairs.append((name[len(prefix) :], value))
    return pairs


def none_of(rest: Sequence[str]) -> list[tuple[str, str]]:
    """The assignments of commands without a config: those of sampling fields."""
    return assignments(rest, "--sampling.")


def run_demo(options: argparse.Namespace) -> int:
    from cola_jax.demo import demo

    demo(options.workdir, seed=options.seed, overrides=options.assignments)
    return 0


def run_train(options: argparse.Namespace) -> int:
    from cola_jax import config, runs
    from cola_jax.train.workdir import stored_config

    if options.config is None:
        tree = config.to_config_dict(config.resolve(stored_config(Path(options.workdir))))
    else:
        tree = config.load(options.config)
    cfg = config.resolve(config.override(tree, options.assignments))
    summary = runs.run(cfg, options.workdir)
    print(f"{options.workdir}: {summary.step} of {cfg.train.steps} steps done")
    return 1 if summary.interrupted else 0


def run_generate(options: argparse.Namespace) -> int:
    from cola_jax.config import literal
    from cola_jax.writer import Writer

    if options.batch_size < 1:
        raise Misuse(f"--batch-size {options.batch_size} must be at least 1")
    if not Path(options.workdir).is_dir():
        raise Misuse(f"--workdir {options.workdir}: no such folder")
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


def step_of(given: str | None) -> int | str | None:
    """A checkpoint's step as a number, or the name that stands for one."""
    return int(given) if given and given.isdigit() else given


def open_output(path: str | None) -> AbstractContextManager[TextIO]:
    """Returns the file to write, or stdout, which stays open.

    Raises:
      Misuse: where the file cannot be written.
    """
    if path is None:
        return nullcontext(sys.stdout)
    try:
        return open(path, "w", encoding="utf-8")
    except OSError as error:
        raise Misuse(f"--output {path}: {error.strerror}") from error


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


def run_prepare(options: argparse.Namespace) -> int:
    from cola_jax import config
    from cola_jax.data.prepare import prepare

    cfg = config.resolve(config.override(config.load(options.config), options.assignments))
    print(json.dumps(prepare(cfg, options.output), indent=2))
    return 0


def run_convert(options: argparse.Namespace) -> int:
    from cola_jax import config
    from cola_jax.convert import export_released, import_released

    if options.direction == "export":
        if options.config or options.assignments:
            raise Misuse("convert export takes no --config: a workdir has its own")
        export_released(options.source, options.target, step_of(options.step), options.dtype, print)
        return 0
    if options.step or options.dtype:
        raise Misuse(
            "convert import takes no --step and no --dtype: weights are fp32 here, and an export remembers theirs"
        )
    tree = config.override(config.load(options.config) if options.config else config.base(), options.assignments)
    import_released(options.source, options.target, tree, [path for path, _ in options.assignments], print)
    return 0


def run_check_goldens(options: argparse.Namespace) -> int:
    from cola_jax.interop import goldens

    report = goldens.check(Path(options.folder), options.dtype)
    print(json.dumps(goldens.as_json(report), indent=2) if options.json else goldens.as_text(report))
    return 0 if report.passed else 1


if __name__ == "__main__":
    sys.exit(main())
