"""`cola-jax compile`."""

from __future__ import annotations

import argparse
import json
import os

from cola_jax.commands.arguments import Misuse, command, config_arguments, path_argument


def add(commands) -> None:
    example = "cola-jax compile --config cola_2b:joint,PREPARED,W --topology v5p:2x2x4 --topology v5e:8x8"
    text = "compile a config's programs for a topology without its devices, and report memory, FLOPs and time"
    parser = command(commands, "compile", run, text, example)
    config_arguments(parser, required=False)
    parser.add_argument(
        "--topology", action="append", default=None, metavar="NAME",
        help="v5p:2x2x4, several slices v5e:16x16*4, or cpu:8; may be given several times",
    )  # fmt: skip
    parser.add_argument("--program", choices=("train", "generate", "all"), default="all", help="which steps to compile")
    parser.add_argument("--rows", type=int, default=16, help="batch size (prompts) of the generate step")
    parser.add_argument("--prompt", type=int, default=256, help="tokens per prompt of the generate step")
    parser.add_argument("--json", action="store_true", help="one JSON list instead of lines")
    parser.add_argument(
        "--save",
        default=None,
        type=path_argument,
        metavar="FILE",
        help="save the executable; needs one topology and one program",
    )
    parser.add_argument(
        "--load",
        default=None,
        type=path_argument,
        metavar="FILE",
        help="print the report of a saved executable; nothing is compiled",
    )


def run(options: argparse.Namespace) -> int:
    if options.load:
        return show_saved(options)
    if not options.config or not options.topology:
        raise Misuse("compile needs --config and --topology (or --load FILE)")
    from cola_jax.aot import topology

    for name in options.topology:
        topology.check(name)
    become_able_to_compile(options.topology)
    from cola_jax import config
    from cola_jax.aot.compile import as_text, compile_program
    from cola_jax.aot.executable import save
    from cola_jax.families import FAMILIES

    cfg = config.resolve(config.override(config.load(options.config), options.assignments))
    writes = FAMILIES[cfg.family].generator is not None
    programs = [options.program] if options.program != "all" else ["train", "generate"] if writes else ["train"]
    if options.save and len(programs) * len(options.topology) != 1:
        raise Misuse("--save writes one executable: give one --topology, and --program train or generate")
    reports = []
    for name in options.topology:
        for program in programs:
            report, compiled = compile_program(cfg, name, program, options.rows, options.prompt)
            reports.append(report)
            if not options.json:
                print(as_text(report), flush=True)
            if options.save and compiled is not None:
                save(options.save, cfg, report, compiled)
    show_json(options, reports)
    return 0 if all(report.fits for report in reports) else 1


def become_able_to_compile(topologies: list[str]) -> None:
    """Sets up this process before a backend starts: enough CPU devices, and a TPU compiler that does not claim a TPU."""
    import jax

    counts = [int(name[4:]) for name in topologies if name.startswith("cpu:")]
    if counts and max(counts) > 1:
        jax.config.update("jax_num_cpu_devices", max(counts))
    jax.config.update("jax_enable_compilation_cache", False)  # a cached executable cannot be serialized
    # libtpu reads these; without them it looks for a TPU and lets one process per machine load it.
    os.putenv("TPU_SKIP_MDS_QUERY", "1")
    os.putenv("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")


def show_saved(options: argparse.Namespace) -> int:
    if options.config or options.topology or options.save:
        raise Misuse("--load prints the report of a saved executable: it takes no --config, --topology or --save")
    from cola_jax.aot.compile import as_text
    from cola_jax.aot.executable import load_report

    report = load_report(options.load)
    if not options.json:
        print(as_text(report))
    show_json(options, [report])
    return 0 if report.fits else 1


def show_json(options: argparse.Namespace, reports: list) -> None:
    if options.json:
        from cola_jax.aot.compile import as_json

        print(json.dumps([as_json(report) for report in reports], indent=2))
