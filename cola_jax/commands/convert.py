"""`cola-jax convert`."""

from __future__ import annotations

import argparse

from cola_jax.commands.arguments import Misuse, command, config_arguments, ema_argument, path_argument, step_of


def add(commands) -> None:
    example = "cola-jax convert import released/ runs/continued --config own_text:joint,notes/*.txt"
    parser = command(commands, "convert", run, "convert a released checkpoint into a workdir, or the reverse", example)
    parser.add_argument(
        "direction", choices=("import", "export"), help="import: into a workdir; export: from a workdir"
    )
    parser.add_argument(
        "source",
        type=path_argument,
        help="import: released folder (cola_vae/, cola_dit/) or LLaMA folder; export: the workdir",
    )
    parser.add_argument("target", type=path_argument, help="output folder; it must be empty or absent")
    config_arguments(parser, required=False)
    parser.add_argument("--step", default=None, help='export: a checkpoint\'s step, or "best"; the newest by default')
    ema_argument(parser)
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16", "float16"), default=None,
        help="export: dtype of all weights; by default as imported, or float32",
    )  # fmt: skip


def run(options: argparse.Namespace) -> int:
    from cola_jax.interop.weights import export_weights, import_weights

    if options.direction == "export":
        if options.config or options.assignments:
            raise Misuse("convert export takes no --config: a workdir has its own")
        step = step_of(options.step)
        export_weights(options.source, options.target, step, options.dtype, options.ema)
        return 0
    if options.step or options.dtype or options.ema:
        raise Misuse(
            "convert import takes no --step, --dtype or --ema: weights are fp32 here, and an export restores theirs"
        )
    import_weights(options.source, options.target, options.config or "", dict(options.assignments))
    return 0
