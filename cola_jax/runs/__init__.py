"""A run from outside: from its config to training, and what it starts from."""

from cola_jax.runs.training import RunSummary as RunSummary
from cola_jax.runs.training import run_training as run_training
