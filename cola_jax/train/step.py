"""One training step and one evaluation, compiled for a mesh.

Axes: B rows of the global batch, A microbatches of B/A rows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from cola_jax.config import RunConfig
from cola_jax.families.family import Batch, Family, Tree
from cola_jax.families.keys import key_for
from cola_jax.parallel.mesh import batch_sharding, check_batch, check_model, microbatch_sharding, replicated
from cola_jax.train import optimizer
from cola_jax.train.state import TrainState, shardings_of

Metrics = dict[str, Any]


def train_step(
    cfg: RunConfig, family: Family, trained: tuple[str, ...], mesh: Mesh, abstract: TrainState
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """Returns the compiled update of the groups `trained`: (state, batch) -> (state, metrics); the old state is donated.

    If the loss or the gradient norm is not finite, the state is returned unchanged but for its step, which counts every batch,
    and metrics["nonfinite"] is 1.

    Args:
      trained: groups that are differentiated and updated; the others are constants.
      abstract: shapes and shardings of the state, from `abstract_state`.

    Raises:
      MeshError: if the mesh does not divide the rows of a microbatch or the model.
      ValueError: if `trained` is empty or names a group the optimizer has no state for.
    """
    check_batch(cfg.train, mesh)
    check_model(cfg, mesh)
    unknown = sorted(set(trained) - set(abstract.opt_state))
    if unknown or not trained:
        raise ValueError(
            f"family {family.name} trains {trained} in a step; the optimizer has {list(abstract.opt_state)}"
        )
    shardings = shardings_of(abstract)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        check_spec(cfg, family, batch)
        key = key_for(cfg.seed, "train", state.step)
        fixed = {group: p for group, p in state.params.items() if group not in trained}

        def loss(params: Tree, *piece: Tree) -> tuple[jax.Array, Tree]:
            with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):  # for the sharding of activations
                return family.objective.loss(cfg, {**fixed, **params}, state.frozen, *piece, state.step)

        grad = jax.value_and_grad(loss, has_aux=True)
        free = {group: state.params[group] for group in trained}
        noise, counts = family.objective.draw(cfg, batch, key, state.step)
        pieces = _microbatches((batch, noise), cfg.train.accumulate, mesh)
        (value, sums), grads = _total(lambda piece: grad(free, *piece, counts), pieces)
        grads = jax.lax.with_sharding_constraint(grads, {group: shardings.params[group] for group in trained})
        params, opt_state, stats = optimizer.update(cfg, family, grads, state.opt_state, state.params, state.step)
        finite = jnp.isfinite(value) & jnp.isfinite(stats["grad_norm"])
        averaged = {group: params[group] for group in state.ema}
        ema = optax.incremental_update(averaged, state.ema, 1.0 - cfg.train.ema_decay)
        new = TrainState(state.step + 1, params, opt_state, state.frozen, ema)
        kept = jax.tree.map(lambda after, before: jnp.where(finite, after, before), new, state)
        kept = dataclasses.replace(kept, step=new.step)
        flags = {"loss": value, "nonfinite": jnp.int32(~finite)}
        return kept, {**family.objective.summarize(cfg, sums), **stats, **flags}

    return jax.jit(
        step,
        in_shardings=(shardings, batch_sharding(mesh)),
        out_shardings=(shardings, replicated(mesh)),
        donate_argnums=0,
    )


def check_spec(cfg: RunConfig, family: Family, batch: Batch) -> None:
    """Raises AssertionError, at trace time, unless a batch has the names, shapes and dtypes of `Objective.batch_spec`."""
    chex.assert_trees_all_equal_shapes_and_dtypes(batch, family.objective.batch_spec(cfg))


def eval_step(
    cfg: RunConfig, family: Family, mesh: Mesh, abstract: TrainState
) -> Callable[[TrainState, Batch, Any], tuple[jax.Array, jax.Array, Tree]]:
    """Returns the compiled (state, batch, index) -> (loss, weight, sums). The noise depends on the batch's index only.

    weight is the sum of the batch's token weights.
    """
    check_batch(cfg.train, mesh)
    check_model(cfg, mesh)

    def step(state: TrainState, batch: Batch, index: jax.Array) -> tuple[jax.Array, jax.Array, Tree]:
        check_spec(cfg, family, batch)
        noise, counts = family.objective.draw(cfg, batch, key_for(cfg.seed, "eval", index), state.step)
        pieces = _microbatches((batch, noise), cfg.train.accumulate, mesh)
        loss = lambda piece: family.objective.loss(cfg, state.params, state.frozen, *piece, counts, state.step)
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            value, sums = _total(loss, pieces)
        return value, jnp.sum(batch["weights"]), sums

    return jax.jit(
        step,
        in_shardings=(shardings_of(abstract), batch_sharding(mesh), replicated(mesh)),
        out_shardings=replicated(mesh),
    )


def evaluate(
    cfg: RunConfig, family: Family, step: Callable, state: TrainState, batches: Iterable[Batch]
) -> dict[str, float]:
    """Returns the metrics of `batches` (global arrays): sums added up, then summarized; "loss" is their mean by weight.

    Args:
      step: the result of `eval_step`.

    Raises:
      ValueError: if there is no batch.
    """
    results = [step(state, batch, jnp.int32(index)) for index, batch in enumerate(batches)]
    if not results:
        raise ValueError("held-out evaluation needs at least one batch, got none: train.eval_every=0 turns it off")
    weighted = [(loss * weight, weight, sums) for loss, weight, sums in jax.device_get(results)]
    loss, weight, sums = jax.tree.map(lambda *values: sum(values), *weighted)
    metrics = {**family.objective.summarize(cfg, sums), "loss": loss / max(weight, 1e-9)}
    return {name: float(value) for name, value in metrics.items()}


def _microbatches(tree: Tree, count: int, mesh: Mesh) -> Tree:
    """Splits (B, ...) into (A, B/A, ...): row i goes to microbatch i mod A.

    Neighbouring rows are on one device, so every device keeps its rows, B/A/devices of each microbatch.
    """
    sharding = microbatch_sharding(mesh)

    def cut(x: jax.Array) -> jax.Array:
        strided = jnp.moveaxis(x.reshape(x.shape[0] // count, count, *x.shape[1:]), 1, 0)
        return jax.lax.with_sharding_constraint(strided, sharding)

    return jax.tree.map(cut, tree)


def _total(function: Callable[[Tree], Tree], pieces: Tree) -> Tree:
    """Returns the sum of `function` over the leading axis of `pieces`, one microbatch in memory at a time."""
    count = jax.tree.leaves(pieces)[0].shape[0]
    first = jax.tree.map(lambda x: x[0], pieces)
    if count == 1:
        return function(first)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(function, first))
    add = lambda total, piece: (jax.tree.map(jnp.add, total, function(piece)), None)
    return jax.lax.scan(add, zeros, pieces)[0]
