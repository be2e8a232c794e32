"""A report: one HTML page with its pictures inside, the same pictures as files, and the figures as JSON."""

from __future__ import annotations

import base64
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
from jinja2 import Environment

from cola_jax import storage
from cola_jax.data.tinyworld_check import check
from cola_jax.evaluate.page import PAGE
from cola_jax.evaluate.stories import Pair
from cola_jax.storage import AnyPath

PERCENT = ("well_formed", "entailed", "consistent", "chance", "distinct_2", "copied")


@dataclass(frozen=True)
class Picture:
    """A PNG file of the report's folder, with its caption."""

    title: str
    path: AnyPath
    caption: str


@dataclass(frozen=True)
class Table:
    """Rows of cells, all text."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Sample:
    """One continued prompt and the checker's verdict on its answer; `expected` is "" if the story entails none."""

    prompt: str
    continuation: str
    entailed: bool
    expected: str


@dataclass(frozen=True)
class Report:
    """The content of a page.

    Attributes:
      headline: (name, value, remark) of the figures at the top.
      samples: (title, samples) of each group.
      configs: (title, text) of the collapsed sections at the end.
    """

    title: str
    headline: Sequence[tuple[str, str, str]]
    samples: Sequence[tuple[str, Sequence[Sample]]]
    pictures: Sequence[Picture]
    tables: Sequence[Table]
    configs: Sequence[tuple[str, str]]


def write_report(folder: str | AnyPath, report: Report, figures: dict[str, Any]) -> AnyPath:
    """Writes index.html and figures.json into `folder`; returns the page. The page is written atomically.

    Raises:
      FileNotFoundError: if a picture is missing.
    """
    folder = storage.path(folder, "folder")
    storage.make_folder(folder)
    environment = Environment(autoescape=True)
    environment.filters["base64"] = lambda path: base64.b64encode(path.read_bytes()).decode()
    page = environment.from_string(PAGE).render(report=report)
    storage.write_json(folder / "figures.json", figures)
    storage.write_bytes(folder / "index.html", page.encode())
    return folder / "index.html"


def samples_of(pairs: Sequence[Pair]) -> list[Sample]:
    """Returns pairs with the checker's verdict."""
    reports = [check(prompt + continuation) for prompt, continuation in pairs]
    return [Sample(*pair, report.entailed, report.expected) for pair, report in zip(pairs, reports)]


def table_of(title: str, rows: Sequence[dict[str, Any]]) -> Table:
    """Returns a table of dicts, a column for each key of any; shares become per cent, missing values are empty."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    cells = [[_cell(name, row[name]) if name in row else "" for name in columns] for row in rows]
    return Table(title, [name.replace("_", " ").replace("distinct 2", "distinct-2") for name in columns], cells)


def _cell(name: str, value: Any) -> str:
    if name in PERCENT:
        return percent(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def percent(share: float) -> str:
    """Returns a share as "97.1 %"."""
    return f"{100 * share:.1f} %"


def machine() -> dict[str, str]:
    """Returns a description of the machine."""
    devices = jax.devices()
    return {
        "devices": f"{len(devices)} x {devices[0].device_kind}",
        "CPU cores": str(os.cpu_count()),
        "system": platform.platform(terse=True),
        "Python": platform.python_version(),
        "jax": jax.__version__,
    }
