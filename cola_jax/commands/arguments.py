"""What several commands share: how one is declared, its config, its assignments, files it reads and writes."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TextIO

from cola_jax.errors import UserError

PREEMPTED = (
    143  # exit status of a run that a signal ended after its checkpoint: 128 + SIGTERM, which schedulers restart
)


class Misuse(UserError):
    """A command line that does not hold together."""


def command(commands, name: str, run: Callable[..., int], text: str, example: str) -> argparse.ArgumentParser:
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


def at_least(options: argparse.Namespace, least: Mapping[str, int]) -> None:
    """Raises Misuse where an option that is given is smaller than `least` has it, by its name in `options`."""
    for name, smallest in least.items():
        value = getattr(options, name)
        if value is not None and value < smallest:
            raise Misuse(f"--{name.replace('_', '-')} {value} must be at least {smallest}")


def is_folder(options: argparse.Namespace, name: str = "workdir") -> None:
    """Raises Misuse where an option names no folder."""
    path = getattr(options, name)
    if not Path(path).is_dir():
        raise Misuse(f"--{name} {path}: no such folder")


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
