"""Flags of jax, set by environment variables or code, that change documented and tested results."""

from __future__ import annotations

import jax

from cola_jax.errors import UserError

# They change initial weights, dtypes or random numbers.
NEEDED = {
    "jax_enable_x64": False,
    "jax_default_prng_impl": "threefry2x32",
    "jax_threefry_partitionable": True,
    "jax_numpy_dtype_promotion": "standard",
}


class AmbientError(UserError):
    """A flag of jax that must be unset; the message names it."""


def check() -> None:
    """Raises AmbientError if a flag in NEEDED has another value."""
    found = {name: getattr(jax.config, name, value) for name, value in NEEDED.items()}
    wrong = [
        f"{name.upper()}={found[name]} (needed: {value})" for name, value in NEEDED.items() if found[name] != value
    ]
    if wrong:
        raise AmbientError(
            f"jax runs with {', '.join(wrong)}: weights, dtypes or random numbers would differ; unset it"
        )
