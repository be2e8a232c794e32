"""`cola-jax COMMAND`. Exit status: 0 success, 1 failure, 2 usage error, 143 preempted with a checkpoint."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import warnings
from collections.abc import Callable, Sequence

from cola_jax.commands import (
    check_goldens,
    compare,
    compile,
    convert,
    demo,
    evaluate,
    generate,
    latents,
    likelihood,
    lm_eval,
    prepare,
    quality,
    score,
    train,
)
from cola_jax.commands.arguments import PREEMPTED, Misuse, assignments, check
from cola_jax.errors import ConfigWarning, Preempted, UserError
from cola_jax.storage import is_store_error, reason

COMMANDS = (
    demo,
    train,
    generate,
    evaluate,
    score,
    likelihood,
    quality,
    latents,
    lm_eval,
    compare,
    prepare,
    compile,
    convert,
    check_goldens,
)  # in the order of the help


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command. Returns the exit status; user errors are printed as one line on stderr."""
    logging.getLogger("absl").setLevel(logging.CRITICAL)  # where Orbax logs tracebacks of errors that it raises as well
    parser = build_parser()
    options, rest = parser.parse_known_args(arguments)
    command: Callable[[argparse.Namespace], int] = options.run
    try:
        check(options, rest)
        options.assignments = assigned(options, rest)
        with warnings.catch_warnings():
            warnings.showwarning = show_warning
            status = command(options)
        sys.stdout.flush()  # here a closed pipe can still be distinguished from a failure
        return status
    except Preempted:
        return PREEMPTED
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 1
    except BrokenPipeError:  # the reader of the output has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        status = status_of(error)
        if status is None:
            raise
        print(f"cola-jax {options.command}: {one_line(error)}", file=sys.stderr)
        return status


def show_warning(message: Warning | str, category: type[Warning], *place: object) -> None:
    """Prints a warning about the user's config as one line; warnings of libraries are dropped."""
    if issubclass(category, ConfigWarning):
        print(f"warning: {message}", file=sys.stderr)


def status_of(error: Exception) -> int | None:
    """2 for errors that the user can fix in the command, its config or files; 1 for failures; None for a bug."""
    if isinstance(error, UserError):
        return error.exit_status
    if isinstance(error, (OSError, ImportError, MemoryError)) or is_store_error(error):
        return 1
    no_backend = isinstance(error, RuntimeError) and "backend" in str(error)  # JAX_PLATFORMS=tpu without a TPU
    return 1 if no_backend else None


def one_line(error: Exception) -> str:
    """Returns an error's message; an OSError's file name first."""
    if isinstance(error, MemoryError):
        return "out of memory"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {reason(error)}" if error.filename else reason(error)
    return " ".join(str(error).splitlines())


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cola-jax", description="Pretrain continuous latent diffusion language models."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add(commands)
    return parser


def assigned(options: argparse.Namespace, rest: Sequence[str]) -> list[tuple[str, str]]:
    """Returns the assignments that the command takes: of config fields, of sampling fields, or none.

    Raises:
      Misuse: for any other argument.
    """
    if hasattr(options, "config") or options.command == "demo":
        return assignments(rest)
    if hasattr(options, "_sampling"):
        return assignments(rest, "--sampling.")
    if rest:
        raise Misuse(f"unknown argument {rest[0]!r}")
    return []


if __name__ == "__main__":
    sys.exit(main())
