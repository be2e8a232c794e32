"""Flags of jax that change weights, dtypes or random numbers are refused by name."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from cola_jax.config import MeshConfig
from cola_jax.parallel import ambient
from cola_jax.parallel.mesh import make_mesh
from cola_jax.train.checkpoint import load_params

ROOT = Path(__file__).resolve().parents[2]
OTHER = {
    "jax_enable_x64": True, "jax_default_prng_impl": "rbg", "jax_threefry_partitionable": False,
    "jax_numpy_dtype_promotion": "strict",
}  # fmt: skip


@pytest.mark.parametrize("name", ambient.NEEDED)
def test_a_flag_that_changes_what_is_computed_is_refused_by_name(name, tmp_path):
    before = getattr(jax.config, name)
    jax.config.update(name, OTHER[name])
    try:
        for use in (lambda: make_mesh(MeshConfig(), jax.devices()[:1]), lambda: load_params(tmp_path)):
            with pytest.raises(ambient.AmbientError, match=f"{name.upper()}={OTHER[name]}"):
                use()
    finally:
        jax.config.update(name, before)
    make_mesh(MeshConfig(), jax.devices()[:1])


def start(tmp_path, **environment):
    """Starts the demo's first stage under other environment variables; returns its exit status and last line."""
    command = [
        sys.executable,
        "-m",
        "cola_jax.cli",
        "train",
        "--config",
        "tinyworld:vae",
        "--workdir",
        str(tmp_path / "run"),
    ]
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | environment
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert not (tmp_path / "run").exists() and "Traceback" not in done.stderr
    return done.returncode, done.stderr.splitlines()[-1]


def test_an_environment_variable_is_one_line_of_the_command(tmp_path):
    status, line = start(tmp_path, JAX_ENABLE_X64="1", JAX_PLATFORMS="cpu")
    assert status == 2 and line.startswith("cola-jax train: jax runs with JAX_ENABLE_X64=True")


def test_a_backend_that_is_not_there_is_one_line(tmp_path):
    status, line = start(tmp_path, JAX_PLATFORMS="rocm")
    assert status == 1 and "rocm" in line
