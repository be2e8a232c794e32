"""Runs from a config: start, training, generation, comparison."""

from cola_jax.runs.training import RunSummary as RunSummary
from cola_jax.runs.training import run_training as run_training
