"""Config files: running get_config of one, and the assignments of a command line."""

from __future__ import annotations

import ast
import importlib.util
import sys
import traceback
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from cola_jax.config.build import to_config_dict
from cola_jax.config.errors import ConfigError
from cola_jax.config.fields import RunConfig
from cola_jax.config.stored import ALIASES
from cola_jax.storage import local

PACKAGE = Path(__file__).resolve().parents[1]
INSTALLED, CLONED = PACKAGE / "experiments", PACKAGE.parent / "experiments"  # a wheel has them inside the package
BUILT_IN = INSTALLED if INSTALLED.is_dir() else CLONED


def override(tree: ConfigDict, assignments: list[tuple[str, str]]) -> ConfigDict:
    """Applies `("a.b", "VALUE")` pairs in place; list items go by index.

    Values are Python literals, else strings; the value of a string field is taken literally. The paths are
    recorded: `resolve` refuses one that the run does not read.

    Raises:
      ConfigError: if the path names no field.
    """
    for path, text in assignments:
        *parents, last = path.split(".")
        node: Any = tree
        for depth, name in enumerate(parents):
            node = _child(node, name, ".".join(parents[: depth + 1]))
        old = "" if path in ALIASES else _child(node, last, path)
        if not isinstance(node, ConfigDict):
            raise ConfigError(f"--config.{path}: set a whole list, or a field of one of its items")
        value = literal(text)
        if isinstance(old, str) and not isinstance(value, str):
            value = text  # digits alone may be a name
        if isinstance(old, ConfigDict):
            raise ConfigError(f"--config.{path} is a group of fields: set one of {', '.join(old)}")
        try:
            node[last] = value
        except (TypeError, ValueError, KeyError) as error:  # a ConfigDict that a config file made type safe
            raise ConfigError(f"--config.{path}={text}: {str(error).splitlines()[0]}") from error
    object.__setattr__(tree, "overridden", [*overridden(tree), *(path for path, _ in assignments)])
    return tree


def overridden(tree: ConfigDict | dict[str, Any]) -> list[str]:
    """Returns the paths that `override` has set in a tree."""
    return object.__getattribute__(tree, "__dict__").get("overridden", []) if isinstance(tree, ConfigDict) else []


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
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text
    return text if isinstance(value, (dict, set, bytes, complex)) else value


def load(spec: str, built_in: bool = False) -> ConfigDict:
    """Runs `get_config(arg)` of a config file.

    Args:
      spec: FILE.py[:ARG], or NAME[:ARG] of a file in the folder experiments/ of the working directory, else in the
        project's.
      built_in: look for NAME in the project's experiments/ only.

    Raises:
      ConfigError: if there is no such file, it cannot be run, or its get_config returns no config.
    """
    name, _, argument = spec.partition(":")
    if "://" in spec:
        local(spec, "config file")  # refuses scheme:// by name
    found = _find(name, built_in)
    with importable(found):
        try:
            tree = _module_of(found).get_config(argument or None)
        except ConfigError:
            raise
        except Exception as error:  # any exception of the user's code
            raise ConfigError(f"config file {found}{_line(error, found)}: {_what(error, found)}") from error
    if isinstance(tree, RunConfig):
        return to_config_dict(tree)
    if not isinstance(tree, ConfigDict):
        raise ConfigError(
            f"{found}: get_config returned {type(tree).__name__}, expected the ConfigDict of config.base()"
        )
    object.__setattr__(tree, "overridden", [])  # what a file assigns is the file's, not the command line's
    return tree


def _find(name: str, built_in: bool) -> Path:
    own = Path("experiments") / f"{name}.py"
    project = BUILT_IN / f"{name.removesuffix('.py')}.py"
    path = local(name, "config file")
    candidates = [project] if built_in else [path] * (path.suffix == ".py") + [own, project]
    found = next((candidate for candidate in candidates if candidate.is_file()), None)
    if found is not None:
        return found.resolve()
    if path.is_file():
        hint = "; for the config of a run, give its workdir" if path.suffix == ".json" else ""
        raise ConfigError(f"config file {name!r} does not end in .py: it must be Python that defines get_config{hint}")
    known = ", ".join(sorted(path.stem for path in BUILT_IN.glob("[a-z]*.py")))
    raise ConfigError(f"config file {name!r} not found; the project's own are: {known}")


def _module_of(found: Path) -> types.ModuleType:
    inside = f"experiments.{found.stem}" if found.parent.name == "experiments" else f"experiment_{found.stem}"
    module_spec = importlib.util.spec_from_file_location(inside, found)
    module = importlib.util.module_from_spec(module_spec)
    module_spec.loader.exec_module(module)
    if not hasattr(module, "get_config"):
        raise ConfigError(f"{found} defines no get_config(arg=None)")
    return module


@contextmanager
def importable(found: Path) -> Iterator[None]:
    """Lets a config file import its neighbours, and modules of `experiments`: a folder of that name here and the project's.

    Modules imported from there are dropped from sys.modules at the end: another file's neighbours may have the same names.
    """
    before, path = dict(sys.modules), list(sys.path)
    folders = [found.parent] if found.parent.name == "experiments" else []
    folders += [Path("experiments").resolve(), BUILT_IN]
    package = types.ModuleType("experiments")
    package.__path__ = [str(folder) for folder in dict.fromkeys(folders) if folder.is_dir()]
    for name in [name for name in sys.modules if name.split(".")[0] == "experiments"]:
        del sys.modules[name]
    sys.modules["experiments"] = package
    sys.path.insert(0, str(found.parent))
    try:
        yield
    finally:
        sys.path[:] = path
        for name, module in list(sys.modules.items()):
            beside = Path(getattr(module, "__file__", None) or "/").parent == found.parent
            if name.split(".")[0] == "experiments" or (beside and name not in before):
                del sys.modules[name]
        sys.modules.update({name: module for name, module in before.items() if name.split(".")[0] == "experiments"})


def _line(error: Exception, found: Path) -> str:
    """Returns ", line N" of the config file, if the error's traceback has one."""
    if isinstance(error, SyntaxError) and error.filename == str(found):
        return f", line {error.lineno}"
    own = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(found)]
    return f", line {own[-1]}" if own else ""


def _what(error: Exception, found: Path) -> str:
    if isinstance(error, TypeError) and "get_config()" in str(error):
        return f"{error}; it must be get_config(arg=None)"
    if isinstance(error, SyntaxError):
        return f"not Python: {error.msg}"
    first = (str(error.args[0] if error.args else "").splitlines() or [""])[0]
    return f"{type(error).__name__}: {first}"
