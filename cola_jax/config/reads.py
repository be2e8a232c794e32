"""Which fields a run reads: those of its family, less those that another field switches off.

What is not read must stay at its default: `build.settle` refuses or resets it. A test watches which fields the programs of
each family read and holds these tables to it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from cola_jax.config.fields import RunConfig
from cola_jax.config.paths import flat, to_dict
from cola_jax.config.source_fields import FROM_FILES, READS

# What a config file may set for all the families and stages that it serves, though some of them do not read it.
SHARED = (
    "vae.", "dit.", "backbone.", "llada.", "plaid.",
    "data.generated_documents", "data.heldout_documents", "data.heldout_fraction",
    "train.eval_batches", "sampling.max_new_tokens", "compute.attention_chunks",
)  # fmt: skip

OF_FAMILIES = ("vae", "dit", "backbone", "llada", "plaid", "flow", "objective", "sampling")  # groups that not all read
CUT = ("sampling.max_new_tokens", "sampling.stop_at_eos")
CHOOSE = tuple(f"sampling.{name}" for name in ("repetition_penalty", "temperature", "top_k", "top_p"))
SOLVE = tuple(
    f"sampling.{name}" for name in ("steps", "solver", "guidance", "first_block", "repaint_rounds", "repaint_time")
)

# Of those groups, what each family reads.
FAMILY_READS: dict[str, tuple[str, ...]] = {
    "text_vae": ("vae.", "objective.kl_weight", "objective.mask_weight", "objective.mask_rate"),
    "cola": ("vae.", "dit.", "flow.", "objective.", *CUT, *CHOOSE, *SOLVE),
    "ar": ("backbone.", *CUT, *CHOOSE),
    "llada": ("backbone.", "llada.", "sampling.llada.", *CUT, *CHOOSE),
    "plaid": ("backbone.", "plaid.", "sampling.plaid.", *CUT),
}
# Fields of the groups above, and of those that all families read, that a family does not read.
FAMILY_IGNORES: dict[str, tuple[str, ...]] = {
    "text_vae": ("vae.latent_shift", "vae.latent_scale"),  # of the latents' way to the DiT
    "cola": (),
    "ar": (),
    "llada": ("compute.attention_chunks",),  # every query sees every key: no chunk has keys to skip
    "plaid": ("compute.attention_chunks", "backbone.tie_embeddings"),
}


class Switch(NamedTuple):
    """Fields that are read only where another one, `field`, has such a value."""

    names: tuple[str, ...]
    field: str
    reads: Callable[[RunConfig], bool]


def _has(c: RunConfig, *kinds: str) -> bool:
    return any(source.kind in kinds for source in c.data.sources)


def _trains_vae(c: RunConfig) -> bool:
    return c.family != "cola" or c.objective.latent_policy != "fixed"


SWITCHES = (
    Switch(("data.on_bad_record",), "data.sources", lambda c: _has(c, *FROM_FILES)),
    Switch(("data.generated_documents", "data.heldout_documents"), "data.sources", lambda c: _has(c, "tinyworld")),
    Switch(("data.heldout_fraction",), "data.sources", lambda c: not all(
        source.kind in ("tinyworld", "prepared") for source in c.data.sources)),
    Switch(("tokenizer.vocab_size", "tokenizer.training_documents"), "tokenizer.kind", lambda c: c.tokenizer.kind ==
        "sentencepiece"),
    Switch(("tokenizer.path", "tokenizer.pad_token", "tokenizer.eos_token"), "tokenizer.kind", lambda c:
        c.tokenizer.kind == "file"),
    Switch(("vae.encoder_last_ln", "vae.fixed_logsnr", "objective.kl_weight"), "vae.use_variation", lambda c:
        c.vae.use_variation),
    Switch(("vae.block.qk_norm_affine",), "vae.block.qk_norm", lambda c: c.vae.block.qk_norm),
    Switch(("flow.timestep_loc", "flow.timestep_scale"), "flow.timestep_law", lambda c: c.flow.timestep_law ==
        "logit_normal"),
    Switch(("flow.encoder_gradient", "objective.vae_weight", "objective.kl_weight", "objective.mask_weight",
        "objective.vae_lr_ratio", "objective.reference_weight"), "objective.latent_policy", _trains_vae),
    Switch(("objective.mask_rate",), "objective.mask_weight", lambda c: c.objective.mask_weight > 0 and _trains_vae(c)),
    Switch(("objective.interval_period", "objective.interval_joint"), "objective.latent_policy", lambda c:
        c.objective.latent_policy == "interval"),
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
    Switch(("sampling.repaint_rounds", "sampling.repaint_time"), "sampling.first_block", lambda c:
        c.sampling.first_block == "repaint"),
    Switch(("sampling.top_k", "sampling.top_p"), "sampling.temperature", lambda c: c.sampling.temperature > 0),
)  # fmt: skip


class Unread(NamedTuple):
    """Why a field is not read, and the field that switches it off."""

    why: str
    switch: str


def unread_fields(c: RunConfig) -> dict[str, Unread]:
    """Returns {path: why} of every field that the run of a config does not read."""
    found: dict[str, Unread] = {}
    values = flat(to_dict(c))
    for switch in SWITCHES:
        if not switch.reads(c):
            now = values.get(switch.field, ", ".join(source.kind for source in c.data.sources))
            why = f"where {switch.field}={now!r}"
            found |= {name: Unread(why, switch.field) for name in switch.names}
    for index, source in enumerate(c.data.sources):
        names = [name for name in ("path", "field", "split", "weight") if name not in READS[source.kind]]
        why = Unread(f"by kind {source.kind!r}", f"data.sources.{index}.kind")
        found |= {f"data.sources.{index}.{name}": why for name in names}
    of_some = tuple(f"{group}." for group in OF_FAMILIES)
    for path in values:
        elsewhere = path.startswith(of_some) and not path.startswith(FAMILY_READS[c.family])
        if elsewhere or path in FAMILY_IGNORES[c.family]:
            found[path] = Unread(f"by family {c.family!r}", "family")
    return found
