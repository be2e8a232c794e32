"""AdamW or Muon with one state per parameter group, one clip over the groups of a step, and the learning rate schedule."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cola_jax.config import RunConfig
from cola_jax.config.fields import OptimizerConfig
from cola_jax.families.family import Family
from cola_jax.train import muon

Tree = Any


def schedule(cfg: OptimizerConfig, steps: int) -> Callable[[Any], jax.Array]:
    """Returns step (from 0) -> learning rate: linear warm-up from initial_learning_rate, then cfg.schedule.

    cosine and linear decay from learning_rate at the end of the warm-up to final_learning_rate at the end of the schedule;
    constant is constant; wsd (warm-up, stable, decay) is constant until its decay, the last cooldown_steps of the
    schedule. After its end the rate is final_learning_rate.

    Args:
      steps: train.steps, the end of the schedule if cfg.decay_steps is 0.
    """
    peak, final, warmup = cfg.learning_rate, cfg.final_learning_rate, cfg.warmup_steps
    end = cfg.decay_steps or steps
    pieces, bounds = [optax.linear_schedule(cfg.initial_learning_rate, peak, warmup)], [warmup]
    if cfg.schedule in ("constant", "wsd"):
        pieces.append(optax.constant_schedule(peak))
    if cfg.schedule == "wsd":
        pieces.append(_decay(cfg.cooldown_form, peak, final, cfg.cooldown_steps))
        bounds.append(end - cfg.cooldown_steps)
    if cfg.schedule in ("cosine", "linear"):
        pieces.append(_decay(cfg.schedule, peak, final, end - warmup))
    return optax.join_schedules(pieces, bounds)


def _decay(form: str, peak: float, final: float, steps: int) -> optax.Schedule:
    """Returns the decay from peak to final in a number of steps: linear, cosine, or 1 - sqrt(x) (arXiv 2405.18392)."""
    if form == "linear":
        return optax.linear_schedule(peak, final, steps)
    if form == "cosine":
        return optax.cosine_decay_schedule(peak, steps, final / peak)
    return lambda count: peak - (peak - final) * jnp.sqrt(jnp.clip(count / steps, 0.0, 1.0))


def rates(cfg: RunConfig, steps: int) -> np.ndarray:
    """Returns the learning rates (steps,) fp32 of the first steps of a run."""
    return np.asarray(jax.vmap(schedule(cfg.optimizer, cfg.train.steps))(jnp.arange(steps)))


def directions(cfg: OptimizerConfig) -> optax.GradientTransformation:
    """The gradient transformation to update directions; decay, rate and clip are applied in `update`."""
    adam = optax.scale_by_adam(cfg.b1, cfg.b2, cfg.eps)
    if cfg.name == "adamw":
        return adam
    return optax.partition({"muon": muon.muon(cfg), "adam": adam}, muon.labels)


def place_state(cfg: OptimizerConfig, state: Tree, places: Tree, rest: Any) -> Tree:
    """Returns the sharding of each leaf of a group's moments: that of its parameter (`places`), or `rest`."""
    is_absent = lambda x: isinstance(x, optax.MaskedNode)  # a parameter of the other one of the two transforms
    return optax.tree.map_params(
        directions(cfg),
        lambda moment, place: moment if is_absent(moment) else place,
        state,
        places,
        transform_non_params=lambda _: rest,
        is_leaf=is_absent,
    )


def ever_trained(cfg: RunConfig, family: Family) -> tuple[str, ...]:
    """Returns the groups that at least one step of the run trains: those of its first (see `Training`)."""
    return family.training(cfg, 0).groups


def init(cfg: RunConfig, family: Family, params: Tree) -> Tree:
    """Returns {group: moments} for the groups that are ever trained."""
    new = {group: directions(cfg.optimizer).init(params[group]) for group in ever_trained(cfg, family)}
    return {group: stored(cfg.optimizer, moments) for group, moments in new.items()}


def stored(cfg: OptimizerConfig, moments: Tree) -> Tree:
    """Returns moments in their storage dtype; counts stay integers."""
    return _in_dtype(moments, jnp.dtype(cfg.moment_dtype))


def _in_dtype(moments: Tree, dtype: jnp.dtype) -> Tree:
    return jax.tree.map(lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, moments)


def update(
    cfg: RunConfig, family: Family, grads: Tree, opt_state: Tree, params: Tree, step: Any
) -> tuple[Tree, Tree, dict[str, jax.Array]]:
    """Applies one update to the groups of `grads`; other groups keep their parameters and moments.

    Args:
      grads: {group: gradients} of the groups this step trains.
      opt_state: {group: moments} of all groups that are ever trained.
      params: {group: parameters}, all groups.
      step: int32 scalar, the updates done before this one.

    Returns:
      params and opt_state after the update, and the scalars learning_rate, grad_norm (before the clip) and grad_norm/GROUP.
    """
    opt = cfg.optimizer
    rate = schedule(opt, cfg.train.steps)(step)
    ratios = family.training(cfg, 0).rates
    norms = {group: optax.tree.norm(grads[group]) for group in grads}
    norm = jnp.sqrt(sum(n**2 for n in norms.values()))
    clip = jnp.where(norm > opt.clip_norm, opt.clip_norm / norm, 1.0) if opt.clip_norm > 0 else 1.0
    params, opt_state = dict(params), dict(opt_state)
    for group in grads:
        clipped = jax.tree.map(lambda g: g * clip, grads[group])
        direction, moments = directions(opt).update(clipped, _in_dtype(opt_state[group], jnp.dtype(jnp.float32)))
        opt_state[group] = stored(opt, moments)
        step_size = rate * ratios[group]
        # p <- p - rate (direction + decay p)
        params[group] = jax.tree.map(
            lambda p, d, size=step_size: p - size * (d + opt.weight_decay * p), params[group], direction
        )
    stats = {"learning_rate": rate, "grad_norm": norm, **{f"grad_norm/{group}": n for group, n in norms.items()}}
    return params, opt_state, stats
