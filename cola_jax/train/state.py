"""What a run carries from step to step, and where it lies on the mesh."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from cola_jax.config import RunConfig
from cola_jax.families.family import Family
from cola_jax.parallel import rules
from cola_jax.parallel.mesh import replicated
from cola_jax.train import optimizer
from cola_jax.train.integrity import tree_problems

Tree = Any


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """Everything that training changes, and the frozen arrays it reads.

    Attributes:
      step: int32 scalar, the number of updates done.
      params: {group: parameters}, fp32.
      opt_state: {group: moments}; only groups that some step trains.
      frozen: parameters that are read and never trained, under the paths of the rules table; may be empty.
    """

    step: Any
    params: Tree
    opt_state: Tree
    frozen: Tree


def key_for(seed: int, use: str, index: Any) -> jax.Array:
    """Returns the key of one use at one index: fold_in(fold_in(PRNGKey(seed), use), index)."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.PRNGKey(seed), zlib.crc32(use.encode())), index)


def _builder(cfg: RunConfig, family: Family) -> Callable[[Tree], TrainState]:
    """Returns a function from parameter groups that are given to the first state; other groups are drawn."""

    def build(given: Tree) -> TrainState:
        # Copies, lest two leaves of a state that is donated later share one buffer.
        copied = lambda tree: jax.tree.map(lambda x: jnp.array(x, copy=True), tree)
        params = {**family.init(cfg, key_for(cfg.seed, "init", 0)), **copied(given)}
        opt_state = optimizer.init(cfg, family, params)
        return TrainState(jnp.zeros((), jnp.int32), params, opt_state, copied(family.frozen(cfg, params)))

    return build


def abstract_state(cfg: RunConfig, family: Family, mesh: Mesh) -> TrainState:
    """Returns the shapes, dtypes and shardings of a run's state as ShapeDtypeStructs; nothing is computed.

    Raises:
      MeshError: where a parameter does not fit the sharding rules.
    """
    shapes = jax.eval_shape(_builder(cfg, family), {})
    params = rules.shardings(shapes.params, mesh)
    moments = lambda group: optimizer.place_state(
        cfg.optimizer, shapes.opt_state[group], params[group], replicated(mesh)
    )
    opt_state = {group: moments(group) for group in shapes.opt_state}
    placed = TrainState(replicated(mesh), params, opt_state, rules.shardings(shapes.frozen, mesh))
    return jax.tree.map(lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), shapes, placed)


def shardings_of(abstract: TrainState) -> TrainState:
    """Returns the shardings of an abstract state."""
    return jax.tree.map(lambda x: x.sharding, abstract)


def init_state(cfg: RunConfig, family: Family, abstract: TrainState, given: Tree | None = None) -> TrainState:
    """Returns the state before the first step, every array born on its own devices.

    Args:
      given: {group: parameters} to start from instead of drawing them; groups that are not given are drawn.

    Raises:
      ValueError: where a given group has a missing, an unknown or a misshapen leaf, all of them named.
    """
    given = given or {}
    expected = {group: abstract.params.get(group, {}) for group in given}
    problems = tree_problems(given, expected)
    if problems:
        raise ValueError("initial parameters do not fit the config: " + "; ".join(problems))
    placed = jax.tree.map(lambda x, like: jax.device_put(x, like.sharding), given, expected)
    return jax.jit(_builder(cfg, family), out_shardings=shardings_of(abstract))(placed)


def begin(cfg: RunConfig, family: Family, abstract: TrainState, params: Tree) -> TrainState:
    """Returns the state before the first step of a run whose parameters, all groups, lie where `abstract` has them.

    They are taken over, not copied: what is new is the optimizer's state and what stays frozen.
    """

    def build(params: Tree) -> tuple[Tree, Tree]:
        frozen = jax.tree.map(lambda x: jnp.array(x, copy=True), family.frozen(cfg, params))
        return optimizer.init(cfg, family, params), frozen

    places = shardings_of(abstract)
    opt_state, frozen = jax.jit(build, out_shardings=(places.opt_state, places.frozen))(params)
    return TrainState(jax.device_put(np.int32(0), places.step), params, opt_state, frozen)
