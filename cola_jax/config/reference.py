"""Generates the page of all config fields: python -m cola_jax.config.reference > docs/configuration.md"""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import io
import math
import re
import sys
import textwrap
import tokenize
import types
import typing
from collections.abc import Iterator
from typing import Any, NamedTuple

from cola_jax.config.build import base, build, plain_of
from cola_jax.config.change import Range
from cola_jax.config.families import FACTS
from cola_jax.config.families.facts import Switch
from cola_jax.config.fields import CHOICES, RunConfig, SourceConfig
from cola_jax.config.files import override
from cola_jax.config.paths import defaults, metadata
from cola_jax.config.reads import SWITCHES, unread_fields
from cola_jax.config.source_fields import READS

HEAD = """# Configuration

This page is generated from the fields: `python -m cola_jax.config.reference > docs/configuration.md`.

A config file is Python with a function `get_config(arg=None)` that returns the `ConfigDict` of `cola_jax.config.base()` with
some fields changed. `--config FILE[:ARG]` names a file, or one of `experiments/`; `--config.a.b=VALUE` changes a field.
Values are Python literals, and anything else is a string; `--config.data.sources.0.path="('notes',)"` sets a field of
the first source. Unknown fields, values of another type, values outside their range, and fields that do not fit each
other are reported together, in one error.

Every field has a class, which says what happens when its value differs between a run and its continuation:

- **identity**: another value is another run. The continuation is refused, and the difference is printed.
- **length**: may change as long as the learning rates of the steps already done stay the same.
- **placement**: may change. Losses agree to a relative 2e-5 in fp32.
- **reporting**: may change.

A field that a run does not read, because its family does not or because another field switches it off, must keep its
default: set on the command line, it is an error. A config file may set the model groups of several families; a warning
then names the fields that are left at their defaults.
"""
WIDTH = 120


class Field(NamedTuple):
    """One field: its path, type, default and metadata, and its comment in the source, "" for none."""

    path: str
    hint: Any
    default: Any
    metadata: Any
    comment: str


def page() -> str:
    """Returns the page as Markdown, one heading for each group and each field."""
    lines = [HEAD]
    for prefix, cls in groups(RunConfig, ""):
        name = prefix.removesuffix(".") or "run"
        lines += [f"## {name}", "", _text(cls.__doc__), ""]
        for field in fields_of(cls, prefix):
            comment = _sentence(field)
            lines += [f"### {field.path}", "", facts(field), ""] + [comment, ""] * bool(comment)
    return "\n".join(lines).rstrip() + "\n"


def groups(cls: type, prefix: str) -> Iterator[tuple[str, type]]:
    """Yields (path with a trailing dot, dataclass) of a group and of the groups in it; sources are at "data.sources.0."."""
    yield prefix, cls
    for field in dataclasses.fields(cls):
        hint = typing.get_type_hints(cls)[field.name]
        if dataclasses.is_dataclass(hint):
            yield from groups(hint, f"{prefix}{field.name}.")
        elif _is_sources(hint):
            yield from groups(SourceConfig, f"{prefix}{field.name}.0.")


def fields_of(cls: type, prefix: str) -> Iterator[Field]:
    """Yields the fields of one group, without the groups in it."""
    hints, comments, known, usual = typing.get_type_hints(cls), comments_of(cls), metadata(), defaults()
    for field in dataclasses.fields(cls):
        path = prefix + field.name
        if path in known:
            yield Field(path, hints[field.name], usual[path], known[path], comments.get(field.name, ""))


def comments_of(cls: type) -> dict[str, str]:
    """Returns {field: comment} of a dataclass: the comment lines above a field and those on its own lines."""
    source = inspect.getsource(sys.modules[cls.__module__])
    [body] = [
        node.body for node in ast.parse(source).body if isinstance(node, ast.ClassDef) and node.name == cls.__name__
    ]
    tokens = list(tokenize.generate_tokens(io.StringIO(source).readline))
    comments = {token.start[0]: token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT}
    alone = {
        token.start[0]
        for token in tokens
        if token.type == tokenize.COMMENT and not token.line[: token.start[1]].strip()
    }
    found = {}
    for node in body:
        if isinstance(node, ast.AnnAssign):
            first = node.lineno
            while first - 1 in alone:
                first -= 1
            found[node.target.id] = " ".join(comments[n] for n in range(first, node.end_lineno + 1) if n in comments)
    return found


def facts(field: Field) -> str:
    """Returns a line: type, default, range or choices, class, and who reads the field."""
    values = choices_of(field.path) or bounds(field.metadata["range"], field.default, field.hint)
    said = [type_name(field.hint), f"default `{field.default!r}`", values, f"**{field.metadata['change']}**"]
    return _wrapped("; ".join(part for part in [*said, readers(field.path)] if part) + ".")


def type_name(hint: Any) -> str:
    if isinstance(hint, types.UnionType):
        return " or ".join("None" if part is type(None) else part.__name__ for part in typing.get_args(hint))
    return "list of str" if typing.get_origin(hint) is tuple else hint.__name__


def choices_of(path: str) -> str:
    found = CHOICES.get(".".join(name for name in path.split(".") if not name.isdigit()), ())
    return f"one of {', '.join(f'`{name}`' for name in found)}" if found else ""


def bounds(allowed: Range, default: Any, hint: Any) -> str:
    """Returns the range of a number in words; "" for other types."""
    if isinstance(default, (bool, str, list)) or hint is bool:
        return ""
    lowest = max(allowed.least, allowed.above)
    return allowed.problem(lowest - 1.0).removeprefix("must be ") if math.isfinite(lowest) else ""


def readers(path: str) -> str:
    """Returns which families read a field, and the values of the other fields that it is read for."""
    kinds = [kind for kind, names in READS.items() if path.removeprefix("data.sources.0.") in names]
    if path.startswith("data.sources.0."):
        return f"read by kinds {', '.join(kinds)}" if kinds else "read by all families"
    names = [family for family in FACTS if path not in _unread_by(family)]
    who = "read by all families" if len(names) == len(FACTS) else f"read by {', '.join(names)}"
    switches = [*SWITCHES, *(switch for family in names for switch in FACTS[family].switches)]
    conditions = [condition(switch, path) for switch in switches if path in switch.names]
    return " ".join([who, *dict.fromkeys(conditions)])


@functools.cache
def _unread_by(family: str) -> frozenset[str]:
    """The paths that no run of a family reads."""
    found = unread_fields(RunConfig(family=family))
    return frozenset(path for path, unread in found.items() if unread.switch == "family")


def condition(switch: Switch, path: str) -> str:
    """Returns for which values of another field a field is read, found by evaluating the switch for each of them."""
    name = switch.field
    if name == "data.sources":
        kinds = [kind for kind in READS if _reads(switch, "data.sources.0.kind", kind)]
        return f"(if a source is of kind {', '.join(kinds)})"
    usual = defaults()[name]
    if name in CHOICES or isinstance(usual, bool):
        kept = [value for value in CHOICES.get(name, (True, False)) if _reads(switch, name, value)]
        return f"(if `{name}` is {', '.join(map(str, kept))})"
    return f"(if `{name}` is {'set' if isinstance(usual, str) else 'above 0'})"


def _reads(switch: Switch, path: str, value: Any) -> bool:
    return switch.reads(build(plain_of(override(base(), [(path, str(value))]))))


def _is_sources(hint: Any) -> bool:
    return typing.get_origin(hint) is tuple and typing.get_args(hint)[0] is SourceConfig


def _text(docstring: str) -> str:
    """A docstring as Markdown, its references as links to the specification."""
    link = lambda found: f"[{found[0]}](mathematics.md#{found[1].lower()}-{found[2]})"
    lines = [line.strip() for line in docstring.strip().splitlines()]
    return re.sub(r"\b(SPEC|BASELINES) (\d(?:\.\d)?)", link, "\n".join(lines))


def _sentence(field: Field) -> str:
    """A field's comment as a sentence, alternatives with semicolons between them; "" if it only lists the choices."""
    choices = CHOICES.get(field.path.replace(".0.", "."), ())
    if field.comment == " | ".join(choices):
        return ""
    text = field.comment.replace(" | ", "; ").replace("*", "\\*").replace("<", "&lt;")
    word = text.partition(" ")[0]
    if word.isalpha() and word != text and len(word) > 1 and word not in choices:
        text = text[:1].upper() + text[1:]
    return _wrapped(f"{text.removesuffix('.')}.") if text else ""


def _wrapped(text: str) -> str:
    return textwrap.fill(text, WIDTH, break_on_hyphens=False, break_long_words=False)


if __name__ == "__main__":
    print(page(), end="")
