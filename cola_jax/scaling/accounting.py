"""A run's compute, by the paper's axis and by an exact count (SPEC 6), and its model FLOPs utilisation.

MFU, model FLOPs utilisation: FLOPs that the mathematics requires, divided by what the devices could do at their peak
bf16 rate in the same time. Counted are matmuls, forward and backward, of both streams, of unmasked attention pairs,
of the VAE and the logits; of frozen parts the forward pass only; recomputation is not counted.
"""

from __future__ import annotations

from cola_jax.config import RunConfig
from cola_jax.families.cost import Cost

PAPER_PARAMS = 1.8e9  # the matched core of every model of the paper, which its axis counts for all models
EXA = 1e18


def paper_exaflops(tokens: float) -> float:
    """EFLOPs = 6 * 1.8e9 * tokens / 1e18, the horizontal axis of the paper's figures."""
    return 6.0 * PAPER_PARAMS * tokens / EXA


def tokens_of(cfg: RunConfig, steps: int) -> int:
    """Returns the number of tokens of a number of steps."""
    return steps * cfg.train.batch_size * cfg.train.sequence_length


def mfu(useful: float, tokens_per_second: float, peak: float) -> float:
    """Returns the model FLOPs utilisation, a share.

    Args:
      useful: FLOPs per token, `Cost.useful`. peak: FLOPs per second of all devices together.
    """
    return useful * tokens_per_second / peak


def describe(cfg: RunConfig, cost: Cost) -> str:
    """Returns the text that a run prints at its start: parameters, FLOPs per token by part, and the whole run on both axes."""
    tokens = tokens_of(cfg, cfg.train.steps)
    params = ", ".join(f"{group} {size:,}" for group, size in cost.params.items())
    parts = ", ".join(f"{name} {share(cost, name):.1%}" for name in cost.forward)
    forward, backward = sum(cost.forward.values()), sum(cost.backward.values())
    return "\n".join(
        [
            f"parameters: {sum(cost.params.values()):,} ({params})",
            f"FLOPs per token: {cost.total:.4g} (forward {forward:.4g}, backward {backward:.4g}; {parts}), of which "
            f"{cost.masked / cost.total:.1%} on masked attention pairs",
            f"the run of {tokens:,} tokens: {cost.total * tokens / EXA:.4g} EFLOPs by that count, "
            f"{paper_exaflops(tokens):.4g} on the paper's axis (6 x 1.8e9 per token)",
        ]
    )


def share(cost: Cost, part: str) -> float:
    """Returns the share of a part's FLOPs in the total."""
    return (cost.forward[part] + cost.backward[part]) / cost.total
