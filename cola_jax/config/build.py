"""A ConfigDict or plain dict -> the frozen dataclasses of a run, checked; and back."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
import warnings
from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from cola_jax.config.change import Range
from cola_jax.config.checks import inconsistencies
from cola_jax.config.errors import ConfigError
from cola_jax.config.families.text_vae import VAE_GROUPS
from cola_jax.config.fields import CHOICES, RunConfig
from cola_jax.config.paths import defaults, field_of, flat, nested, to_dict
from cola_jax.config.reads import SHARED, unread_fields
from cola_jax.errors import ConfigWarning


def base() -> ConfigDict:
    """Returns the base config, every field present, for an experiment file to change."""
    return to_config_dict(RunConfig())


def to_config_dict(config: RunConfig) -> ConfigDict:
    """Returns `config` as a mutable ConfigDict; sources become ConfigDicts too."""
    tree = dataclasses.asdict(config)
    tree["data"]["sources"] = tuple(ConfigDict(source, type_safe=False) for source in tree["data"]["sources"])
    return ConfigDict(tree, type_safe=False)


def start_from(tree: ConfigDict, vae: str) -> None:
    """Sets up stage 2 of family cola: from the encoder and decoder of a stage 1 workdir or folder, or ("") from scratch."""
    if vae:
        tree.train.update(init_from=vae, init_groups=VAE_GROUPS)
    tree.objective.latent_policy = "joint" if vae else "scratch"


def plain_of(tree: ConfigDict | dict[str, Any]) -> dict[str, Any]:
    """Returns a tree of ConfigDicts, those in lists included, as plain dicts."""
    if isinstance(tree, (ConfigDict, dict)):
        return {name: plain_of(tree[name]) for name in tree}
    return type(tree)(map(plain_of, tree)) if type(tree) in (list, tuple) else tree


def build(plain: dict[str, Any]) -> RunConfig:
    """Returns the dataclasses of a dict, types, choices and ranges checked.

    Raises:
      ConfigError: naming every unknown or missing field, every value of the wrong type, every name that is not among the
        choices, and every number outside its range.
    """
    problems: list[str] = []
    config = _build(RunConfig, plain, "", problems)
    if problems:
        raise ConfigError("config: " + "; ".join(problems))
    return config


def check(config: RunConfig) -> None:
    """Raises ConfigError for fields that do not fit each other; every problem found is in the message."""
    problems = inconsistencies(config)
    if problems:
        raise ConfigError("config: " + "; ".join(problems))


def settle(config: RunConfig, set_on_purpose: Sequence[str] = (), quiet: bool = False) -> RunConfig:
    """Returns the config with every field that its run does not read at its default.

    A config file may set fields of `reads.SHARED` for all the families and stages that it serves, and an assignment of the
    command line may switch off what a file has set: those are named in a warning.

    Args:
      set_on_purpose: paths that a command line set, which are refused if the run does not read them.
      quiet: reset fields without a warning: for stored configs, whose run did not read them either.

    Raises:
      ConfigError: naming every other field that is set away from its default and not read.
    """
    given, usual, problems, left = flat(to_dict(config)), defaults(), [], []
    for path, unread in unread_fields(config).items():
        if given[path] == usual[field_of(path)]:
            continue
        excused = path.startswith(SHARED) or unread.switch in set_on_purpose
        if quiet or (excused and path not in set_on_purpose):
            left.append(path)
        else:
            problems.append(f"{path}={given[path]!r} is not read {unread.why}: leave it out")
    if problems:
        raise ConfigError("config: " + "; ".join(problems))
    if left and not quiet:
        text = f"not read by this run of family {config.family!r}, and left at their defaults: {', '.join(left)}"
        warnings.warn(text, ConfigWarning, stacklevel=3)
    return build(nested(given | {path: usual[field_of(path)] for path in left})) if left else config


def _build(cls: type, tree: Any, path: str, problems: list[str]) -> Any:
    """Builds dataclass `cls` from a mapping, appending what is wrong to `problems`."""
    if not isinstance(tree, dict):
        problems.append(f"{path.removesuffix('.') or 'config'} must be a group of fields, got {tree!r}")
        return cls()
    hints = typing.get_type_hints(cls)
    known = {field.name: field for field in dataclasses.fields(cls)}
    problems += [f"unknown field {path}{name} (known: {', '.join(known)})" for name in tree if name not in known]
    problems += [f"field {path}{name} is missing" for name in known if name not in tree]
    values = {}
    for name, field in known.items():
        if name in tree:
            values[name] = _value(hints[name], tree[name], path + name, field.metadata.get("range"), problems)
    return cls(**values)


def _value(hint: Any, value: Any, path: str, allowed: Range | None, problems: list[str]) -> Any:
    """Returns `value` as type `hint`, or notes why it is not one."""
    if dataclasses.is_dataclass(hint):
        return _build(hint, value, path + ".", problems)
    if typing.get_origin(hint) is tuple:
        inner = typing.get_args(hint)[0]
        if not isinstance(value, (list, tuple)):
            problems.append(f"{path} must be a list, got {value!r}")
            return ()
        item = lambda n: f"{path}.{n}" if dataclasses.is_dataclass(inner) else path
        return tuple(_value(inner, one, item(n), allowed, problems) for n, one in enumerate(value))
    if isinstance(hint, types.UnionType):  # T | None
        if value is None:
            return None
        hint = typing.get_args(hint)[0]
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value) if abs(value) < 2**1000 else math.inf
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        problems.append(f"{path} must be {hint.__name__}, got {value!r}")
        return value
    choices = CHOICES.get(".".join(name for name in path.split(".") if not name.isdigit()))
    if choices is not None and value not in choices:
        problems.append(f"{path}={value!r} is not one of {', '.join(choices)}")
    problem = allowed.problem(value) if allowed is not None and hint in (int, float) else ""
    if problem:
        problems.append(f"{path}={value!r} {problem}")
    return value
