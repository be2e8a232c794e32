"""`cola-jax lm-eval`."""

from __future__ import annotations

import argparse
import json

from cola_jax.commands.arguments import (
    LARGEST_BATCH,
    Misuse,
    at_least,
    below,
    check_output,
    command,
    is_folder,
    path_argument,
    run_arguments,
    sampling_argument,
    sampling_of,
    step_of,
    write_output,
)


def add(commands) -> None:
    example = "cola-jax lm-eval --workdir runs/notes/joint --tasks my_task --include tasks/ --sampling.steps=16"
    text = "run generative tasks of EleutherAI's lm-evaluation-harness (extra lm-eval)"
    parser = command(commands, "lm-eval", run, text, example)
    run_arguments(parser)
    parser.add_argument(
        "--tasks", required=True, nargs="+", metavar="NAME", help="tasks whose output is generate_until"
    )
    parser.add_argument(
        "--include", type=path_argument, metavar="FOLDER", help="folder of YAML files with tasks of your own"
    )
    parser.add_argument("--limit", type=int, default=None, help="number of documents of each task; all by default")
    parser.add_argument("--batch-size", type=int, default=32, help="batch size: prompts answered at once")
    parser.add_argument(
        "--context", type=int, default=0, help="tokens of prompt and answer; the training row length by default"
    )
    parser.add_argument(
        "--max-new-tokens", type=int, default=32, help="new tokens, if a task does not set max_gen_toks"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the noise")
    parser.add_argument("--output", type=path_argument, metavar="FILE", help="JSON with results and samples")
    sampling_argument(parser, remark="; max_new_tokens is the task's")


def run(options: argparse.Namespace) -> int:
    from cola_jax.evaluate import lm_harness
    from cola_jax.evaluate.harness import EvaluationPlan
    from cola_jax.runs.writer import Writer
    from cola_jax.train.checkpoint import chosen_step

    at_least(options, {"limit": 1, "batch_size": 1, "max_new_tokens": 1, "context": 0})
    below(options, {"seed": 2**32, "batch_size": LARGEST_BATCH})  # the harness passes the seed to numpy
    chosen = step_of(options.step)
    is_folder(options)
    if options.include is not None:
        is_folder(options, "include")
    if options.output == "-":
        raise Misuse("--output -: stdout is for the results; give a file")
    check_output(options.output)
    sampling = sampling_of(options)
    if "max_new_tokens" in sampling:
        raise Misuse("--sampling.max_new_tokens: a task sets its number of new tokens, or --max-new-tokens does")
    step = chosen_step(options.workdir, chosen)
    writer = Writer.load(options.workdir, step, ema=options.ema).with_sampling(**sampling)
    plan = EvaluationPlan(step, options.seed, options.batch_size, options.context)
    found = lm_harness.evaluate(writer, plan, options.tasks, options.include, options.limit, options.max_new_tokens)
    for task, figures in found["results"].items():
        for name, value in figures.items():
            if isinstance(value, float):
                print(f"{task}  {name}  {value:.4f}")
    if options.output:
        told = {"results": found["results"], "samples": found.get("samples")}
        write_output(options.output, json.dumps(told, indent=2, default=str))
    return 0
