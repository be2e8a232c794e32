"""The training state, and its sharding on the mesh."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from cola_jax.config import RunConfig
from cola_jax.families.family import Family
from cola_jax.families.keys import key_for
from cola_jax.parallel import rules
from cola_jax.parallel.mesh import replicated
from cola_jax.train import optimizer
from cola_jax.train.integrity import tree_problems

Tree = Any


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """Everything that training updates, and the frozen arrays that it reads.

    Attributes:
      step: int32 scalar, the number of steps done, those whose update was skipped included.
      params: {group: parameters}, fp32.
      opt_state: {group: moments}; only groups that some step trains.
      frozen: parameters that are read and never trained, under the paths of the rules table; may be empty.
      ema: {group: average of the parameters}, fp32, of the groups that some step trains; empty if train.ema_decay is 0.
    """

    step: Any
    params: Tree
    opt_state: Tree
    frozen: Tree
    ema: Tree = field(default_factory=dict)


def _builder(cfg: RunConfig, family: Family) -> Callable[[Tree], TrainState]:
    """Returns a function from given parameter groups to the initial state; other groups are initialised randomly."""

    def build(given: Tree) -> TrainState:
        # Copies, because two leaves of a state that is donated later must not share a buffer.
        copied = lambda tree: jax.tree.map(lambda x: jnp.array(x, copy=True), tree)
        params = {**family.objective.init(cfg, key_for(cfg.seed, "init", 0)), **copied(given)}
        opt_state = optimizer.init(cfg, family, params)
        frozen, ema = copied(reference(cfg, family, params)), copied(first_average(cfg, family, params))
        return TrainState(jnp.zeros((), jnp.int32), params, opt_state, frozen, ema)

    return build


def first_average(cfg: RunConfig, family: Family, params: Tree) -> Tree:
    """Returns the initial values of `TrainState.ema`."""
    groups = optimizer.ever_trained(cfg, family) if cfg.train.ema_decay > 0 else ()
    return {group: params[group] for group in groups}


def reference(cfg: RunConfig, family: Family, params: Tree) -> Tree:
    """Returns the parameters of `TrainState.frozen`, which are those at the start of the run."""
    return {group: params[group] for group in family.training(cfg, 0).frozen}


def abstract_state(cfg: RunConfig, family: Family, mesh: Mesh) -> TrainState:
    """Returns the shapes, dtypes and shardings of a run's state as ShapeDtypeStructs; nothing is computed.

    Raises:
      MeshError: if a parameter does not fit the sharding rules.
    """
    shapes = jax.eval_shape(_builder(cfg, family), {})
    params = rules.shardings(shapes.params, mesh)
    moments = lambda group: optimizer.place_state(
        cfg.optimizer, shapes.opt_state[group], params[group], replicated(mesh)
    )
    opt_state = {group: moments(group) for group in shapes.opt_state}
    frozen, ema = (rules.shardings(tree, mesh) for tree in (shapes.frozen, shapes.ema))
    placed = TrainState(replicated(mesh), params, opt_state, frozen, ema)
    return jax.tree.map(lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), shapes, placed)


def shardings_of(abstract: TrainState) -> TrainState:
    """Returns the shardings of an abstract state."""
    return jax.tree.map(lambda x: x.sharding, abstract)


def init_state(cfg: RunConfig, family: Family, abstract: TrainState, given: Tree | None = None) -> TrainState:
    """Returns the state before the first step, every array created on its own devices.

    Args:
      given: {group: parameters} to start from instead of drawing them; other groups are initialised randomly.

    Raises:
      ValueError: if a given group has a missing, an unknown or a misshapen leaf, all of them named.
    """
    given = given or {}
    expected = {group: abstract.params.get(group, {}) for group in given}
    problems = tree_problems(given, expected)
    if problems:
        raise ValueError("initial parameters do not fit the config: " + "; ".join(problems))
    placed = jax.tree.map(lambda x, like: jax.device_put(x, like.sharding), given, expected)
    return jax.jit(_builder(cfg, family), out_shardings=shardings_of(abstract))(placed)


def complete(cfg: RunConfig, family: Family, abstract: TrainState, step: int, trees: dict[str, Tree]) -> TrainState:
    """Returns the state of a run after `step` updates from the trees of a checkpoint, with the shardings of `abstract`.

    They are not copied. Missing trees are initialised: moments to zero, frozen parts and average to the parameters.
    """
    absent = [name for name in ("opt_state", "frozen", "ema") if name not in trees]
    missing = [name for name in absent if jax.tree.leaves(getattr(abstract, name))]
    empty = {name: getattr(abstract, name) for name in absent if name not in missing}

    def build(params: Tree) -> dict[str, Tree]:
        copied = lambda tree: jax.tree.map(lambda x: jnp.array(x, copy=True), tree)
        made = {
            "opt_state": lambda: optimizer.init(cfg, family, params),
            "frozen": lambda: copied(reference(cfg, family, params)),
            "ema": lambda: copied(first_average(cfg, family, params)),
        }
        return {name: made[name]() for name in missing}

    places = shardings_of(abstract)
    make = jax.jit(build, out_shardings={name: getattr(places, name) for name in missing})
    new = make(trees["params"]) if missing else {}  # a restart usually lacks none, and has nothing to compile here
    return TrainState(step=jax.device_put(np.int32(step), places.step), **trees, **new, **empty)
