"""The checkpoints of a run, in WORKDIR/checkpoints: `saves` names them, `stored` describes their content.

Orbax writes in the background. An incomplete checkpoint is never found, whenever the process was killed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from jax.sharding import Mesh, SingleDeviceSharding

from cola_jax import storage
from cola_jax.config import RunConfig, from_stored, to_dict
from cola_jax.config.fields import CheckpointConfig
from cola_jax.parallel import ambient, rules
from cola_jax.storage import AnyPath
from cola_jax.train import saves, stored
from cola_jax.train.integrity import leaves_by_path, nested
from cola_jax.train.orbax_files import checkpointer
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


def read_state(orbax: ocp.Checkpointer, path: AnyPath, abstract: TrainState, strict: bool = True) -> Trees:
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


def load_state(workdir: AnyPath, step: int | str | None, abstract: TrainState, warn: Warn) -> tuple[int, Trees]:
    """Returns (step, trees) of another run's checkpoint that a run continues from; `step` as in `load_params`.

    Raises:
      CheckpointError: if there is none, it has no optimizer state, or it does not fit.
    """
    directory = stored.folder(workdir)
    with checkpointer(directory) as orbax:
        steps = stored.candidates(orbax, directory, step)
        read = lambda path: read_state(orbax, path, abstract, strict=False)
        chosen, trees = stored.first_good(directory, steps, read, warn)
    if "opt_state" not in trees:
        raise stored.CheckpointError(
            f"{saves.saves_in(directory)[chosen]} has no optimizer state to continue with: start from it without "
            "train.init_continue"
        )
    return chosen, trees


class Checkpoints:
    """The checkpoints of one run, and their only writer. One is written at a time, optionally in the background."""

    def __init__(
        self, workdir: str | AnyPath, cfg: RunConfig, tokenizer: dict[str, bytes], warn: Warn, attempt: int = 0
    ):
        """Removes the remains of an interrupted write or removal, and what attempts without a claim have committed.

        Args:
          attempt: number of this process's claim on the workdir; 0 without a claim.
        """
        self._directory, self._cfg, self._warn = stored.folder(workdir), cfg, warn
        self._tokenizer, self._attempt = tokenizer, attempt
        if jax.process_index() == 0:
            storage.make_folder(self._directory)
            if attempt:
                saves.inherit(self._directory, attempt)
            saves.clear(self._directory)
        _wait_for_all("checkpoints opened")
        self._orbax = checkpointer(self._directory, asynchronous=True)
        self._failed = False  # whether a checkpoint could not be written
        self._closed = False
        self._read_back = False  # whether a checkpoint of this process has been read back
        self._paths = saves.saves_in(self._directory)
        self._metrics = {step: self._stored_metrics(path) for step, path in self._paths.items()}

    def save(self, state: TrainState, metrics: dict[str, float], skipped: int = 0) -> None:
        """Writes `state`, which may be donated as soon as this returns.

        The first one is read back before this returns.

        Args:
          metrics: the held-out metrics. skipped: updates that the run has skipped so far, see train.skip_nonfinite.

        Raises:
          CheckpointError: if it differs from what was written.
        """
        self._wait()
        self._prune()
        step = int(state.step)
        finite = {name: value for name, value in metrics.items() if math.isfinite(value)}
        trees = {name: getattr(state, name) for name in TREES}
        facts = {"step": step, "attempt": self._attempt, "config": to_dict(self._cfg), "metrics": finite}
        items = stored.items(trees, facts | {"skipped_steps": skipped}, self._tokenizer)
        path = self._free_path(step)
        with self._writing():
            self._orbax.save(path, args=items)
        self._metrics[step], self._paths[step] = finite, path
        if not self._cfg.checkpoint.asynchronous or not self._read_back:
            self._wait()
        if not self._read_back:
            self._check(step, {name: leaves_by_path(tree) for name, tree in trees.items() if leaves_by_path(tree)})

    def _free_path(self, step: int) -> AnyPath:
        """Returns the folder of a save; one that an attempt without a claim has put there is set aside."""
        path = saves.path_of(self._directory, step, self._attempt)
        if step not in self._paths:
            if jax.process_index() == 0 and saves.is_whole(path):
                saves.set_aside(path, "stale")
            _wait_for_all("a free folder for a checkpoint")
        return path

    def _check(self, step: int, trees: dict[str, dict[str, Any]]) -> None:
        path = self._paths[step]
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

        Newer ones that are damaged are named in a warning and set aside, see `saves.set_aside`.

        Raises:
          CheckpointError: if a leaf is missing, extra or misshapen, and if every checkpoint is damaged.
        """
        self._orbax.wait_until_finished()
        steps = list(self._paths)[::-1]
        if not steps:
            return None
        read = lambda path: read_state(self._orbax, path, abstract)
        step, trees = stored.first_good(self._directory, steps, read, self._warn)
        for newer in [s for s in steps if s > step]:
            self._metrics.pop(newer, None)
            path = self._paths.pop(newer)
            if jax.process_index() == 0:
                saves.set_aside(path, "damaged")
        _wait_for_all("damaged checkpoints set aside")
        return step, trees

    def skipped(self, step: int) -> int:
        """Returns how many updates the run had skipped at the checkpoint of a step; earlier versions skipped none."""
        return stored.read_meta(self._orbax, self._paths[step]).get("skipped_steps", 0)

    def close(self) -> None:
        """Waits for the checkpoint being written and removes those that are not to be kept. Again, it does nothing."""
        if self._failed or self._closed:  # a failure is reported already
            return
        self._closed = True
        self._wait()
        self._prune()
        self._orbax.close()

    def _wait(self) -> None:
        """Waits for the checkpoint being written; raises CheckpointError if it could not be written."""
        with self._writing():
            self._orbax.wait_until_finished()
            if self._paths and jax.process_index() == 0:
                saves.mark(self._paths[max(self._paths)])

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

    def _stored_metrics(self, path: AnyPath) -> dict[str, float]:
        try:
            return stored.read_meta(self._orbax, path)["metrics"]
        except stored.Damaged:
            return {}

    def _prune(self) -> None:
        for step in set(self._metrics) - kept_steps(self._metrics, self._cfg.checkpoint):
            path = self._paths.pop(step)
            del self._metrics[step]
            if jax.process_index() == 0:
                saves.remove(path)


def _wait_for_all(what: str) -> None:
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(what)


def save_params(workdir: str | AnyPath, cfg: RunConfig, params: Any, tokenizer: dict[str, bytes]) -> None:
    """Writes given parameters as the checkpoint of step 0, without optimizer state, from which training starts.

    Args:
      params: {group: parameters}, fp32, all groups of the family.
      tokenizer: {file name: bytes}.
    """
    directory = stored.folder(workdir)
    storage.make_folder(directory)
    facts = {"step": 0, "config": to_dict(cfg), "metrics": {}, "params_only": True}
    largest = max(leaf.nbytes for leaf in jax.tree.leaves(params))
    handlers = {
        "params": ocp.StandardCheckpointHandler(
            save_concurrent_gb=math.ceil(largest / 1e9)
        ),  # copied to the host at once
        "meta": ocp.JsonCheckpointHandler(),
        "tokenizer": ocp.JsonCheckpointHandler(),
    }
    with checkpointer(directory, **handlers) as orbax:
        orbax.save(directory / "0", args=stored.items({"params": params}, facts, tokenizer))
    saves.mark(directory / "0")


def load_params(
    workdir: str | AnyPath,
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
    with checkpointer(directory) as orbax:

        def read(path: AnyPath) -> tuple[dict[str, Any], Any]:
            forms = nested(stored.leaf_forms(stored.read_meta(orbax, path)))
            if ema and "ema" not in forms:
                raise stored.CheckpointError(f"{path} has no average of the parameters (train.ema_decay)")
            wanted = {name: forms[name] for name in (("params", "ema") if ema else ("params",))}
            return _read_placed(orbax, path, wanted, mesh)

        steps = stored.candidates(orbax, directory, step)
        _, (meta, trees) = stored.first_good(directory, steps, read, warn)
    return to_dict(from_stored(meta["config"])), {**trees["params"], **trees.get("ema", {})}


def _read_placed(orbax: ocp.Checkpointer, path: AnyPath, forms: Any, mesh: Mesh | None) -> tuple[dict[str, Any], Any]:
    """Returns (meta, trees) of the items of `forms`, on a mesh or the first local device."""
    local = SingleDeviceSharding(jax.local_devices()[0])
    expected = {}
    for name, tree in forms.items():
        places = rules.shardings(tree, mesh) if mesh else jax.tree.map(lambda _: local, tree)
        placed = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, places)
        expected[name] = leaves_by_path(placed)
    meta, trees = stored.read_trees(orbax, path, expected)
    return meta, {name: nested(leaves) for name, leaves in trees.items() if leaves}


def chosen_step(workdir: str | AnyPath, step: int | str | None = None) -> int:
    """Returns the step that `load_params` tries first.

    Raises:
      CheckpointError: if there is no such checkpoint.
    """
    directory = stored.folder(workdir)
    with checkpointer(directory) as orbax:
        return stored.candidates(orbax, directory, step)[0]
