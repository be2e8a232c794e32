"""What a model family is to the trainer, the evaluator and the sweep: a handful of pure functions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cola_jax.config import RunConfig
from cola_jax.families.cost import Cost
from cola_jax.families.likelihood import Likelihood

Tree = Any
Batch = dict[str, Any]


@dataclass(frozen=True)
class Family:
    """One model family. Parameters are a dict of groups, e.g. {"encoder": ..., "decoder": ..., "dit": ...}.

    A batch has tokens, segments, positions (B, L) int32, weights (B, L) float32 and rows (B,) int32, the index of each row in
    the global batch. Randomness of a step is drawn for the whole global batch by `draw` before the batch is cut into
    microbatches, each row from its own index, so neither accumulation nor the mesh changes it.

    Attributes:
      name: key in FAMILIES.
      groups: the top-level keys of the parameters.
      init: (cfg, rng) -> params.
      draw: (cfg, batch, rng, step) -> (noise, counts). noise: arrays whose leading axis is B; counts: scalars, the
        denominators of the loss terms over the whole global batch.
      loss: (cfg, params, frozen, batch, noise, counts, step) -> (scalar, sums). The scalar and every entry of sums (scalars)
        add up over microbatches; the scalar is already divided by counts.
      summarize: (cfg, sums) -> metrics by name, sums having been added up over one or several whole batches.
      trained: (cfg, step: int) -> the groups that this step trains; the others are constants of the step.
      learning_rate_ratio: (cfg) -> {group: factor on the learning rate}.
      generate: (cfg, params, prompts, *, seed, pad_id, samples, prompt_tokens, place) -> iterator of (new tokens by row,
        details) block by block; None where a family does not write text.
      generate_step: (cfg, params, rows, prompt) -> the jitted function that `generate` calls again and again, and what it is
        called with for so many prompts of so many tokens: shapes in place of arrays, params being shapes too. None where
        `generate` is.
      log_likelihood: (cfg, params, prompts, answers, *, seed, pad_id, samples, prompt_tokens, effort) -> Likelihood of each
        answer given its prompt; None where a family does not write text. prompt_tokens: as in generate, of both together.
      frozen: (cfg, params) -> arrays that the loss reads and never trains (the reference encoder), from the initial params.
      cost: (cfg) -> parameters, FLOPs of loss and gradient a token, and bytes; of the mean step where steps differ.
    """

    name: str
    groups: tuple[str, ...]
    init: Callable[..., Tree]
    draw: Callable[..., tuple[Tree, Tree]]
    loss: Callable[..., tuple[Any, dict[str, Any]]]
    summarize: Callable[..., dict[str, Any]]
    trained: Callable[[RunConfig, int], tuple[str, ...]]
    learning_rate_ratio: Callable[[RunConfig], dict[str, float]]
    frozen: Callable[..., Tree]
    generate: Callable[..., Any] | None
    generate_step: Callable[[RunConfig, Tree, int, int], tuple[Any, tuple[Any, ...]]] | None
    cost: Callable[[RunConfig], Cost]
    log_likelihood: Callable[..., Likelihood] | None
