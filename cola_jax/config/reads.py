"""Which fields a run reads: those of its family, less those that another field switches off.

Fields that are not read must keep their defaults: `build.settle` refuses or resets it. A test observes which fields the
programs of each family read and compares these tables with that.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from cola_jax.config.families import FACTS
from cola_jax.config.families.facts import Switch
from cola_jax.config.fields import RunConfig
from cola_jax.config.paths import flat, to_dict
from cola_jax.config.source_fields import FROM_FILES, READS

# Fields that a config file may set for several families and stages, although some of them do not read them.
SHARED = (
    "vae.", "dit.", "backbone.", "llada.", "plaid.",
    "data.generated_documents", "data.heldout_documents", "data.heldout_fraction",
    "train.eval_batches", "sampling.max_new_tokens", "compute.attention_chunks",
)  # fmt: skip

# Groups of which each family reads the part that its `Facts.reads` names.
OF_FAMILIES = frozenset(path.split(".")[0] for facts in FACTS.values() for path in facts.reads)


def _has(c: RunConfig, *kinds: str) -> bool:
    return any(source.kind in kinds for source in c.data.sources)


def _is_remote(c: RunConfig) -> bool:
    return any("://" in path for source in c.data.sources for path in source.path)


SWITCHES = (
    Switch(("data.cache_dir", "data.cache_gib"), "data.sources", _is_remote),
    Switch(("data.on_bad_record",), "data.sources", lambda c: _has(c, *FROM_FILES)),
    Switch(("data.on_damaged_shard",), "data.sources", lambda c: _has(c, "prepared")),
    Switch(("data.generated_documents", "data.heldout_documents"), "data.sources", lambda c: _has(c, "tinyworld")),
    Switch(("data.heldout_fraction",), "data.sources", lambda c: not all(
        source.kind in ("tinyworld", "prepared") for source in c.data.sources)),
    Switch(("tokenizer.vocab_size", "tokenizer.training_documents"), "tokenizer.kind", lambda c: c.tokenizer.kind ==
        "sentencepiece"),
    Switch(("tokenizer.path", "tokenizer.pad_token", "tokenizer.eos_token"), "tokenizer.kind", lambda c:
        c.tokenizer.kind == "file"),
    Switch(("optimizer.muon_momentum", "optimizer.muon_steps"), "optimizer.name", lambda c: c.optimizer.name == "muon"),
    Switch(("optimizer.decay_steps", "optimizer.final_learning_rate"), "optimizer.schedule", lambda c:
        c.optimizer.schedule != "constant"),
    Switch(("optimizer.cooldown_steps", "optimizer.cooldown_form"), "optimizer.schedule", lambda c:
        c.optimizer.schedule == "wsd"),
    Switch(("optimizer.initial_learning_rate",), "optimizer.warmup_steps", lambda c: c.optimizer.warmup_steps > 0),
    Switch(("train.eval_batches",), "train.eval_every", lambda c: c.train.eval_every > 0),
    Switch(("train.init_step", "train.init_groups", "train.init_continue"), "train.init_from", lambda c: bool(
        c.train.init_from)),
    Switch(("checkpoint.keep_best",), "checkpoint.best_metric", lambda c: bool(c.checkpoint.best_metric)),
)  # fmt: skip


class Unread(NamedTuple):
    """Why a field is not read, and the field that switches it off."""

    why: str
    switch: str


def unread_fields(c: RunConfig) -> dict[str, Unread]:
    """Returns {path: why} of every field that the run of a config does not read."""
    found: dict[str, Unread] = {}
    values, facts = flat(to_dict(c)), FACTS[c.family]
    for switch in (*SWITCHES, *facts.switches):
        if not switch.reads(c):
            now = values.get(switch.field, ", ".join(source.kind for source in c.data.sources))
            why = f"if {switch.field}={now!r}"
            found |= {name: Unread(why, switch.field) for name in switch.names}
    for index, source in enumerate(c.data.sources):
        names = [name for name in ("path", "field", "split", "weight") if name not in READS[source.kind]]
        why = Unread(f"by kind {source.kind!r}", f"data.sources.{index}.kind")
        found |= {f"data.sources.{index}.{name}": why for name in names}
    for path in values:
        if (_is_of_families(path) and not path.startswith(facts.reads)) or path in facts.ignores:
            found[path] = Unread(f"by family {c.family!r}", "family")
    return found


def _is_of_families(path: str) -> bool:
    return path.split(".")[0] in OF_FAMILIES


def read_by_none(path: str, families: Iterable[str]) -> bool:
    """Whether a path belongs to a group that not all families read, and none of these reads it."""
    return _is_of_families(path) and not any(path.startswith(FACTS[family].reads) for family in families)
