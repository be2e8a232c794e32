"""Accuracies as tables: text, CSV and JSON."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from typing import Any

from cola_jax import storage
from cola_jax.data.errors import DataError
from cola_jax.evaluate import scoring
from cola_jax.evaluate.protocol import Task
from cola_jax.evaluate.records import Generation
from cola_jax.evaluate.scoring import SCORERS
from cola_jax.storage import AnyPath


def scored(task: Task, generations: Sequence[Generation], scorers: Sequence[str]) -> list[dict[str, Any]]:
    """Returns one row per scorer: records, right, and accuracy, low, high, chance in per cent, chance None if there is none.

    Raises:
      DataError: see `scoring.check`.
    """
    scoring.check([generation.record for generation in generations], {s: task.rule_of(s) for s in scorers}, task.signs)
    rows = []
    for scorer in scorers:
        right = [scoring.is_right(generation, task.rule_of(scorer), scorer, task.signs) for generation in generations]
        found = scoring.score(right, [generation.record for generation in generations])
        shares = {"accuracy": found.accuracy, "low": found.low, "high": found.high, "chance": found.chance}
        per_cent = {name: None if math.isnan(share) else round(100 * share, 4) for name, share in shares.items()}
        rows.append({"scorer": scorer, "records": found.records, "right": found.right} | per_cent)
    return rows


def as_text(rows: Sequence[dict[str, Any]]) -> str:
    """Returns rows of one set of columns as an aligned table; per cents have two decimals, None is a dash."""
    cells = [list(rows[0])] + [[_cell(value) for value in row.values()] for row in rows]
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    number = [all(not isinstance(row[name], str) for row in rows) for name in rows[0]]
    place = lambda cell, width, right: cell.rjust(width) if right else cell.ljust(width)
    return "\n".join("  ".join(map(place, line, widths, number)).rstrip() for line in cells)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def collect(folder: AnyPath) -> list[dict[str, Any]]:
    """Returns the rows of every task that is done in `folder`, by name, and for each scorer the average of several.

    Raises:
      StorageError, DataError: for a result.json that is damaged, by name.
    """
    found = [row for path in storage.find_named(folder, "result.json") for row in _rows(path)]
    columns = dict.fromkeys(name for row in found for name in row)
    rows = [columns | row for row in found]  # missing columns are None
    for scorer in SCORERS:
        own = [row for row in rows if row["scorer"] == scorer]
        if len(own) > 1:
            rows.append(columns | {"task": f"average of {len(own)}", "scorer": scorer} | _mean(own))
    return rows


def _rows(path: AnyPath) -> list[dict[str, Any]]:
    rows = storage.read_json(path)
    kinds = {"task": str, "scorer": str, "records": int, "right": int, "accuracy": (int, float)}
    fits = lambda row: isinstance(row, dict) and all(isinstance(row.get(name), kind) for name, kind in kinds.items())
    if not isinstance(rows, list) or not rows or not all(map(fits, rows)):
        raise DataError(f"{path} does not hold the scores of a task: remove the file, and the task is scored again")
    return rows


def _mean(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    totals = {name: sum(row[name] for row in rows) for name in ("records", "right")}
    return totals | {"accuracy": round(sum(row["accuracy"] for row in rows) / len(rows), 4)}


def write(folder: AnyPath, facts: dict[str, Any]) -> list[dict[str, Any]]:
    """Writes summary.csv and summary.json of all tasks that are done in `folder`. Returns their rows.

    Args:
      facts: other entries of the JSON: the run, its step, sampling, machine.
    """
    rows = collect(folder)
    file = io.StringIO(newline="")
    table = csv.DictWriter(file, list(rows[0]))
    table.writeheader()
    table.writerows(rows)
    storage.write_bytes(folder / "summary.csv", file.getvalue().encode())
    storage.write_json(folder / "summary.json", facts | {"scores": rows})
    return rows
