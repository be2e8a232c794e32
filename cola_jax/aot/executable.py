"""Executables of `cola-jax compile --save`: stored with report and config, loaded, and used by a run.

The file contains a pickle: load only trusted files.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jaxlib
from jax.experimental import serialize_executable
from jax.sharding import Mesh

from cola_jax import storage
from cola_jax.aot.compile import CompileReport
from cola_jax.config import ConfigError, RunConfig, changes, from_stored, to_dict
from cola_jax.families import FAMILIES
from cola_jax.storage import AnyPath


def save(path: str | AnyPath, cfg: RunConfig, report: CompileReport, compiled: jax.stages.Compiled) -> None:
    """Writes an executable of `cfg`, its report and the config; only the same devices, jax and jaxlib can run it."""
    payload, in_tree, out_tree = serialize_executable.serialize(compiled)
    content = {"versions": _versions(), "config": to_dict(cfg), "report": report}
    kept = pickle.dumps(content | {"payload": payload, "trees": (in_tree, out_tree)})
    storage.write_bytes(storage.path(path), kept)


def load_report(path: str | AnyPath) -> CompileReport:
    """Returns the report of a saved executable.

    Raises:
      ConfigError: if the file is not one.
    """
    return _content(path)["report"]


def load(path: str | AnyPath, devices: Sequence[jax.Device]) -> Callable[..., Any]:
    """Returns a saved executable on these devices, in the order of the mesh that it was compiled for.

    Raises:
      ConfigError: if it was compiled by another jax, for another kind or number of devices, or does not load on these.
    """
    return _on(path, _content(path), devices)


def updates_for(path: str | AnyPath, cfg: RunConfig, mesh: Mesh) -> dict[tuple[str, ...], Callable[..., Any]]:
    """Returns {groups: step} of a saved training step, for `train.loop.train`.

    Args:
      mesh: the mesh of the run of `cfg`.

    Raises:
      ConfigError: if it is not a training step, or of another config or mesh (differences are named); see also `load`.
    """
    content = _content(path)
    report = content["report"]
    if report.program != "train":
        raise ConfigError(f"{path} holds a {report.program} step, not a training step: compile with --program train")
    theirs = to_dict(from_stored(content["config"]))
    changed = [str(change) for change in changes(_as_compiled(theirs), _as_compiled(to_dict(cfg))) if change.traced]
    if dict(mesh.shape) != report.mesh:
        changed.append(f"mesh: {report.mesh!r} -> {dict(mesh.shape)!r}")
    if changed:
        raise ConfigError(
            f"{path} was compiled for another run, on {report.topology}; differences (its own -> this run's): "
            f"{'; '.join(changed)}. Compile it again with this run's config"
        )
    return {FAMILIES[cfg.family].training(cfg, 0).groups: _on(path, content, list(mesh.devices.flat))}


def _as_compiled(config: dict[str, Any]) -> dict[str, Any]:
    """Returns a config with an explicit end of its schedule, which train.steps sets by default."""
    ends = config["optimizer"]["decay_steps"] or config["train"]["steps"]
    return config | {"optimizer": config["optimizer"] | {"decay_steps": ends}}


def _on(path: str | AnyPath, content: dict[str, Any], devices: Sequence[jax.Device]) -> Callable[..., Any]:
    report, found = content["report"], (len(devices), devices[0].device_kind)
    if content["versions"] != _versions() or found != (report.devices, report.device_kind):
        raise ConfigError(
            f"{path} was compiled by {content['versions']} for {report.devices} x {report.device_kind}; "
            f"here are {_versions()} and {found[0]} x {found[1]}: compile it again"
        )
    options = {"backend": devices[0].client, "execution_devices": list(devices)}
    try:
        return serialize_executable.deserialize_and_load(content["payload"], *content["trees"], **options)
    except (jax.errors.JaxRuntimeError, KeyError) as error:  # another libtpu, or devices with other ids
        raise ConfigError(f"{path} does not load on these devices: {error!r}: compile it again") from error


def _versions() -> str:
    return f"jax {jax.__version__} (jaxlib {jaxlib.__version__})"


def _content(path: str | AnyPath) -> dict[str, Any]:
    try:
        content = pickle.loads(storage.path(path).read_bytes())
    except (OSError, pickle.UnpicklingError, EOFError) as error:
        raise ConfigError(f"{path} is not an executable that `cola-jax compile --save` wrote: {error}") from error
    if not isinstance(content, dict) or "versions" not in content:
        raise ConfigError(f"{path} is not an executable that this version's `cola-jax compile --save` wrote")
    return content
