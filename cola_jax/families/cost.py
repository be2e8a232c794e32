"""What a family costs: its parameters, and the FLOPs of its loss and gradient for a token (SPEC 6)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax

from cola_jax.config import RunConfig
from cola_jax.models.flops import Work

TRAINED = (2.0, 2.0)  # gradient FLOPs per forward FLOP of weights and of attention
PASSED = (1.0, 2.0)  # a frozen part that a gradient passes through: of its input alone
FORWARD = (0.0, 0.0)  # a part that nothing is differentiated by


@dataclass(frozen=True)
class Cost:
    """Counted, not measured: matmuls as the kernels compute them, nothing rematerialised, rows of one document each.

    Attributes:
      params: parameters by group.
      forward: FLOPs per token by part, e.g. {"encoder": ..., "logits": ..., "dit": ...}.
      backward: the same of the gradient; parts that a step does not train cost nothing, or only what passes through them.
      masked: FLOPs per token, forward and backward, that attention kernels spend on masked pairs, part of `forward` and
        `backward`.
      attention: FLOPs per token, forward and backward, of attention kernels, masked pairs included, part of `forward` and
        `backward`.
      state_bytes: fp32 parameters, two moments each (muon keeps one of a matrix, and needs less), frozen parts and the
        average of the parameters, on all devices together.
    """

    params: dict[str, int]
    forward: dict[str, float]
    backward: dict[str, float]
    masked: float
    attention: float
    state_bytes: int

    @property
    def total(self) -> float:
        """FLOPs per token, forward and backward."""
        return sum(self.forward.values()) + sum(self.backward.values())

    @property
    def useful(self) -> float:
        """FLOPs per token without those on forbidden pairs: what MFU counts."""
        return self.total - self.masked


@dataclass(frozen=True)
class CostPart:
    """One part of a step for one row: its forward work, and what its gradient costs (TRAINED, PASSED or FORWARD)."""

    work: Work
    gradient: tuple[float, float]

    @property
    def backward(self) -> float:
        return self.gradient[0] * self.work.weights + self.gradient[1] * self.work.attention

    @property
    def masked(self) -> float:
        return self.work.masked * (1.0 + self.gradient[1])


def of_parts(
    cfg: RunConfig,
    init: Callable[..., Any],
    parts: dict[str, CostPart],
    trained: tuple[str, ...],
    frozen: tuple[str, ...] = (),
) -> Cost:
    """Returns the cost of a step made of `parts`, all of one row.

    Args:
      init: the family's, for its parameters' shapes.
      trained: the groups that have optimizer moments. frozen: those whose first values are kept as a reference.
    """
    shapes = jax.eval_shape(lambda: init(cfg, jax.random.PRNGKey(0)))
    sizes = {group: sum(math.prod(x.shape) for x in jax.tree.leaves(tree)) for group, tree in shapes.items()}
    tokens = cfg.train.sequence_length
    averaged = trained if cfg.train.ema_decay > 0 else ()
    kept = sum(sizes.values()) + sum(sizes[group] for group in (*frozen, *averaged))
    a_moment = 2 if cfg.optimizer.moment_dtype == "bfloat16" else 4  # bytes
    return Cost(
        params=sizes,
        forward={name: (part.work.weights + part.work.attention) / tokens for name, part in parts.items()},
        backward={name: part.backward / tokens for name, part in parts.items()},
        masked=sum(part.masked for part in parts.values()) / tokens,
        attention=sum(part.work.attention * (1.0 + part.gradient[1]) for part in parts.values()) / tokens,
        state_bytes=4 * kept + 2 * a_moment * sum(sizes[group] for group in trained),
    )


def mean(costs: list[tuple[float, Cost]]) -> Cost:
    """Returns the mean of the costs of several kinds of steps, weighted by their shares of a run."""
    first = costs[0][1]
    blend = lambda name: {part: sum(w * getattr(c, name)[part] for w, c in costs) for part in first.forward}
    masked, attention = (sum(w * getattr(c, name) for w, c in costs) for name in ("masked", "attention"))
    return Cost(first.params, blend("forward"), blend("backward"), masked, attention, first.state_bytes)
