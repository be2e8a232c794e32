"""Kills a joint run of two processes in an emulated bucket at random times, until it has been killed often enough.

    python -m benchmarks.kills --scheme s3 --kills 100

A kill is SIGKILL of both processes, or of one, as when a host is lost: then the other is killed some seconds later. In the end
the run must have the losses of one that was never interrupted, bit by bit, each step in one line, and its parameters.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks import emulators
from benchmarks.measure import machine
from cola_jax import storage
from cola_jax.storage import AnyPath
from cola_jax.train.checkpoint import load_params
from cola_jax.train.metrics import read_metrics
from cola_jax.train.stored import folder, steps_in

PROCESSES = 2
CONFIG = {
    "data.sources.0.kind": "tinyworld", "data.generated_documents": 64, "data.heldout_documents": 4,
    "tokenizer.kind": "bytes", "vae.vocab_size": 258, "vae.dim": 16, "vae.ffn_dim": 24, "vae.num_heads": 2,
    "vae.encoder_blocks": 1, "vae.decoder_blocks": 1, "vae.latent_dim": 4, "dit.dim": 16, "dit.num_layers": 1,
    "dit.num_heads": 2, "dit.head_dim": 8, "dit.block_size": 4, "dit.rope_dim": 6, "dit.time_frequencies": 8,
    "objective.latent_policy": "scratch", "train.batch_size": 8, "train.sequence_length": 32, "train.log_every": 1,
    "train.eval_every": 0, "train.plot_every": 0, "checkpoint.every": 10, "optimizer.warmup_steps": 1,
    "optimizer.schedule": "constant", "mesh.data": -1, "mesh.fsdp": 1, "compute.dtype": "float32",
}  # fmt: skip


def config_file(place: Path) -> Path:
    """Writes a config of a tiny model of both stages."""
    file = place / "tiny_joint.py"
    lines = [f"    config.override(c, [({path!r}, {str(value)!r})])" for path, value in CONFIG.items()]
    head = [
        "from cola_jax import config",
        "",
        "def get_config(arg=None):",
        "    c = config.base()",
        "    c.family = 'cola'",
    ]
    file.write_text("\n".join([*head, *lines, "    return c", ""]))
    return file


def start(file: Path, workdir: AnyPath, steps: int, log: Path) -> list[subprocess.Popen]:
    """Starts the processes of the run."""
    coordinator = f"localhost:{emulators.free_port()}"
    program = [sys.executable, "-m", "cola_jax.cli", "train", "--config", str(file), "--workdir", str(workdir)]
    program += [f"--config.train.steps={steps}", "--coordinator", coordinator, "--num-processes", str(PROCESSES)]
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": str(log.parent / "compiled")}
    environment |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    with open(log, "ab") as out:
        return [
            subprocess.Popen([*program, "--process-id", str(index)], stdout=out, stderr=out, env=environment)
            for index in range(PROCESSES)
        ]


def kill(processes: list[subprocess.Popen], rng: random.Random) -> str:
    """Kills a run; returns how."""
    alive = [process for process in processes if process.poll() is None]
    one = rng.random() < 0.5 and len(alive) == PROCESSES
    for process in [rng.choice(alive)] if one else alive:
        process.send_signal(signal.SIGKILL)
    if one:
        time.sleep(rng.uniform(0.0, 3.0))
    for process in processes:
        process.kill()
        process.wait()
    return "one" if one else "both"


def wait_for_kill(processes: list[subprocess.Popen], workdir: AnyPath, rng: random.Random | None) -> None:
    """Waits until a run is to be killed: soon after its start or after its next checkpoint; for its end without rng."""
    is_alive = lambda: any(process.poll() is None for process in processes)
    saved, until = steps_in(folder(workdir))[-1:], time.monotonic() + 1800.0
    if rng is not None and rng.random() < 0.25:
        until = time.monotonic() + rng.uniform(0.0, 15.0)
    elif rng is not None:
        while is_alive() and steps_in(folder(workdir))[-1:] == saved:
            time.sleep(0.2)
        until = time.monotonic() + rng.uniform(0.0, 5.0)
    while is_alive() and time.monotonic() < until:
        time.sleep(0.05)


def same(ours: AnyPath, theirs: AnyPath) -> dict[str, object]:
    """Compares two finished runs."""
    lines = lambda place: [(line["step"], line["loss"]) for line in read_metrics(place) if "loss" in line]
    params = [load_params(place)[1] for place in (ours, theirs)]
    flat = [np.concatenate([np.ravel(x) for _, x in sorted(storage_leaves(tree))]) for tree in params]
    return {
        "losses": lines(ours) == lines(theirs),
        "lines": len(lines(ours)),
        "parameters": bool((flat[0] == flat[1]).all()),
    }


def storage_leaves(tree: object, name: str = "") -> list[tuple[str, np.ndarray]]:
    """Returns the arrays of nested dicts by path."""
    if isinstance(tree, dict):
        return [leaf for key, value in tree.items() for leaf in storage_leaves(value, f"{name}/{key}")]
    return [(name, np.asarray(tree))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scheme", choices=tuple(emulators.KINDS), default="s3")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng, begun = random.Random(options.seed), time.monotonic()
    with tempfile.TemporaryDirectory() as temporary, emulators.store(options.scheme) as root:
        place = Path(temporary)
        file, log, workdir = config_file(place), place / "log", storage.path(f"{root}/run")
        for process in start(file, place / "whole", options.steps, log):
            assert process.wait() == 0, log.read_text(errors="replace")[-3000:]
        alone = time.monotonic() - begun
        print(f"never interrupted: {options.steps} steps in {alone:.0f} s", flush=True)
        hows, kills, finished = {"one": 0, "both": 0}, 0, False
        while not finished:
            processes = start(file, workdir, options.steps, log)
            wait_for_kill(processes, workdir, rng if kills < options.kills else None)
            finished = all(process.poll() == 0 for process in processes)
            if not finished:
                hows[kill(processes, rng)] += 1
                kills += 1
                steps = steps_in(folder(workdir))
                print(f"kill {kills}: newest checkpoint {steps[-1] if steps else None}", flush=True)
        found = same(workdir, place / "whole")
        found |= {"kills": kills, "kills of one process": hows["one"], "scheme": options.scheme}
        found |= {"seconds": round(time.monotonic() - begun), "attempts": kills + 1, "machine": machine()}
        print(json.dumps(found, indent=2))
        assert found["losses"] and found["parameters"] and found["lines"] == options.steps


if __name__ == "__main__":
    main()
