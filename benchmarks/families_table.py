"""The comparison of the families as Markdown: parameters and FLOPs of each, its results as mean and deviation over seeds."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any

SCORER = "paper"  # maps an answer to the option it matches best: prompts of the small world list no options
Rows = Sequence[dict[str, Any]]


def as_markdown(facts: dict[str, Any], rows: Rows) -> str:
    """Returns both tables.

    Args:
      facts: machine, budget, and by family `rates` (chosen, tried) and `families` (parameters, steps, tokens, flops).
      rows: one per run: family, seed, tasks, told, asked, likelihood, tokens_per_second.
    """
    families = list(dict.fromkeys(row["family"] for row in rows))
    seeds = sorted({row["seed"] for row in rows})
    head = (
        f"{facts['machine']}. Budget {facts['budget']:.3g} training FLOPs per run. Figures: mean +- standard deviation over "
        f"seeds ({', '.join(map(str, seeds))}); accuracies and shares in per cent; scorer `{SCORER}`."
    )
    return "\n\n".join([head, _made_of(facts, families), _figures(rows, families)]) + "\n"


def _made_of(facts: dict[str, Any], families: list[str]) -> str:
    of = facts["families"]
    lines = {
        "core matrices": [f"{of[name]['parameters']['core matrices']:,}" for name in families],
        "embeddings, in and out": [f"{of[name]['parameters']['embeddings']:,}" for name in families],
        "VAE": [f"{of[name]['parameters']['VAE']:,}" for name in families],
        "other parameters": [f"{of[name]['parameters']['rest']:,}" for name in families],
        "steps": [f"{of[name]['steps']:,}" for name in families],
        "tokens seen": [f"{of[name]['tokens']:,}" for name in families],
        "training FLOPs": [f"{of[name]['flops']:.4g}" for name in families],
        "of which stage 1": [f"{of[name]['flops_stage_1']:.3g}" for name in families],
        "learning rate": [_chosen(facts["rates"][name]) for name in families],
        "held-out loss in the search": [_tried(facts["rates"][name]["tried"]) for name in families],
    }
    return _table(["", *families], lines)


def _chosen(found: dict[str, Any]) -> str:
    """The rate, marked if it is an end of the grid: the optimum may be outside it."""
    return f"{found['chosen']:.3g}" + (" (an end of the grid)" if found["tried"] and not found["interior"] else "")


def _tried(tried: dict[str, float]) -> str:
    return ", ".join(f"{rate}: {loss:.3f}" for rate, loss in tried.items())


def _figures(rows: Rows, families: list[str]) -> str:
    lines: dict[str, list[str]] = {}

    def add(name: str, value_of: Callable[[dict[str, Any]], float], chance: str = "", digits: int = 1) -> None:
        lines[name] = [_spread([value_of(row) for row in rows if row["family"] == f], digits) for f in families]
        lines[name].append(chance)

    tasks = [row for row in rows[0]["tasks"] if row["scorer"] == SCORER]
    for task in tasks:
        chance = "" if task["chance"] is None else f"{task['chance']:.1f}"
        add(task["task"], lambda row, name=task["task"]: _accuracies(row)[name], chance)
    known = [task["chance"] for task in tasks if task["chance"] is not None]
    average = f"{statistics.mean(known):.1f}" if len(known) == len(tasks) else ""
    add(f"average of {len(tasks)}", lambda row: statistics.mean(_accuracies(row).values()), average)
    for part, text in (("told", "continued openings"), ("asked", "answered questions")):
        add(f"{text}: well-formed sentences", lambda row, part=part: 100 * row[part]["well_formed"])
        chance = statistics.mean(100 * row[part]["chance"] for row in rows)
        add(f"{text}: entailed", lambda row, part=part: 100 * row[part]["entailed"], f"{chance:.1f}")
    right = statistics.mean(row["answers"]["right"] for row in rows)
    add(f"different answers, of {right:.0f} that are right", lambda row: row["answers"]["given"])
    add("-log p of held-out stories, nats per token", lambda row: row["likelihood"]["nats_per_token"], digits=3)
    kinds = {row["family"]: row["likelihood"]["kind"] for row in rows}
    lines["which is"] = [*({"bound": "at most"}.get(kinds[f], kinds[f]) for f in families), ""]
    add("new tokens per second, batch of 64", lambda row: row["tokens_per_second"], digits=0)
    lines["runs"] = [str(sum(row["family"] == f for row in rows)) for f in families] + [""]
    return _table(["", *families, "chance"], lines)


def _accuracies(row: dict[str, Any]) -> dict[str, float]:
    return {task["task"]: task["accuracy"] for task in row["tasks"] if task["scorer"] == SCORER}


def _spread(values: list[float], digits: int) -> str:
    mean = f"{statistics.mean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} +- {statistics.stdev(values):.{digits}f}"


def _table(header: list[str], lines: dict[str, list[str]]) -> str:
    cells = [header, ["---"] * len(header), *([name, *values] for name, values in lines.items())]
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)
