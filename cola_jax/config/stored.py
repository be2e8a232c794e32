"""Configs that earlier versions wrote: fields under their old names, and fields that did not exist."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from cola_jax.config.build import build, settle
from cola_jax.config.families.text_vae import VAE_GROUPS
from cola_jax.config.fields import RunConfig
from cola_jax.config.paths import defaults

# Old name -> new one. objective.vae_from named a run whose encoder and decoder were taken over, and nothing else.
ALIASES = {"objective.vae_from": "train.init_from"}
# Fields that are absent from config.json files older than the field. The defaults are the behaviour of that time.
ADDED = (
    "data.on_bad_record", "data.on_changed_corpus", "data.on_damaged_shard", "data.cache_dir", "data.cache_gib",
    "optimizer.cooldown_steps", "optimizer.cooldown_form",
    "train.ema_decay", "train.init_from", "train.init_step", "train.init_groups", "train.init_continue",
    "train.skip_nonfinite", "train.profile", "checkpoint.every_minutes", "compute.compilation_cache",
)  # fmt: skip


def renamed(plain: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Returns a config dict with new names in place of old ones, and the old names that were set."""
    plain, seen = copy.deepcopy(plain), []
    objective = plain.get("objective")
    if isinstance(objective, dict) and "vae_from" in objective:
        given = objective.pop("vae_from")
        train = plain.get("train")
        if isinstance(train, dict) and given != "":
            seen.append("objective.vae_from")
            train |= {"init_from": given, "init_groups": list(VAE_GROUPS)}
    return plain, seen


def from_stored(plain: dict[str, Any], say: Callable[[str], None] | None = None) -> RunConfig:
    """Returns the config that a run of this or an earlier version wrote.

    Args:
      say: called with a line that names what was upgraded.

    Raises:
      ConfigError: if it is not a config of any version. `resolve` checks that its fields fit each other.
    """
    plain, upgraded = renamed(plain) if isinstance(plain, dict) else (plain, [])
    usual = defaults()
    for path in ADDED:
        *groups, name = path.split(".")
        node = plain
        for group in groups:
            node = node.get(group) if isinstance(node, dict) else None
        if isinstance(node, dict) and name not in node:
            node[name] = usual[path]
            upgraded.append(path)
    config = settle(build(plain), quiet=True)
    if upgraded and say is not None:
        say(f"the stored config is of an earlier version; read with {', '.join(upgraded)} as it was then")
    return config
