"""English prose in every Python installation: language reference topics and the docstrings of the standard library.

Files are read and parsed, never imported. One document per topic and one per module; repeated paragraphs are left
out, so no two documents share one. The text depends on the Python version.
"""

from __future__ import annotations

import ast
import functools
import inspect
import re
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from pydoc_data.topics import topics

SKIPPED_FOLDERS = frozenset(
    {"test", "tests", "site-packages", "dist-packages", "idlelib", "lib2to3", "turtledemo", "ensurepip", "pydoc_data"}
)
FEWEST_WORDS = 8  # of a paragraph
FEWEST_LETTERS = 0.8  # share of a paragraph that is letters and spaces


@functools.cache
def documents() -> tuple[str, ...]:
    """Returns the documents in a fixed order: topics by name, then modules by path. Takes a few seconds on the first call."""
    seen: set[str] = set()
    raw = [topics[name] for name in sorted(topics)] + [_docstrings(path) for path in _library()]
    cleaned = ("\n\n".join(_new(_prose(text), seen)) for text in raw)
    return tuple(document for document in cleaned if document)


def _library() -> list[Path]:
    root = Path(sysconfig.get_path("stdlib"))
    return sorted(
        path
        for path in root.rglob("*.py")
        if not SKIPPED_FOLDERS.intersection(path.relative_to(root).parts)
        and "config-" not in str(path.relative_to(root))
    )


def _docstrings(path: Path) -> str:
    """Returns the docstrings of a module, its classes and functions, in source order; "" if it does not parse."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return ""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = sorted((node for node in ast.walk(tree) if isinstance(node, kinds)), key=lambda n: getattr(n, "lineno", 0))
    return "\n\n".join(filter(None, (ast.get_docstring(node) for node in nodes)))


def _prose(text: str) -> Iterator[str]:
    """Yields the paragraphs of English prose, each on one line: no code, grammar, tables or headings."""
    for block in re.split(r"\n\s*\n", inspect.cleandoc(text)):
        lines = block.rstrip().split("\n")
        if lines[0].startswith("   ") or any(line.lstrip().startswith((">>>", "...")) for line in lines):
            continue
        line = re.sub(r"\s+", " ", " ".join(lines)).strip()
        line = re.sub(r"^[*-] ", "", re.sub(r":[a-z:]+:`~?([^`]*)`", r"\1", line))
        line = re.sub(r"``?([^`]+)``?", r"\1", re.sub(r"(?<!\w)\*+(\w[^*]*?)\*+(?!\w)", r"\1", line))
        letters = sum(character.isalpha() or character == " " for character in line)
        if (
            len(line.split()) >= FEWEST_WORDS
            and letters >= FEWEST_LETTERS * len(line)
            and line.endswith((".", ":", "?"))
        ):
            yield line


def _new(paragraphs: Iterator[str], seen: set[str]) -> list[str]:
    fresh = [paragraph for paragraph in dict.fromkeys(paragraphs) if paragraph not in seen]
    seen.update(fresh)
    return fresh
