"""Shared by several commands: declaration, config, assignments, files that are read and written."""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from cola_jax import storage
from cola_jax.errors import UserError

PREEMPTED = 143  # a signal ended a run after its checkpoint: 128 + SIGTERM, which schedulers restart
STEP = re.compile(r"[0-9]{1,18}")
SEEDS = 2**32  # exclusive bound of seeds: the number of bits that jax reads
LARGEST_BATCH = 2**16  # rows
MANY = 2**20  # bound of draws, steps, points: more is a typing error


class Misuse(UserError):
    """A command line whose options are invalid or contradict each other."""


def path_argument(text: str) -> str:
    """The argparse type of every path option, by which `check` finds them."""
    return text


def check(options: argparse.Namespace, rest: Sequence[str]) -> None:
    """Checks the texts and paths of a command line; expands `~` in paths.

    Raises:
      Misuse: for an empty path. StorageError: for text that is not valid Unicode, and a path that cannot be used.
    """
    for argument in rest:
        storage.check_text(argument, f"argument {argument!a}")
    for action in getattr(options, "actions", ()):
        name = action.option_strings[-1] if action.option_strings else action.metavar or action.dest
        given = getattr(options, action.dest, None)
        for value in given if isinstance(given, list) else [given]:
            if isinstance(value, str):
                storage.check_text(value, name)
        if action.type is path_argument and given is not None:
            many = isinstance(given, list)
            found = [_path(value, name) for value in (given if many else [given])]
            setattr(options, action.dest, found if many else found[0])


def _path(text: str, name: str) -> str:
    if not text:
        raise Misuse(f"{name} is empty: give a path")
    return str(storage.path(text, name))


def command(commands, name: str, run: Callable[..., int], text: str, example: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name,
        help=text,
        description=f"{text[0].upper()}{text[1:]}.",
        epilog=f"example: {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.set_defaults(run=run, actions=parser._actions)  # a list that grows with every added argument
    return parser


def config_arguments(parser: argparse.ArgumentParser, required: bool = True) -> None:
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


def ema_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--ema",
        action="store_true",
        help="the average of the parameters (train.ema_decay) instead of those of the last update",
    )


def run_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options that select a run and its parameters."""
    parser.add_argument("--workdir", type=path_argument, required=True, help="folder of a trained run")
    parser.add_argument("--step", default=None, help='a checkpoint\'s step, or "best"; the newest by default')
    ema_argument(parser)


def at_least(options: argparse.Namespace, least: Mapping[str, int]) -> None:
    """Raises Misuse if an option, by its name in `options`, is smaller than its bound in `least`."""
    for name, smallest in least.items():
        value = getattr(options, name)
        if value is not None and value < smallest:
            raise Misuse(f"--{name.replace('_', '-')} {value} must be at least {smallest}")


def below(options: argparse.Namespace, bounds: Mapping[str, int]) -> None:
    """Raises Misuse if an option is negative, or not below its bound in `bounds`."""
    at_least(options, dict.fromkeys(bounds, 0))
    for name, bound in bounds.items():
        value = getattr(options, name)
        if value is not None and value >= bound:
            raise Misuse(f"--{name.replace('_', '-')} {value} must be below {bound}")


def is_folder(options: argparse.Namespace, name: str = "workdir") -> None:
    """Raises Misuse if an option names no folder."""
    path = storage.path(getattr(options, name))
    if storage.is_remote(path):
        storage.check_access(path)
    if not path.is_dir():
        what = "is not a folder" if path.exists() else "no such folder"
        raise Misuse(f"--{name} {path}: {what}")


def step_of(given: str | None, name: str = "--step") -> int | str | None:
    """A checkpoint's step as a number, or "best".

    Raises:
      Misuse: for anything else.
    """
    if given is None or given == "best":
        return given
    if not STEP.fullmatch(given):
        raise Misuse(f'{name} {given}: give the step of a checkpoint, a whole number, or "best"')
    return int(given)


def sampling_argument(parser: argparse.ArgumentParser, remark: str = "") -> None:
    """Declares --sampling.NAME=VALUE, which `cli` parses itself."""
    text = f"any field of SamplingConfig, e.g. guidance{remark}"
    parser.add_argument("--sampling.NAME=VALUE", dest="_sampling", metavar="", default=None, help=text)


def print_figures(figures: dict[str, Any], as_json: bool) -> None:
    """Prints one value per line, or JSON."""
    if as_json:
        print(json.dumps(figures, indent=2))
        return
    for name, value in figures.items():
        print(f"{name.replace('_', ' ')}: {value:.4f}" if isinstance(value, float) else f"{name}: {value}")


def sampling_of(options: argparse.Namespace) -> dict[str, Any]:
    """Returns the sampling fields that the command line sets, by name."""
    from cola_jax.config import literal

    return {name: literal(text) for name, text in options.assignments}


def is_stdout(path: str | None) -> bool:
    return path is None or path == "-"


def check_output(path: str | None, *inputs: str | None) -> None:
    """Checks, before any work, that --output can be written and is not one of the input files.

    Raises:
      Misuse: otherwise.
    """
    if is_stdout(path):
        return
    target = storage.path(path)
    if path in inputs:
        raise Misuse(f"--output {path} is the file that is read: give another one")
    if storage.is_remote(target):
        storage.check_access(target)
        return
    if target.is_dir():
        raise Misuse(f"--output {path} is a folder: give a file")
    for given in inputs:
        if given is not None and target.exists() and os.path.exists(given) and target.samefile(given):
            raise Misuse(f"--output {path} is the file that is read: give another one")
    folder = target.resolve().parent
    if not folder.is_dir():
        raise Misuse(f"--output {path}: {folder} is not a folder")
    if not os.access(folder if not target.exists() or target.is_file() else target, os.W_OK):
        raise Misuse(f"--output {path}: permission denied")


@contextmanager
def open_output(path: str | None) -> Iterator[TextIO]:
    """Yields the file to write, or stdout for None and "-", which is not closed.

    The old file is kept until everything is written: output goes to FILE.partial, which remains after an interrupted
    command. Devices and pipes are written directly.

    Raises:
      Misuse: if the file cannot be written.
    """
    if is_stdout(path):
        yield sys.stdout
        return
    if storage.is_remote(storage.path(path)):
        text = io.StringIO()
        yield text
        storage.write_bytes(storage.path(path), text.getvalue().encode())
        return
    target = Path(path).resolve()
    direct = target.exists() and not target.is_file()
    partial = target if direct else target.with_name(target.name + ".partial")
    try:
        file = open(partial, "w", encoding="utf-8")  # noqa: SIM115
    except OSError as error:
        raise Misuse(f"--output {path}: {storage.reason(error)}") from error
    with file:
        yield file
    if not direct:
        os.replace(partial, target)


def write_output(path: str, text: str) -> None:
    """Writes a whole output file, see `open_output`."""
    with open_output(path) as out:
        out.write(text)
