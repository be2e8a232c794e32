"""Options of a command that runs on several hosts."""

from __future__ import annotations

import argparse

from cola_jax.commands.arguments import Misuse


def process_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--distributed", action="store_true",
        help="join several processes, which find each other through Slurm, Open MPI, GKE or the TPU VMs' metadata; "
        "under Slurm and Open MPI each uses one GPU, that of its rank on the node",
    )  # fmt: skip
    parser.add_argument(
        "--all-local-devices", action="store_true",
        help="with --distributed: use all GPUs that this process sees, as required with one process per node",
    )  # fmt: skip
    parser.add_argument(
        "--coordinator", default=None, metavar="HOST:PORT",
        help="alternative: address of process 0; each process uses all devices that it sees",
    )  # fmt: skip
    parser.add_argument("--num-processes", type=int, default=None, help="with --coordinator: number of processes")
    parser.add_argument(
        "--process-id", type=int, default=None, help="with --coordinator: index of this process, from 0"
    )


def join(options: argparse.Namespace) -> None:
    """Connects this process to the others before any backend starts; without the options, does nothing.

    Raises:
      Misuse: if the options contradict each other, or no cluster is found.
    """
    explicit = (options.coordinator, options.num_processes, options.process_id)
    given = [value is not None for value in explicit]
    if options.all_local_devices and not options.distributed:
        raise Misuse("--all-local-devices goes with --distributed; without it a process uses all devices anyway")
    if not options.distributed and not any(given):
        return
    if options.distributed and any(given):
        raise Misuse("--distributed finds the processes itself: leave out --coordinator, --num-processes, --process-id")
    if any(given) and not all(given):
        raise Misuse("--coordinator, --num-processes and --process-id go together")
    if all(given) and not 0 <= options.process_id < options.num_processes:
        raise Misuse(f"--process-id {options.process_id} must be from 0 to {options.num_processes - 1}")
    import jax

    # Given None, jax looks for a cluster even if the three are explicit, and selects the one GPU of the rank on the node.
    ids, method = ([], None) if options.all_local_devices else (None, None)
    if all(given):
        method = "deactivate"
    try:
        jax.distributed.initialize(*explicit, local_device_ids=ids, cluster_detection_method=method)
    except ValueError as error:  # raised by jax when it recognises no cluster
        raise Misuse(
            f"--distributed found no cluster ({error}); give --coordinator HOST:PORT and the two counts"
        ) from error
