"""A config as {"a.b": value}: the paths of its fields, their defaults and metadata, and how two configs differ."""

from __future__ import annotations

import dataclasses
import json
import typing
from typing import Any, NamedTuple

from cola_jax.config.fields import RunConfig


def to_dict(config: RunConfig) -> dict[str, Any]:
    """Returns `config` as plain JSON-able values."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns {"a.b.0.c": leaf}; items of lists of groups are numbered, other lists are leaves."""
    leaves: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, (list, tuple)) and value and isinstance(value[0], dict):
            value = {str(index): item for index, item in enumerate(value)}
        leaves |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return leaves


def nested(leaves: dict[str, Any]) -> dict[str, Any]:
    """Returns the tree that `flat` flattened."""
    tree: dict[str, Any] = {}
    for path, leaf in leaves.items():
        *groups, name = path.split(".")
        node = tree
        for group in groups:
            node = node.setdefault(group, {})
        node[name] = leaf
    sources = tree.get("data", {}).get("sources")
    if isinstance(sources, dict):
        tree["data"]["sources"] = list(sources.values())
    return tree


def defaults() -> dict[str, Any]:
    """Returns {path: default} of every field; sources are at "data.sources.0."."""
    return flat(to_dict(RunConfig()))


def field_of(path: str) -> str:
    """Returns the path of a field with the first source in place of any: "data.sources.3.kind" -> "data.sources.0.kind"."""
    return ".".join("0" if name.isdigit() else name for name in path.split("."))


def metadata() -> dict[str, Any]:
    """Returns {path: metadata of `change`} of every field; sources are at "data.sources.0."."""

    def of(cls: type, prefix: str) -> dict[str, Any]:
        hints, found = typing.get_type_hints(cls), {}
        for field in dataclasses.fields(cls):
            hint = hints[field.name]
            if typing.get_origin(hint) is tuple and dataclasses.is_dataclass(typing.get_args(hint)[0]):
                found |= of(typing.get_args(hint)[0], f"{prefix}{field.name}.0.")
            elif dataclasses.is_dataclass(hint):
                found |= of(hint, f"{prefix}{field.name}.")
            else:
                found[prefix + field.name] = field.metadata
        return found

    return of(RunConfig, "")


def identity(config: RunConfig) -> dict[str, Any]:
    """Returns {path: value} of the fields of class identity: configs that agree in them belong to one run, up to its length."""
    known = metadata()
    return {
        path: value for path, value in flat(to_dict(config)).items() if known[field_of(path)]["change"] == "identity"
    }


class Change(NamedTuple):
    """A field in which two configs differ. kind: its class in `change`; traced: whether the training step depends on it."""

    path: str
    before: Any
    after: Any
    kind: str
    traced: bool

    def __str__(self) -> str:
        return f"{self.path}: {self.before!r} -> {self.after!r}"


def changes(old: dict[str, Any], new: dict[str, Any]) -> list[Change]:
    """Returns every field in which two config dicts differ. A source that is in one of them only is of class identity."""
    before, after, known, found = flat(old), flat(new), metadata(), []
    for path in sorted(before.keys() | after.keys()):
        if before.get(path) != after.get(path):
            field = known.get(field_of(path), {"change": "identity", "traced": True})
            both = path in before and path in after
            kind = field["change"] if both else "identity"
            found.append(Change(path, before.get(path), after.get(path), kind, field["traced"]))
    return found


def differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """Returns "path: old -> new" for every leaf in which two config dicts differ."""
    return [f"{prefix}{change}" for change in changes(old, new)]
