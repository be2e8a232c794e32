"""Import and export of published weights: dispatch by the form of a folder or a family."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cola_jax import config, storage
from cola_jax.config import RunConfig
from cola_jax.interop.convert import Say, export_released, import_released
from cola_jax.interop.convert_llama import FAMILIES_OF_THE_FORM, export_llama, import_llama
from cola_jax.interop.llama import is_llama, refuse_others
from cola_jax.train.workdir import stored_config


def import_weights(
    source: str | Path,
    workdir: str | Path,
    spec: str = "",
    changes: Mapping[str, Any] | None = None,
    say: Say = print,
) -> RunConfig:
    """Makes a workdir, for training and generation, from a released folder or one of the LLaMA form.

    Args:
      spec, changes: data, training and sampling of the run, as in `config.load_config`.
      say: called with one line for every model field that was replaced.

    Returns:
      the config of the run.

    Raises:
      ReleasedFormatError, ConfigError, DataError: see `import_released` and `import_llama`.
    """
    source = storage.path(source, "source")
    llama = is_llama(source)
    if not llama:
        refuse_others(source)
    tree = config.tree_of(spec, changes)
    read = import_llama if llama else import_released
    return read(source, workdir, tree, list(changes or {}), say)


def export_weights(
    workdir: str | Path,
    target: str | Path,
    step: int | str | None = None,
    dtype: str | None = None,
    ema: bool = False,
    say: Say = print,
) -> None:
    """Writes the newest checkpoint of a run, or that of `step`, in the form of its family.

    Args:
      dtype: float32, bfloat16 or float16 of all weights; by default as imported, or float32.
      ema: the average of the parameters instead of those of the last update.

    Raises:
      ReleasedFormatError, CheckpointError: see `export_released` and `export_llama`.
    """
    family = stored_config(storage.path(workdir, "source"))["family"]
    export = export_llama if family in FAMILIES_OF_THE_FORM else export_released
    export(workdir, target, step, dtype, say, ema)
