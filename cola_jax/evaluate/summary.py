"""Accuracies as rows: for people, for spreadsheets and for programs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from cola_jax.evaluate import scoring
from cola_jax.evaluate.protocol import Task
from cola_jax.evaluate.records import Generation


def scored(task: Task, generations: Sequence[Generation], scorers: Sequence[str]) -> list[dict[str, Any]]:
    """Returns a row a scorer: records, right, and accuracy, low, high, chance in per cent, chance None where there is none.

    Raises:
      DataError: see `scoring.is_right`.
    """
    rows = []
    for scorer in scorers:
        right = [scoring.is_right(generation, task.rule_of(scorer), scorer) for generation in generations]
        found = scoring.score(right, [generation.record for generation in generations])
        shares = {"accuracy": found.accuracy, "low": found.low, "high": found.high, "chance": found.chance}
        per_cent = {name: None if math.isnan(share) else round(100 * share, 4) for name, share in shares.items()}
        rows.append({"scorer": scorer, "records": found.records, "right": found.right} | per_cent)
    return rows


def as_text(rows: Sequence[dict[str, Any]]) -> str:
    """Returns rows of one set of columns as an aligned table; per cents have two decimals, what is None a dash."""
    cells = [list(rows[0])] + [[_cell(value) for value in row.values()] for row in rows]
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    number = [all(not isinstance(row[name], str) for row in rows) for name in rows[0]]
    place = lambda cell, width, right: cell.rjust(width) if right else cell.ljust(width)
    return "\n".join("  ".join(map(place, line, widths, number)).rstrip() for line in cells)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" if isinstance(value, float) else str(value)
