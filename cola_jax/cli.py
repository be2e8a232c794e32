"""`cola-jax COMMAND`: parses, calls, prints. Exit status: 0 done, 1 failed, 2 misused."""

from __future__ import annotations

import argparse
import sys
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
from cola_jax.commands.arguments import Misuse, assignments

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
    """Runs one command. Returns the exit status; errors of the user's making are one line on stderr."""
    parser = build_parser()
    options, rest = parser.parse_known_args(arguments)
    command: Callable[[argparse.Namespace], int] = options.run
    try:
        options.assignments = assigned(options, rest)
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
