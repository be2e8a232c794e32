"""Text log-likelihood of an answer given a prompt (SPEC 4): settings, result, and estimators over draws.

Axes: K draws, B rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

ESTIMATORS = ("elbo", "iwae")
DIVERGENCES = ("hutchinson", "exact")


class PriorOde(NamedTuple):
    """How the ODE of the log-density of Cola's prior is solved: number of steps, solver, one of DIVERGENCES."""

    steps: int
    solver: str
    divergence: str


@dataclass(frozen=True)
class MonteCarlo:
    """Monte Carlo settings of a likelihood; a family reads the fields that its `LikelihoodEstimator.options` names.

    Attributes:
      draws: Monte Carlo draws per row (K); 0: the default of the family.
      steps, solver: of the prior's ODE, family cola.
      divergence: one of DIVERGENCES, family cola.
      estimator: one of ESTIMATORS, family cola.
    """

    draws: int
    steps: int
    solver: str
    divergence: str
    estimator: str

    @property
    def ode(self) -> PriorOde:
        return PriorOde(self.steps, self.solver, self.divergence)


class Likelihood(NamedTuple):
    """An estimate of log p(answer | prompt) in nats.

    Attributes:
      log_p: (B,).
      kind: "exact"; "bound", a lower bound in expectation; "difference", of two such bounds, which is none.
      terms: {name: (B,)} that add up to log_p, if there are several.
    """

    log_p: np.ndarray
    kind: str
    terms: dict[str, np.ndarray]


def elbo(log_w_KB: jax.Array) -> jax.Array:
    """ELBO_K: the mean of log w over draws, (B,)."""
    return jnp.mean(log_w_KB, axis=0)


def iwae(log_w_KB: jax.Array) -> jax.Array:
    """IWAE_K: log of the mean of w over draws, (B,); with one draw the ELBO."""
    return jax.nn.logsumexp(log_w_KB, axis=0) - jnp.log(log_w_KB.shape[0])
