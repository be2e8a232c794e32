"""Several tasks on one run: which records, which checkpoint, which devices."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from cola_jax.config.fields import MeshConfig
from cola_jax.data.errors import DataError
from cola_jax.evaluate import harness, protocol, summary, world_tasks
from cola_jax.evaluate.protocol import Task
from cola_jax.evaluate.records import Record, read_records
from cola_jax.evaluate.report import machine
from cola_jax.parallel.mesh import make_mesh
from cola_jax.train.checkpoint import chosen_step
from cola_jax.writer import Writer


@dataclass(frozen=True)
class Request:
    """What to evaluate; see `cola-jax evaluate --help`."""

    workdir: Path
    step: int | str | None
    tasks: tuple[str, ...]
    protocol: str | None
    output: str | None
    limit: int | None
    batch_size: int
    context: int
    seed: int
    world_seed: int
    shard_parameters: bool


def run(request: Request, sampling: dict[str, Any]) -> str:
    """Evaluates every task; returns the table of all that is done in the output folder.

    Several processes share the records out, and the first one writes the summary; each works on its own devices.

    Raises:
      DataError: for a task without records, a record or a protocol that cannot be used, and see `harness.evaluate`.
      CheckpointError, ConfigError: see `Writer.load` and `Writer.with_sampling`.
    """
    tasks = protocol.load(request.protocol)
    chosen = [_records(tasks, name, request) for name in request.tasks]
    step = chosen_step(request.workdir, request.step)
    mesh = _mesh(request.shard_parameters)
    writer = Writer.load(request.workdir, step, mesh).with_sampling(**sampling)
    size = request.batch_size if mesh is None else -(-request.batch_size // mesh.size) * mesh.size
    share = harness.Share(jax.process_index(), jax.process_count())
    plan = harness.Plan(step, request.seed, size, request.context)
    folder = Path(request.output or request.workdir / "evaluation" / str(step))
    for task, records in chosen:
        if isinstance(task, str):
            task = world_tasks.task_of(task, records, writer.tokenizer)
        harness.evaluate(writer, task, records, folder, plan, share)
    facts = {"family": writer.cfg.family, "step": step, "seed": request.seed, "machine": machine()}
    facts |= {"processes": share.count, "sampling": dataclasses.asdict(writer.cfg.sampling)}
    rows = summary.write(folder, facts) if share.index == 0 else summary.collect(folder)
    return f"{summary.as_text(rows)}\n{folder}"


def _records(tasks: dict[str, Task], named: str, request: Request) -> tuple[Task | str, list[Record]]:
    """Reads NAME=FILE, or the file that the protocol names for NAME; makes the records of a task of the small world.

    The latter comes by its name: how much it generates depends on the tokenizer.
    """
    name, equals, path = named.partition("=")
    if world_tasks.is_built_in(name):
        if equals:
            raise DataError(f"task {named!r}: {name} makes its own records and takes no file")
        return name, world_tasks.records_of(name, request.world_seed, request.limit or world_tasks.RECORDS)
    task = protocol.task_of(tasks, name)
    if equals and not path:
        raise DataError(f"task {named!r}: no file behind the =")
    if not path and not task.records:
        raise DataError(f"task {name!r}: give the file of its records, --tasks {name}=FILE.jsonl")
    return task, read_records(path or task.records)[: request.limit]


def _mesh(shard_parameters: bool) -> Mesh | None:
    """The process's devices: prompts split over them, parameters copied, or split as well. None on a single device."""
    devices = jax.local_devices()
    if len(devices) == 1:
        return None
    return make_mesh(MeshConfig(data=1, fsdp=-1) if shard_parameters else MeshConfig(data=-1, fsdp=1), devices)
