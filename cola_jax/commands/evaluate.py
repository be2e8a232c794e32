"""`cola-jax evaluate`."""

from __future__ import annotations

import argparse

from cola_jax.commands.arguments import (
    LARGEST_BATCH,
    SEEDS,
    Misuse,
    at_least,
    below,
    command,
    is_folder,
    path_argument,
    run_arguments,
    sampling_argument,
    sampling_of,
    step_of,
)
from cola_jax.commands.processes import join, process_arguments


def add(commands) -> None:
    example = "cola-jax evaluate --workdir runs/notes/joint --tasks lambada=lambada.jsonl my_task=questions.jsonl"
    parser = command(commands, "evaluate", run, "answer the questions of tasks and score the answers", example)
    process_arguments(parser)
    run_arguments(parser)
    parser.add_argument(
        "--tasks", required=True, nargs="+", metavar="NAME[=FILE]",
        help="NAME=FILE.jsonl, a task of the protocol or any name, and its records; or tinyworld/NAME, without a file",
    )  # fmt: skip
    parser.add_argument(
        "--world-seed", type=int, default=None, help="seed of the stories of tasks tinyworld/NAME, 0 by default"
    )
    parser.add_argument(
        "--protocol", type=path_argument, metavar="FILE", help="TOML file instead of the paper's protocol"
    )
    parser.add_argument(
        "--output", type=path_argument, help="folder of the answers; WORKDIR/evaluation/STEP by default"
    )
    parser.add_argument("--limit", type=int, default=None, help="number of records of each task, the first ones")
    parser.add_argument("--batch-size", type=int, default=32, help="batch size: questions answered at once")
    parser.add_argument(
        "--context", type=int, default=0, help="tokens of prompt and answer; the training row length by default"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the noise")
    parser.add_argument(
        "--shard-parameters", action="store_true", help="shard parameters over the devices instead of copying them"
    )
    sampling_argument(parser, remark="; max_new_tokens is the protocol's")


def run(options: argparse.Namespace) -> int:
    join(options)
    import jax

    from cola_jax.evaluate import benchmark

    at_least(options, {"limit": 1, "batch_size": 1, "context": 0})
    below(options, {"seed": SEEDS, "world_seed": SEEDS, "batch_size": LARGEST_BATCH})
    step = step_of(options.step)
    is_folder(options)
    sampling = sampling_of(options)
    if "max_new_tokens" in sampling:
        raise Misuse(
            "--sampling.max_new_tokens: the protocol sets the number of new tokens of a task; give --protocol FILE"
        )
    request = benchmark.Request(
        workdir=options.workdir,
        step=step,
        tasks=tuple(options.tasks),
        protocol=options.protocol,
        output=options.output,
        limit=options.limit,
        batch_size=options.batch_size,
        context=options.context,
        seed=options.seed,
        world_seed=options.world_seed,
        shard_parameters=options.shard_parameters,
        ema=options.ema,
    )
    found = benchmark.run(request, sampling)
    if jax.process_index() == 0:
        print(benchmark.as_text(found))
    return 0
