"""The checkpoints of a run, in WORKDIR/checkpoints/STEP; `stored` describes what one holds.

Orbax writes into a temporary folder, in the background, and renames it when it is complete: a folder whose name is a
plain number is complete, even if the process was killed.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from jax.sharding import Mesh, SingleDeviceSharding

from cola_jax import storage
from cola_jax.config import RunConfig, from_stored, to_dict
from cola_jax.config.fields import CheckpointConfig
from cola_jax.parallel import ambient, rules
from cola_jax.train import stored
from cola_jax.train.integrity import leaves_by_path, nested
from cola_jax.train.state import TrainState

TREES = ("params", "opt_state", "frozen", "ema")
Warn = Callable[[str], None]
Trees = dict[str, Any]  # those of TREES that are present


def kept_steps(metrics: dict[int, dict[str, float]], cfg: CheckpointConfig) -> set[int]:
    """Returns which steps are kept: the newest, the multiples of keep_every, and the best by best_metric.

    Args:
      metrics: {step: held-out metrics, possibly none} of the existing checkpoints.
    """
    newest = sorted(metrics)[-cfg.keep_last :]
    regular = [step for step in metrics if cfg.keep_every > 0 and step % cfg.keep_every == 0]
    scored = [step for step in metrics if math.isfinite(metrics[step].get(cfg.best_metric, math.nan))]
    best = sorted(scored, key=lambda step: (metrics[step][cfg.best_metric], -step))
    return {*newest, *regular, *(best[: cfg.keep_best] if best else ())}


def tokenizer_files(source: dict[str, bytes] | str | Path | None) -> dict[str, bytes]:
    """Returns {name: bytes} of the files of a folder; a dict is returned unchanged."""
    if source is None or isinstance(source, dict):
        return dict(source or {})
    return {path.name: path.read_bytes() for path in sorted(Path(source).iterdir()) if path.is_file()}


def read_state(orbax: ocp.Checkpointer, path: Path, abstract: TrainState, strict: bool = True) -> Trees:
    """Returns the trees of a checkpoint on the shardings of `abstract`.

    Trees that the checkpoint does not have are left out: all but the parameters if `save_params` wrote it, and an average
    that its run did not compute.

    Args:
      strict: whether a tree that the checkpoint has and `abstract` lacks is an error; it is left out otherwise.

    Raises:
      CheckpointError: if a leaf is missing, extra or misshapen. Damaged: if it cannot be read.
    """
    expected = {name: leaves_by_path(getattr(abstract, name)) for name in TREES}
    meta = stored.read_meta(orbax, path)
    there = {leaf.split("/")[0] for leaf in meta["leaves"]}
    if meta.get("params_only", False):
        expected = {"params": expected["params"]}
    optional = () if strict else ("frozen", "ema")
    expected = {name: leaves for name, leaves in expected.items() if name in there or name not in ("ema", *optional)}
    if not strict:
        expected = {name: leaves for name, leaves in expected.items() if leaves}
    _, found = stored.read_trees(orbax, path, expected)
    structures = {name: jax.tree.structure(getattr(abstract, name)) for name in found}
    return {
        name: jax.tree.unflatten(structures[name], [leaves[p] for p in expected[name]])
        for name, leaves in found.items()
    }


def load_state(workdir: Path, step: int | str | None, abstract: TrainState, warn: Warn) -> tuple[int, Trees]:
    """Returns (step, trees) of another run's checkpoint that a run continues from; `step` as in `load_params`.

    Raises:
      CheckpointError: if there is none, it has no optimizer state, or it does not fit.
    """
    directory = stored.folder(workdir)
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as orbax:
        steps = stored.candidates(orbax, directory, step)
        read = lambda chosen: read_state(orbax, directory / str(chosen), abstract, strict=False)
        chosen, trees = stored.first_good(directory, steps, read, warn)
    if "opt_state" not in trees:
        raise stored.CheckpointError(
            f"{directory / str(chosen)} has no optimizer state to continue with: start from it without train.init_continue"
        )
    return chosen, trees


class Checkpoints:
    """The checkpoints of one run, and their only writer. One is written at a time, optionally in the background."""

    def __init__(self, workdir: str | Path, cfg: RunConfig, tokenizer: dict[str, bytes], warn: Warn):
        """Removes the remains of an interrupted write or removal."""
        self._directory, self._cfg, self._warn = stored.folder(workdir), cfg, warn
        self._tokenizer = tokenizer
        if jax.process_index() == 0:
            self._directory.mkdir(parents=True, exist_ok=True)
            for path in self._directory.iterdir():
                if ".orbax-checkpoint-tmp" in path.name or path.name.endswith(".removed"):
                    shutil.rmtree(path, ignore_errors=True)
        _wait_for_all("checkpoints opened")
        self._orbax = ocp.AsyncCheckpointer(ocp.CompositeCheckpointHandler())
        self._failed = False  # whether a checkpoint could not be written
        self._read_back = False  # whether a checkpoint of this process has been read back
        self._metrics = {step: self._stored_metrics(step) for step in stored.steps_in(self._directory)}

    def save(self, state: TrainState, metrics: dict[str, float]) -> None:
        """Writes `state`, which may be donated as soon as this returns; `metrics` are the held-out metrics.

        The first one is read back before this returns.

        Raises:
          CheckpointError: if it differs from what was written.
        """
        self._wait()
        self._prune()
        step = int(state.step)
        finite = {name: value for name, value in metrics.items() if math.isfinite(value)}
        trees = {name: getattr(state, name) for name in TREES}
        items = stored.items(trees, {"step": step, "config": to_dict(self._cfg), "metrics": finite}, self._tokenizer)
        with self._writing():
            self._orbax.save(self._directory / str(step), args=items)
        self._metrics[step] = finite
        if not self._cfg.checkpoint.asynchronous or not self._read_back:
            self._wait()
        if not self._read_back:
            self._check(step, {name: leaves_by_path(tree) for name, tree in trees.items() if leaves_by_path(tree)})

    def _check(self, step: int, trees: dict[str, dict[str, Any]]) -> None:
        path = self._directory / str(step)
        try:
            stored.verify(path, trees)
        except stored.Damaged as damage:
            raise stored.CheckpointError(
                f"the first checkpoint of this run, {path}, cannot be read back ({damage}): training stops, "
                "before more is lost. Check the disk, or give a workdir on another one"
            ) from damage
        self._read_back = True

    def restore(self, abstract: TrainState) -> tuple[int, Trees] | None:
        """Returns (step, trees) of the newest good checkpoint, as `read_state` does, or None if there is none.

        Newer ones that are damaged are named in a warning and renamed to STEP.damaged.

        Raises:
          CheckpointError: if a leaf is missing, extra or misshapen, and if every checkpoint is damaged.
        """
        self._orbax.wait_until_finished()
        steps = stored.steps_in(self._directory)[::-1]
        if not steps:
            return None
        read = lambda step: read_state(self._orbax, self._directory / str(step), abstract)
        step, trees = stored.first_good(self._directory, steps, read, self._warn)
        for newer in [s for s in steps if s > step]:
            self._metrics.pop(newer, None)
            if jax.process_index() == 0:
                _set_aside(self._directory / str(newer), "damaged")
        _wait_for_all("damaged checkpoints set aside")
        return step, trees

    def close(self) -> None:
        """Waits for the checkpoint being written and removes those that are not to be kept."""
        if self._failed:  # reported already
            return
        self._wait()
        self._prune()
        self._orbax.close()

    def _wait(self) -> None:
        """Waits for the checkpoint being written; raises CheckpointError if it could not be written."""
        with self._writing():
            self._orbax.wait_until_finished()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except (MemoryError, jax.errors.JaxRuntimeError, KeyboardInterrupt):
            raise
        except Exception as error:  # Orbax and TensorStore raise several types for a full or unavailable disk
            self._failed = True
            reason = storage.reason(error) if isinstance(error, OSError) else str(error).splitlines()[0][:200]
            raise stored.CheckpointError(
                f"a checkpoint could not be written below {self._directory} ({reason}): free space or repair the disk, and run "
                "the same command again; it continues from the newest complete checkpoint"
            ) from error

    def _stored_metrics(self, step: int) -> dict[str, float]:
        try:
            return stored.read_meta(self._orbax, self._directory / str(step))["metrics"]
        except stored.Damaged:
            return {}

    def _prune(self) -> None:
        for step in set(self._metrics) - kept_steps(self._metrics, self._cfg.checkpoint):
            del self._metrics[step]
            if jax.process_index() == 0:
                shutil.rmtree(_set_aside(self._directory / str(step), "removed"), ignore_errors=True)


def _set_aside(path: Path, why: str) -> Path:
    """Renames a checkpoint so that it is no longer found; a single rename, so that it is never partial."""
    target = path.with_name(f"{path.name}.{why}")
    shutil.rmtree(target, ignore_errors=True)
    return path.rename(target)


def _wait_for_all(what: str) -> None:
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(what)


def save_params(workdir: str | Path, cfg: RunConfig, params: Any, tokenizer: dict[str, bytes]) -> None:
    """Writes given parameters as the checkpoint of step 0, without optimizer state, from which training starts.

    Args:
      params: {group: parameters}, fp32, all groups of the family.
      tokenizer: {file name: bytes}.
    """
    directory = stored.folder(workdir)
    directory.mkdir(parents=True, exist_ok=True)
    facts = {"step": 0, "config": to_dict(cfg), "metrics": {}, "params_only": True}
    largest = max(leaf.nbytes for leaf in jax.tree.leaves(params))
    handler = ocp.CompositeCheckpointHandler(
        params=ocp.StandardCheckpointHandler(save_concurrent_gb=math.ceil(largest / 1e9)),  # copied to the host at once
        meta=ocp.JsonCheckpointHandler(),
        tokenizer=ocp.JsonCheckpointHandler(),
    )
    with ocp.Checkpointer(handler) as orbax:
        orbax.save(directory / "0", args=stored.items({"params": params}, facts, tokenizer))


def load_params(
    workdir: str | Path,
    step: int | str | None = None,
    mesh: Mesh | None = None,
    warn: Warn = stored.to_stderr,
    ema: bool = False,
) -> tuple[dict[str, Any], Any]:
    """Returns (config as a dict, parameters) of a run, without optimizer state.

    Args:
      step: None, the newest good one; "best", the lowest of the run's checkpoint.best_metric; or a step.
      mesh: for the parameters, by the rules table; None: to the first local device.
      warn: called with a line for each damaged checkpoint that was skipped.
      ema: the average of the parameters (train.ema_decay) instead of those of the last update.

    Raises:
      CheckpointError: if there is no such checkpoint, it has no average, or it is damaged.
    """
    ambient.check()
    directory = stored.folder(workdir)
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as orbax:

        def read(step: int) -> tuple[dict[str, Any], Any]:
            forms = nested(stored.leaf_forms(stored.read_meta(orbax, directory / str(step))))
            if ema and "ema" not in forms:
                raise stored.CheckpointError(
                    f"{directory / str(step)} has no average of the parameters (train.ema_decay)"
                )
            wanted = {name: forms[name] for name in (("params", "ema") if ema else ("params",))}
            return _read_placed(orbax, directory / str(step), wanted, mesh)

        steps = stored.candidates(orbax, directory, step)
        _, (meta, trees) = stored.first_good(directory, steps, read, warn)
    return to_dict(from_stored(meta["config"])), {**trees["params"], **trees.get("ema", {})}


def _read_placed(orbax: ocp.Checkpointer, path: Path, forms: Any, mesh: Mesh | None) -> tuple[dict[str, Any], Any]:
    """Returns (meta, trees) of the items of `forms`, on a mesh or the first local device."""
    local = SingleDeviceSharding(jax.local_devices()[0])
    expected = {}
    for name, tree in forms.items():
        places = rules.shardings(tree, mesh) if mesh else jax.tree.map(lambda _: local, tree)
        placed = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, places)
        expected[name] = leaves_by_path(placed)
    meta, trees = stored.read_trees(orbax, path, expected)
    return meta, {name: nested(leaves) for name, leaves in trees.items() if leaves}


def chosen_step(workdir: str | Path, step: int | str | None = None) -> int:
    """Returns the step that `load_params` tries first.

    Raises:
      CheckpointError: if there is no such checkpoint.
    """
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as orbax:
        return stored.candidates(orbax, stored.folder(workdir), step)[0]
