"""The resume rule: which fields of a config may change when a run continues, by the class of each (`config.change`)."""

from __future__ import annotations

import numpy as np

from cola_jax.config import RunConfig, changes, from_stored, to_dict
from cola_jax.storage import AnyPath
from cola_jax.train.optimizer import rates
from cola_jax.train.stored import folder, steps_in
from cola_jax.train.workdir import Say, WorkdirError, check_path, stored_config


def check(workdir: AnyPath, cfg: RunConfig, say: Say) -> None:
    """Checks that `workdir` is new, has no checkpoint yet, or belongs to the same run.

    Allowed changes of the config are reported to `say`.

    Raises:
      WorkdirError: if a field of class identity differs, or one of class length that changes the learning rate of steps
        that are done, or config.json cannot be read.
    """
    check_path(workdir)
    steps = steps_in(folder(workdir))
    if not steps or not (workdir / "config.json").exists():
        return
    old, new, done = from_stored(stored_config(workdir, say)), from_stored(to_dict(cfg)), steps[-1]
    found = changes(to_dict(old), to_dict(new))
    wrong = [str(change) for change in found if change.kind == "identity"]
    wrong += _length_problems(old, new, done)
    if wrong:
        raise WorkdirError(
            f"{workdir} belongs to a run with another config; differences (old -> new): {'; '.join(wrong)}. "
            "Give the old values or another workdir"
        )
    if found:
        say(f"continuing with another config (old -> new): {'; '.join(map(str, found))}")


def _length_problems(old: RunConfig, new: RunConfig, done: int) -> list[str]:
    """Returns why a change of length makes another run: fewer steps than are done, or other learning rates in those."""
    if new.train.steps < done and new.train.steps != old.train.steps:
        return [f"train.steps: {old.train.steps} -> {new.train.steps}, but {done} steps are done"]
    length = [str(change) for change in changes(to_dict(old), to_dict(new)) if change.kind == "length"]
    if not length:  # nothing is computed: arrays of `done` steps would be compiled for at every restart
        return []
    differ = np.flatnonzero(rates(old, done) != rates(new, done))
    if not len(differ):
        return []
    first = int(differ[0])
    return [
        f"{'; '.join(length)}: the {new.optimizer.schedule} schedule depends on the run's length here, and step {first + 1} of "
        f"the {done} that are done would have had another learning rate ({rates(old, done)[first]:.4g} -> "
        f"{rates(new, done)[first]:.4g})"
    ]
