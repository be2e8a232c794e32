"""How a command that runs on several hosts is told of the others."""

from __future__ import annotations

import argparse

from cola_jax.commands.arguments import Misuse


def process_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--distributed", action="store_true",
        help="one of several processes, which find each other through Slurm, Open MPI, GKE or the TPU VMs' metadata",
    )  # fmt: skip
    parser.add_argument("--coordinator", default=None, metavar="HOST:PORT", help="or: where process 0 listens")
    parser.add_argument("--num-processes", type=int, default=None, help="with --coordinator: processes of the run")
    parser.add_argument("--process-id", type=int, default=None, help="with --coordinator: which one this is, from 0")


def join(options: argparse.Namespace) -> None:
    """Connects this process with the others before any backend starts; alone, does nothing.

    Raises:
      Misuse: where the flags do not hold together, or no cluster is found.
    """
    explicit = (options.coordinator, options.num_processes, options.process_id)
    given = [value is not None for value in explicit]
    if not options.distributed and not any(given):
        return
    if options.distributed and any(given):
        raise Misuse("--distributed finds the processes itself: leave out --coordinator, --num-processes, --process-id")
    if any(given) and not all(given):
        raise Misuse("--coordinator, --num-processes and --process-id go together")
    if all(given) and not 0 <= options.process_id < options.num_processes:
        raise Misuse(f"--process-id {options.process_id} must be from 0 to {options.num_processes - 1}")
    import jax

    try:
        jax.distributed.initialize(*explicit)
    except ValueError as error:  # what jax says where it recognises no cluster
        raise Misuse(
            f"--distributed found no cluster ({error}); give --coordinator HOST:PORT and the two counts"
        ) from error
