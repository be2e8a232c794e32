"""`cola-jax likelihood`."""

from __future__ import annotations

import argparse

from cola_jax.commands.arguments import (
    LARGEST_BATCH,
    MANY,
    SEEDS,
    Misuse,
    at_least,
    below,
    check_output,
    command,
    is_folder,
    path_argument,
    print_figures,
    run_arguments,
    step_of,
    write_output,
)

PROMPT_TOKENS = 16


def add(commands) -> None:
    example = "cola-jax likelihood --workdir runs/notes/joint --draws 8 --estimator iwae"
    parser = command(commands, "likelihood", run, "estimate text log-likelihood", example)
    run_arguments(parser)
    parser.add_argument(
        "--records",
        type=path_argument,
        default=None,
        metavar="FILE",
        help="JSONL with prompt and answer; the run's held-out text by default",
    )
    parser.add_argument(
        "--prompt-tokens", type=int, default=None,
        help=f"tokens of a held-out document that condition the estimate; {PROMPT_TOKENS} by default",
    )  # fmt: skip
    parser.add_argument("--limit", type=int, default=256, help="number of texts, the first ones")
    parser.add_argument("--batch-size", type=int, default=32, help="batch size: texts at once")
    parser.add_argument("--seed", type=int, default=0, help="seed of the draws")
    parser.add_argument(
        "--draws", type=int, default=None, help="Monte Carlo draws; 4 (cola), 128 (llada), 32 (plaid) by default"
    )
    parser.add_argument("--steps", type=int, default=None, help="cola: steps of the prior's ODE, 32 by default")
    parser.add_argument("--solver", choices=("euler", "midpoint", "heun"), default=None, help="cola: heun by default")
    parser.add_argument(
        "--divergence", choices=("hutchinson", "exact"), default=None, help="cola: hutchinson by default"
    )
    parser.add_argument("--estimator", choices=("elbo", "iwae"), default=None, help="cola: elbo by default")
    parser.add_argument("--output", type=path_argument, metavar="FILE", help="JSONL with one line per text")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of lines")


def run(options: argparse.Namespace) -> int:
    from cola_jax.evaluate import text_likelihood
    from cola_jax.runs.writer import Writer

    at_least(options, {"limit": 1, "batch_size": 1, "prompt_tokens": 0, "draws": 1, "steps": 1})
    below(options, {"seed": SEEDS, "batch_size": LARGEST_BATCH, "draws": MANY, "steps": MANY})
    step = step_of(options.step)
    if options.records and options.prompt_tokens is not None:
        raise Misuse("--prompt-tokens splits held-out documents: --records has its own prompts")
    if options.output == "-":
        raise Misuse("--output -: stdout is for the results; give a file")
    is_folder(options)
    check_output(options.output, options.records)
    writer = Writer.load(options.workdir, step, ema=options.ema)
    given = {name: getattr(options, name) for name in text_likelihood.DEFAULTS}
    settings = text_likelihood.settings_of(writer.cfg.family, given)
    if options.records:
        pairs = text_likelihood.pairs_of_records(writer, options.records, options.limit)
    else:
        pairs = text_likelihood.pairs_of_heldout(
            writer, PROMPT_TOKENS if options.prompt_tokens is None else options.prompt_tokens, options.limit
        )
    rows = text_likelihood.measure(writer, pairs, settings, options.seed, options.batch_size)
    if options.output:
        write_output(options.output, text_likelihood.as_lines(rows))
    figures = {"family": writer.cfg.family} | text_likelihood.summarize(rows, options.seed)
    print_figures(figures, options.json)
    return 0
