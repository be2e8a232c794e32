"""Which config fields a program reads: attribute access on the config's dataclasses, watched while the program runs."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import typing

from cola_jax.config import RunConfig

# Reading a value to compare, copy, check or name it in a message is not using it.
COPYING = {"name_of", "__hash__", "__eq__", "__repr__", "__init__", "_asdict_inner", "_replace", "replace", "asdict"}
CHECKING = tuple(f"cola_jax/config/{name}.py" for name in ("build", "checks", "paths", "reads", "stored"))
FACTS, FACTS_CHECKING = (
    "cola_jax/config/families/",
    {"checks", "_objective_checks", "starts_from_vae", "_trains_vae", "<lambda>"},
)


def names_of(cls=RunConfig, prefix=""):
    """{(class, attribute): path} of every field."""
    found, hints = {}, typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        hint = hints[field.name]
        inner = typing.get_args(hint)[0] if typing.get_origin(hint) is tuple else hint
        if dataclasses.is_dataclass(inner):
            found |= names_of(inner, f"{prefix}{field.name}." + ("0." if inner is not hint else ""))
        else:
            found[cls, field.name] = prefix + field.name
    return found


def _checks(code):
    """Whether a function only checks a config or says which of its fields are read."""
    return code.co_filename.endswith(CHECKING) or (FACTS in code.co_filename and code.co_name in FACTS_CHECKING)


@contextlib.contextmanager
def reads():
    """Yields the set of paths that are read while the body runs; programs compiled before are not traced again."""
    names, seen = names_of(), set()

    def getter(cls):
        def get(self, name):
            if (cls, name) in names:
                code = sys._getframe(1).f_code
                if code.co_name not in COPYING and not _checks(code):
                    seen.add(names[cls, name])
            return object.__getattribute__(self, name)

        return get

    classes = {cls for cls, _ in names}
    for cls in classes:
        cls.__getattribute__ = getter(cls)
    try:
        yield seen
    finally:
        for cls in classes:
            del cls.__getattribute__
