"""Configuration: a ConfigDict at the edge, frozen dataclasses inside.

`base()` gives the defaults of `fields` as a `ConfigDict` for an experiment file to change; `load()` runs such a file;
`override()` applies command line assignments; `resolve()` checks the result and freezes it.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib.util
import json
import types
import typing
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from cola_jax.config.checks import inconsistencies as inconsistencies
from cola_jax.config.errors import ConfigError as ConfigError
from cola_jax.config.fields import (
    CHOICES as CHOICES,
)
from cola_jax.config.fields import (
    BackboneConfig as BackboneConfig,
)
from cola_jax.config.fields import (
    CheckpointConfig as CheckpointConfig,
)
from cola_jax.config.fields import (
    ComputeConfig as ComputeConfig,
)
from cola_jax.config.fields import (
    DataConfig as DataConfig,
)
from cola_jax.config.fields import (
    DCNConfig as DCNConfig,
)
from cola_jax.config.fields import (
    DiTConfig as DiTConfig,
)
from cola_jax.config.fields import (
    FlowConfig as FlowConfig,
)
from cola_jax.config.fields import (
    LLaDAConfig as LLaDAConfig,
)
from cola_jax.config.fields import (
    LLaDASamplingConfig as LLaDASamplingConfig,
)
from cola_jax.config.fields import (
    MeshConfig as MeshConfig,
)
from cola_jax.config.fields import (
    ObjectiveConfig as ObjectiveConfig,
)
from cola_jax.config.fields import (
    OptimizerConfig as OptimizerConfig,
)
from cola_jax.config.fields import (
    PlaidConfig as PlaidConfig,
)
from cola_jax.config.fields import (
    PlaidSamplingConfig as PlaidSamplingConfig,
)
from cola_jax.config.fields import (
    RunConfig as RunConfig,
)
from cola_jax.config.fields import (
    SamplingConfig as SamplingConfig,
)
from cola_jax.config.fields import (
    SourceConfig as SourceConfig,
)
from cola_jax.config.fields import (
    TextVAEConfig as TextVAEConfig,
)
from cola_jax.config.fields import (
    TokenizerConfig as TokenizerConfig,
)
from cola_jax.config.fields import (
    TrainConfig as TrainConfig,
)
from cola_jax.config.fields import (
    VAEBlockConfig as VAEBlockConfig,
)
from cola_jax.config.platform import for_platform as for_platform
from cola_jax.config.platform import without_kernels as without_kernels
from cola_jax.config.sizes import mask_id as mask_id
from cola_jax.config.sizes import tokens_of_block as tokens_of_block
from cola_jax.config.sizes import vocabulary as vocabulary


def base() -> ConfigDict:
    """Returns the base config, every field present, for an experiment file to change."""
    return to_config_dict(RunConfig())


def to_config_dict(config: RunConfig) -> ConfigDict:
    """Returns `config` as a mutable ConfigDict; sources become ConfigDicts too."""
    tree = dataclasses.asdict(config)
    tree["data"]["sources"] = tuple(ConfigDict(source) for source in tree["data"]["sources"])
    return ConfigDict(tree, type_safe=False)


def to_dict(config: RunConfig) -> dict[str, Any]:
    """Returns `config` as plain JSON-able values."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def resolve(tree: ConfigDict | dict[str, Any]) -> RunConfig:
    """Checks a config and freezes it.

    Raises:
      ConfigError: for an unknown or missing field, a value of the wrong type, a name that is not among the choices, and
        sizes that do not fit each other; every problem found is in the message.
    """
    plain = tree.to_dict() if isinstance(tree, ConfigDict) else tree
    problems: list[str] = []
    config = _build(RunConfig, plain, "", problems)
    if problems:
        raise ConfigError("config: " + "; ".join(problems))
    problems = inconsistencies(config)
    if problems:
        raise ConfigError("config: " + "; ".join(problems))
    return config


def _build(cls: type, tree: Any, path: str, problems: list[str]) -> Any:
    """Builds dataclass `cls` from a mapping, appending what is wrong to `problems`."""
    if isinstance(tree, ConfigDict):
        tree = tree.to_dict()
    if not isinstance(tree, dict):
        problems.append(f"{path or 'config'} must be a group of fields, got {tree!r}")
        return cls()
    hints = typing.get_type_hints(cls)
    names = [f.name for f in dataclasses.fields(cls)]
    problems += [f"unknown field {path}{name} (known: {', '.join(names)})" for name in tree if name not in names]
    problems += [f"field {path}{name} is missing" for name in names if name not in tree]
    values = {name: _value(hints[name], tree[name], path + name, problems) for name in names if name in tree}
    return cls(**values)


def _value(hint: Any, value: Any, path: str, problems: list[str]) -> Any:
    """Returns `value` as type `hint`, or notes why it is not one."""
    if dataclasses.is_dataclass(hint):
        return _build(hint, value, path + ".", problems)
    if typing.get_origin(hint) is tuple:
        inner = typing.get_args(hint)[0]
        if not isinstance(value, (list, tuple)):
            problems.append(f"{path} must be a list, got {value!r}")
            return ()
        return tuple(_value(inner, item, path, problems) for item in value)
    if isinstance(hint, types.UnionType):  # T | None
        if value is None:
            return None
        hint = typing.get_args(hint)[0]
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        problems.append(f"{path} must be {hint.__name__}, got {value!r}")
        return value
    if path in CHOICES and value not in CHOICES[path]:
        problems.append(f"{path}={value!r} is not one of {', '.join(CHOICES[path])}")
    return value


def override(tree: ConfigDict, assignments: list[tuple[str, str]]) -> ConfigDict:
    """Applies `("a.b", "VALUE")` pairs in place; values are Python literals, else strings; list items go by index.

    Raises:
      ConfigError: where the path names no field.
    """
    for path, text in assignments:
        *parents, last = path.split(".")
        node: Any = tree
        for depth, name in enumerate(parents):
            node = _child(node, name, ".".join(parents[: depth + 1]))
        _child(node, last, path)
        if not isinstance(node, ConfigDict):
            raise ConfigError(f"--config.{path}: set a whole list, or a field of one of its items")
        node[last] = literal(text)
    return tree


def _child(node: Any, name: str, path: str) -> Any:
    if isinstance(node, (tuple, list)) and name.isdigit() and int(name) < len(node):
        return node[int(name)]
    if isinstance(node, ConfigDict) and name in node:
        return node[name]
    known = ", ".join(node) if isinstance(node, ConfigDict) else "none"
    raise ConfigError(f"--config.{path}: no such field (known here: {known})")


def literal(text: str) -> Any:
    """Reads a Python literal, true or false; anything else is a string."""
    if text.lower() in ("true", "false"):  # "none" stays a string: some fields have a choice of that name
        return text.lower() == "true"
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def load(spec: str) -> ConfigDict:
    """Runs `get_config(arg)` of a config file. `spec` is FILE[:ARG]; a bare name is a file of the project's experiments/.

    Raises:
      ConfigError: where there is no such file, or it has no get_config.
    """
    name, _, argument = spec.partition(":")
    experiments = Path(__file__).resolve().parents[2] / "experiments"
    candidates = [Path(name), experiments / name, experiments / f"{name}.py"]
    found = next((path for path in candidates if path.is_file()), None)
    if found is None:
        known = ", ".join(sorted(path.stem for path in experiments.glob("[a-z]*.py")))
        raise ConfigError(f"config file {name!r} not found; the project's own are: {known}")
    module_spec = importlib.util.spec_from_file_location(f"experiment_{found.stem}", found)
    module = importlib.util.module_from_spec(module_spec)
    module_spec.loader.exec_module(module)
    if not hasattr(module, "get_config"):
        raise ConfigError(f"{found} defines no get_config(arg=None)")
    return module.get_config(argument or None)


def differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """Returns "path: old -> new" for every leaf in which two config dicts differ."""
    lines = []
    for name in sorted(set(old) | set(new)):
        before, after = old.get(name), new.get(name)
        if isinstance(before, dict) and isinstance(after, dict):
            lines += differences(before, after, f"{prefix}{name}.")
        elif before != after:
            lines.append(f"{prefix}{name}: {before!r} -> {after!r}")
    return lines
