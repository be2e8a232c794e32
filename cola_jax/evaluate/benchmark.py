"""Evaluation of a run on several tasks: records, checkpoint, devices."""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from cola_jax import storage
from cola_jax.config import ConfigError
from cola_jax.config.fields import MeshConfig
from cola_jax.data.errors import DataError
from cola_jax.evaluate import harness, protocol, summary, world_tasks
from cola_jax.evaluate.protocol import Task
from cola_jax.evaluate.records import Record, read_records
from cola_jax.evaluate.report import machine
from cola_jax.parallel.mesh import make_mesh
from cola_jax.runs.writer import Writer
from cola_jax.storage import AnyPath
from cola_jax.train.checkpoint import chosen_step


@dataclass(frozen=True)
class Request:
    """What to evaluate; see `cola-jax evaluate --help`."""

    workdir: str | AnyPath
    tasks: tuple[str, ...]
    step: int | str | None = None
    protocol: str | None = None
    output: str | None = None
    limit: int | None = None
    batch_size: int = 32
    context: int = 0
    seed: int = 0
    world_seed: int | None = None  # None: not given, 0
    shard_parameters: bool = False
    ema: bool = False


class Evaluated(NamedTuple):
    """The result of an evaluation: one row per task and scorer of all finished tasks in the output folder, and that folder."""

    rows: list[dict[str, Any]]
    folder: AnyPath


def evaluate_run(
    workdir: str | AnyPath, tasks: Sequence[str], sampling: dict[str, Any] | None = None, **options: Any
) -> Evaluated:
    """Answers and scores tasks with a run's checkpoint, as `cola-jax evaluate` does.

    Args:
      tasks: NAME=FILE.jsonl, NAME of the protocol, or tinyworld/NAME.
      sampling: {field of SamplingConfig: value}.
      options: fields of `Request`, by name.

    Raises:
      TypeError: for an option that does not exist. See `run` for the rest.
    """
    return run(Request(workdir, tuple(tasks), **options), sampling or {})


def run(request: Request, sampling: dict[str, Any]) -> Evaluated:
    """Evaluates every task.

    Several processes divide the records, and the first one writes the summary; each uses its own devices.

    Nothing is written before every task and its records are checked.

    Raises:
      DataError: for a task without records, a record or a protocol that cannot be used, and see `harness.evaluate`.
      CheckpointError, ConfigError: see `Writer.load` and `Writer.with_sampling`; and for an option that no task reads.
      StorageError: for paths that are not local, and files that cannot be read.
    """
    _refuse_unread(request)
    tasks = protocol.load(request.protocol)
    chosen = [_records(tasks, name, request) for name in request.tasks]
    workdir = storage.path(request.workdir, "--workdir")
    step = chosen_step(workdir, request.step)
    mesh = _mesh(request.shard_parameters)
    writer = Writer.load(workdir, step, mesh, request.ema).with_sampling(**sampling)
    size = request.batch_size if mesh is None else -(-request.batch_size // mesh.size) * mesh.size
    share = harness.Share(jax.process_index(), jax.process_count())
    plan = harness.EvaluationPlan(step, request.seed, size, request.context, request.ema)
    folder = storage.path(
        request.output or workdir / "evaluation" / (f"{step}-ema" if request.ema else str(step)), "--output"
    )
    asked = [(world_tasks.task_of(t, r, writer.tokenizer) if isinstance(t, str) else t, r) for t, r in chosen]
    for task, records in asked:
        sampled = writer.with_sampling(max_new_tokens=task.max_new_tokens)
        harness.check(
            folder / task.name, harness.setting_of(sampled, task, harness.ask(sampled, task, records, plan), plan)
        )
    summary.collect(folder)
    _refuse_unwritable(folder)
    for task, records in asked:
        harness.evaluate(writer, task, records, folder, plan, share)
    facts = {"family": writer.cfg.family, "step": step, "ema": request.ema, "seed": request.seed, "machine": machine()}
    facts |= {"processes": share.count, "sampling": dataclasses.asdict(writer.cfg.sampling)}
    rows = summary.write(folder, facts) if share.index == 0 else summary.collect(folder)
    return Evaluated(rows, folder)


def as_text(found: Evaluated) -> str:
    """Returns the table of an evaluation, and after it the folder."""
    return f"{summary.as_text(found.rows)}\n{found.folder}"


def _records(tasks: dict[str, Task], named: str, request: Request) -> tuple[Task | str, list[Record]]:
    """Reads NAME=FILE, or the protocol's file for NAME; generates the records of a task of the small world.

    The latter returns its name: its number of new tokens depends on the tokenizer.
    """
    name, equals, path = named.partition("=")
    if world_tasks.is_built_in(name):
        if equals:
            raise DataError(f"task {named!r}: {name} makes its own records and takes no file")
        return name, world_tasks.records_of(name, request.world_seed or 0, request.limit or world_tasks.RECORDS)
    task = protocol.task_of(tasks, name)
    if equals and not path:
        raise DataError(f"task {named!r}: no file after the =")
    if not path and not task.records:
        raise DataError(f"task {name!r}: give the file of its records, --tasks {name}=FILE.jsonl")
    return task, read_records(path or task.records)[: request.limit]


def _refuse_unread(request: Request) -> None:
    """Raises DataError or ConfigError for tasks that are given twice and options that none of the tasks reads."""
    names = [named.partition("=")[0] for named in request.tasks]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise DataError(f"task {twice[0]!r} is given twice: give each name once")
    built_in = [world_tasks.is_built_in(name) for name in names]
    if request.world_seed is not None and not any(built_in):
        raise ConfigError("--world-seed is read by tasks tinyworld/NAME alone, and there is none")
    if request.protocol is not None and all(built_in):
        raise ConfigError("--protocol is not read by tasks tinyworld/NAME, and there is no other")


def _refuse_unwritable(folder: AnyPath) -> None:
    """Raises DataError if the folder cannot be created or written."""
    if storage.is_remote(folder):
        storage.check_access(folder)
        return
    nearest = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
    if not nearest.is_dir():
        raise DataError(f"--output {folder}: {nearest} is not a folder")
    if not os.access(nearest, os.W_OK):
        raise DataError(f"--output {folder}: {nearest} cannot be written; give another --output")


def _mesh(shard_parameters: bool) -> Mesh | None:
    """The mesh of the process's devices: prompts sharded, parameters replicated or sharded. None on a single device."""
    devices = jax.local_devices()
    if len(devices) == 1:
        if shard_parameters:
            raise ConfigError("--shard-parameters shards them over several devices, and this process has one")
        return None
    return make_mesh(MeshConfig(data=1, fsdp=-1) if shard_parameters else MeshConfig(data=-1, fsdp=1), devices)
