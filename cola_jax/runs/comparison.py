"""Comparison of configs: differing fields, cost of each, and what is not matched between them (SPEC 5, BASELINES 1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax

from cola_jax import config, storage
from cola_jax.config import RunConfig, read_by_none, resolve, to_dict
from cola_jax.config.paths import flat
from cola_jax.families import FAMILIES
from cola_jax.parallel import rules
from cola_jax.scaling import accounting
from cola_jax.train.workdir import stored_config

CORE_MATCH = 0.01  # relative: cores whose parameter counts differ by less count as matched
SHARED = ("data", "tokenizer", "optimizer", "train", "compute")  # fields that a matched comparison keeps equal


def compare_runs(specs: Sequence[str]) -> dict[str, Any]:
    """Returns {"configs": names, "figures": {row: a value each}, "fields": {path: a value each}, "not_matched": sentences}.

    Args:
      specs: FILE[:ARG], a name in experiments/, or a workdir.

    Raises:
      ConfigError: for an invalid config. WorkdirError: for a folder that is not a workdir.
    """
    configs = [_read(spec) for spec in specs]
    costs = [FAMILIES[cfg.family].objective.cost(cfg) for cfg in configs]
    groups = [parameters(cfg) for cfg in configs]
    figures: dict[str, list[Any]] = {"family": [cfg.family for cfg in configs]}
    figures["parameters"] = [sum(cost.params.values()) for cost in costs]
    for name in ("embeddings", "core matrices", "VAE", "rest"):
        figures[name] = [found[name] for found in groups]
    for name in dict.fromkeys(group for cost in costs for group in cost.params):
        figures[f"group {name}"] = [cost.params.get(name, 0) for cost in costs]
    figures["FLOPs per token, forward"] = [sum(cost.forward.values()) for cost in costs]
    figures["FLOPs per token, backward"] = [sum(cost.backward.values()) for cost in costs]
    figures["FLOPs per token"] = [cost.total for cost in costs]
    figures["tokens per step"] = [accounting.tokens_of(cfg, 1) for cfg in configs]
    figures["tokens of the run"] = [accounting.tokens_of(cfg, cfg.train.steps) for cfg in configs]
    figures["EFLOPs of the run"] = [
        cost.total * accounting.tokens_of(cfg, cfg.train.steps) / accounting.EXA for cfg, cost in zip(configs, costs)
    ]
    figures["EFLOPs on the paper's axis"] = [
        accounting.paper_exaflops(accounting.tokens_of(cfg, cfg.train.steps)) for cfg in configs
    ]
    fields = _differing(configs)
    return {
        "configs": list(specs), "figures": figures, "fields": fields, "not_matched": not_matched(configs, figures, fields),
    }  # fmt: skip


def _read(spec: str) -> RunConfig:
    path = storage.path(spec, "config")
    return resolve(stored_config(path) if path.is_dir() else config.load(str(path)))


def parameters(cfg: RunConfig) -> dict[str, int]:
    """Returns parameter counts by kind: embeddings (in and out), matrices of the core's layers, the VAE, the rest."""
    shapes = jax.eval_shape(lambda: FAMILIES[cfg.family].objective.init(cfg, jax.random.PRNGKey(0)))
    found = {"embeddings": 0, "core matrices": 0, "VAE": 0, "rest": 0}
    for key_path, leaf in jax.tree_util.tree_leaves_with_path(shapes):
        path = rules.path_of(key_path)
        parts = path.split("/")
        if "embedding" in parts or "logits" in parts:
            name = "embeddings"
        elif parts[0] in ("encoder", "decoder"):
            name = "VAE"
        else:
            name = "core matrices" if "blocks" in parts and parts[-1] == "kernel" else "rest"
        found[name] += leaf.size
    return found


def _differing(configs: Sequence[RunConfig]) -> dict[str, list[Any]]:
    """Returns every field that differs between the configs, of those that some of their families read."""
    families = {cfg.family for cfg in configs}
    trees = [flat(to_dict(cfg)) for cfg in configs]
    differ = [path for path in dict.fromkeys(path for tree in trees for path in tree) if not _alike(path, trees)]
    return {path: [tree.get(path) for tree in trees] for path in differ if not read_by_none(path, families)}


def _alike(path: str, trees: Sequence[dict[str, Any]]) -> bool:
    return all(tree.get(path) == trees[0].get(path) for tree in trees)


def not_matched(configs: Sequence[RunConfig], figures: dict[str, list[Any]], fields: dict[str, list[Any]]) -> list[str]:
    """Returns one sentence for everything that must be equal in a strict comparison and differs here."""
    said = [f"{path} differs" for path in fields if path.split(".")[0] in SHARED and not path.startswith("train.init_")]
    for name in ("core matrices", "tokens of the run"):
        low, high = min(figures[name]), max(figures[name])
        if high - low > CORE_MATCH * high:
            said.append(f"{name} differ: {low:,} to {high:,}")
    for name in ("parameters", "embeddings", "FLOPs per token"):
        low, high = min(figures[name]), max(figures[name])
        if high > low:
            said.append(f"{name}: the largest is {high / low:.3f} times the smallest" if low else f"{name} differ")
    if len({vocabulary.size for vocabulary in map(config.vocabulary, configs)}) > 1:
        said.append("vocabularies differ in size")
    return said


def as_text(compared: dict[str, Any]) -> str:
    """Returns the comparison as tables."""
    blocks = [_table(["", *compared["configs"]], compared["figures"])]
    if compared["fields"]:
        blocks.append(_table(["field", *compared["configs"]], compared["fields"]))
    if len(compared["configs"]) > 1:
        lines = [f"  {sentence}" for sentence in compared["not_matched"]] or ["  nothing"]
        blocks.append("\n".join(["not matched:", *lines]))
    return "\n\n".join(blocks)


def _table(header: list[str], rows: dict[str, list[Any]]) -> str:
    cells = [header, *([name, *map(_cell, values)] for name, values in rows.items())]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in cells)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.5g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
