"""`cola-jax convert`."""

from __future__ import annotations

import argparse
from pathlib import Path

from cola_jax.commands.arguments import Misuse, command, config_arguments, ema_argument, local_path, step_of


def add(commands) -> None:
    example = "cola-jax convert import released/ runs/continued --config own_text:joint,notes/*.txt"
    parser = command(
        commands, "convert", run, "turn a released checkpoint into a workdir, or a workdir into one", example
    )
    parser.add_argument("direction", choices=("import", "export"), help="into a workdir, or out of one")
    parser.add_argument(
        "source",
        type=local_path,
        help="released folder (cola_vae/, cola_dit/), or one of the LLaMA form; export: the workdir",
    )
    parser.add_argument("target", type=local_path, help="folder to make; it must be empty or absent")
    config_arguments(parser, required=False)
    parser.add_argument("--step", default=None, help='export: a checkpoint\'s step, or "best"; the newest by default')
    ema_argument(parser)
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16", "float16"), default=None,
        help="export: of all weights; by default as imported, or float32",
    )  # fmt: skip


def run(options: argparse.Namespace) -> int:
    from cola_jax import config
    from cola_jax.interop.convert import export_released, import_released
    from cola_jax.interop.convert_llama import FAMILIES_OF_THE_FORM, export_llama, import_llama
    from cola_jax.interop.llama import is_llama, refuse_others
    from cola_jax.train.workdir import stored_config

    if options.direction == "export":
        if options.config or options.assignments:
            raise Misuse("convert export takes no --config: a workdir has its own")
        step = step_of(options.step)
        config_of_run = stored_config(Path(options.source))
        family = config_of_run.get("family") if isinstance(config_of_run, dict) else None
        export = export_llama if family in FAMILIES_OF_THE_FORM else export_released
        export(options.source, options.target, step, options.dtype, print, options.ema)
        return 0
    if options.step or options.dtype or options.ema:
        raise Misuse(
            "convert import takes no --step, --dtype or --ema: weights are fp32 here, and an export remembers theirs"
        )
    llama = is_llama(options.source)
    if not llama:
        refuse_others(options.source)
    tree = config.override(config.load(options.config) if options.config else config.base(), options.assignments)
    read = import_llama if llama else import_released
    read(options.source, options.target, tree, [path for path, _ in options.assignments], print)
    return 0
