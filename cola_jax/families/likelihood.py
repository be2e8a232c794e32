"""What families say of the likelihood of an answer given a prompt (SPEC 4), and estimators over draws.

Axes: K draws, B rows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

ESTIMATORS = ("elbo", "iwae")
DIVERGENCES = ("hutchinson", "exact")


@dataclass(frozen=True)
class Effort:
    """How hard a likelihood is tried for; a family reads what concerns it.

    Attributes:
      draws: Monte Carlo draws a row (K); 0: as many as the family takes by itself.
      steps, solver: of the prior's ODE, family cola.
      divergence: one of DIVERGENCES, family cola.
      estimator: one of ESTIMATORS, family cola.
    """

    draws: int
    steps: int
    solver: str
    divergence: str
    estimator: str


class Likelihood(NamedTuple):
    """What was found of log p(answer | prompt) in nats.

    Attributes:
      log_p: (B,).
      kind: "exact"; "bound", a lower bound in expectation; "difference", of two such bounds, which is none.
      terms: {name: (B,)} of which log_p is made, where there are several.
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


def perplexity(log_q: float, log_prior: float, log_decoder: float) -> float:
    """exp(log q - log p_psi - log p_theta), each in nats a token: the perplexity of Table 4."""
    return math.exp(log_q - log_prior - log_decoder)
