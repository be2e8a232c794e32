"""The interface of a model family to the trainer, the evaluator and the sweep: a few pure functions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cola_jax.config import RunConfig
from cola_jax.families.cost import Cost
from cola_jax.families.likelihood import Likelihood

Tree = Any
Batch = dict[str, Any]
BatchSpec = dict[str, jax.ShapeDtypeStruct]


@dataclass(frozen=True)
class Objective:
    """The objective of a family. Randomness of a step is drawn for the whole global batch before it is split into microbatches,
    each row from its own index, so neither accumulation nor the mesh changes it.

    Attributes:
      init: (cfg, rng) -> params: {group: parameters}.
      batch_spec: (cfg) -> shapes and dtypes of a global batch, whose leading axis is its rows; see `text_batch`.
      draw: (cfg, batch, rng, step) -> (noise, counts). noise: arrays whose leading axis is B; counts: scalars, the
        denominators of the loss terms over the whole global batch.
      loss: (cfg, params, frozen, batch, noise, counts, step) -> (scalar, sums). The scalar and every entry of sums (scalars)
        add up over microbatches; the scalar is already divided by counts. frozen: {group: parameters}, see `Training`.
      summarize: (cfg, sums) -> metrics by name, sums having been added up over one or several whole batches.
      cost: (cfg) -> parameters, FLOPs of loss and gradient per token, and bytes; of the mean step if steps differ.
    """

    init: Callable[..., Tree]
    batch_spec: Callable[[RunConfig], BatchSpec]
    draw: Callable[..., tuple[Tree, Tree]]
    loss: Callable[..., tuple[Any, dict[str, Any]]]
    summarize: Callable[..., dict[str, Any]]
    cost: Callable[[RunConfig], Cost]


class Training(NamedTuple):
    """What one step trains.

    Attributes:
      groups: the groups that the step updates; the others are constants of the step. The first step of a run updates every
        group that any of its steps does: those have moments.
      rates: {group: factor on the learning rate}, of all groups.
      frozen: groups whose first parameters the loss reads and no step trains (the reference encoder); the same at each step.
    """

    groups: tuple[str, ...]
    rates: dict[str, float]
    frozen: tuple[str, ...] = ()


@dataclass(frozen=True)
class Generator:
    """How a family generates text.

    Attributes:
      generate: (cfg, params, prompts, rows: RowOptions) -> iterator of (new tokens by row, details) block by block.
      step: (cfg, params, rows, prompt) -> the jitted function that `generate` calls again and again, and what it is called
        with for so many prompts of so many tokens: shapes in place of arrays, params being shapes too.
      needs_prompt: whether a prompt must have at least one token.
      reserved: (cfg) -> {token id that text may not hold: what it is}.
    """

    generate: Callable[..., Any]
    step: Callable[[RunConfig, Tree, int, int], tuple[Any, tuple[Any, ...]]]
    needs_prompt: bool = False
    reserved: Callable[[RunConfig], dict[int, str]] = lambda cfg: {}


@dataclass(frozen=True)
class LikelihoodEstimator:
    """How a family estimates text log-likelihood.

    Attributes:
      estimate: (cfg, params, prompts, answers, rows: RowOptions, settings: MonteCarlo) -> Likelihood of each answer given its
        prompt; rows.prompt_tokens counts both together.
      options: fields of `MonteCarlo` that it reads.
      exact: whether the estimate is log p itself, and no bound.
    """

    estimate: Callable[..., Likelihood]
    options: tuple[str, ...]
    exact: bool = False


@dataclass(frozen=True)
class Family:
    """One model family. Its facts that follow from the config alone stand in `config.families`, under the same name.

    Attributes:
      name: key in FAMILIES.
      groups: the top-level keys of the parameters, e.g. encoder, decoder, dit.
      objective: see Objective.
      training: (cfg, step: int) -> Training.
      generator: None if the family does not generate text.
      likelihood: None if the family estimates none.
      forms: published forms of weights that it is read from and written to (`interop`): cola, llama.
    """

    name: str
    groups: tuple[str, ...]
    objective: Objective
    training: Callable[[RunConfig, int], Training]
    generator: Generator | None = None
    likelihood: LikelihoodEstimator | None = None
    forms: tuple[str, ...] = field(default=())


def text_batch(cfg: RunConfig) -> BatchSpec:
    """The batch of a family that reads text: tokens, segments (document of a row; 0: padding), positions, weights, rows.

    (B, L) each, weights float32 and the others int32; rows (B,) int32 is the index of each row in the global batch.
    """
    rows = (cfg.train.batch_size,)
    shape, of = (*rows, cfg.train.sequence_length), jax.ShapeDtypeStruct
    spec = {name: of(shape, jnp.int32) for name in ("tokens", "segments", "positions")}
    return spec | {"weights": of(shape, jnp.float32), "rows": of(rows, jnp.int32)}


def trains_all(groups: tuple[str, ...]) -> Callable[[RunConfig, int], Training]:
    """Returns the `Family.training` of steps that all train all groups at one learning rate."""
    return lambda cfg, step: Training(groups, dict.fromkeys(groups, 1.0))
