"""Facts of family cola, stage 2."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from cola_jax.config.families import text_vae
from cola_jax.config.families.facts import CHOOSE, CHOOSE_SWITCH, CUT, Attention, Check, Facts, Switch
from cola_jax.config.families.text_vae import VAE_GROUPS

if TYPE_CHECKING:
    from cola_jax.config.fields import RunConfig

SOLVE = tuple(
    f"sampling.{name}" for name in ("steps", "solver", "guidance", "first_block", "repaint_rounds", "repaint_time")
)


def _trains_vae(c: RunConfig) -> bool:
    return c.objective.latent_policy != "fixed"


SWITCHES = (
    *text_vae.VAE_SWITCHES,
    Switch(("flow.timestep_loc", "flow.timestep_scale"), "flow.timestep_law", lambda c: c.flow.timestep_law ==
        "logit_normal"),
    Switch(("flow.encoder_gradient", "objective.vae_weight", "objective.kl_weight", "objective.mask_weight",
        "objective.vae_lr_ratio", "objective.reference_weight"), "objective.latent_policy", _trains_vae),
    Switch(("objective.mask_rate",), "objective.mask_weight", lambda c: c.objective.mask_weight > 0 and _trains_vae(c)),
    Switch(("objective.interval_period", "objective.interval_joint"), "objective.latent_policy", lambda c:
        c.objective.latent_policy == "interval"),
    Switch(("sampling.repaint_rounds", "sampling.repaint_time"), "sampling.first_block", lambda c:
        c.sampling.first_block == "repaint"),
    CHOOSE_SWITCH,
)  # fmt: skip


def starts_from_vae(c: RunConfig) -> bool:
    """Whether a config starts from an encoder and a decoder."""
    return bool(c.train.init_from) and (not c.train.init_groups or set(VAE_GROUPS) <= set(c.train.init_groups))


def checks(c: RunConfig) -> list[Check]:
    """Checks of the sizes of VAE and DiT, and of the requirements of the latent policy."""
    dit, vae = c.dit, c.vae
    return [
        *text_vae.checks(c),
        (
            dit.rope_dim % 2 != 0 or not 0 < dit.rope_dim <= dit.head_dim,
            f"dit.rope_dim={dit.rope_dim} must be even and at most dit.head_dim={dit.head_dim}",
        ),
        (
            dit.block_size % vae.block_size != 0 and vae.block_size % dit.block_size != 0,
            f"vae.block_size={vae.block_size} and dit.block_size={dit.block_size}: one must divide the other",
        ),
        (
            c.flow.known_prefix_probability > 0 and dit.block_size == 1,
            "flow.known_prefix_probability must be 0 if dit.block_size=1: a block of one has no known part",
        ),
        *_objective_checks(c),
    ]


def _objective_checks(c: RunConfig) -> list[Check]:
    objective, begins = c.objective, starts_from_vae(c)
    from_vae = "train.init_from, a run or folder with an encoder and a decoder"
    return [
        (
            objective.latent_policy in ("fixed", "interval") and not begins,
            f"objective.latent_policy={objective.latent_policy!r} needs {from_vae}",
        ),
        (
            objective.latent_policy == "scratch" and begins and not c.train.init_continue,
            "objective.latent_policy='scratch' starts from random parameters, but train.init_from is set",
        ),
        (
            objective.reference_weight > 0 and not begins,
            f"objective.reference_weight>0 needs {from_vae}: its encoder is the reference",
        ),
        (
            objective.reference_weight > 0 and not c.vae.use_variation,
            "objective.reference_weight>0 compares posteriors: it needs vae.use_variation=True",
        ),
        (
            objective.interval_joint > objective.interval_period,
            "objective.interval_joint must be between 1 and objective.interval_period",
        ),
    ]


def attention(c: RunConfig) -> tuple[Attention, ...]:
    dit = Attention("the DiT", "latents", text_vae.latents_of_row(c), c.dit.block_size, c.dit.head_dim, True)
    return (*text_vae.attention(c), dit)


def split_by_tensor(c: RunConfig) -> dict[str, int]:
    dit = {"dit.num_heads": c.dit.num_heads, "dit.expand_ratio * dit.dim": c.dit.expand_ratio * c.dit.dim}
    return text_vae.split_by_tensor(c) | dit


FACTS = Facts(
    reads=("vae.", "dit.", "flow.", "objective.", *CUT, *CHOOSE, *SOLVE),
    switches=SWITCHES,
    checks=checks,
    vocabulary=text_vae.vocabulary,
    tokens_of_block=lambda c: c.vae.patch_size * math.lcm(c.vae.block_size, c.dit.block_size),
    attention=attention,
    split_by_tensor=split_by_tensor,
)
