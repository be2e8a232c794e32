"""Kept executables: read again, given to a run, and refused where they are not its own."""

import dataclasses
import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache
from tiny import batch_of, config

from cola_jax import config as settings
from cola_jax import runs
from cola_jax.aot import compile, executable
from cola_jax.config import ConfigError
from cola_jax.families import FAMILIES
from cola_jax.parallel.hosts import batch_putter
from cola_jax.parallel.mesh import make_mesh
from cola_jax.train import run as of_a_run
from cola_jax.train.state import abstract_state, init_state

pytestmark = pytest.mark.slow

SMALL = {"mesh__data": 1}


@pytest.fixture(autouse=True)
def compiled_anew():
    """An executable out of the compilation cache cannot be written again."""
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()
    yield
    jax.config.update("jax_enable_compilation_cache", True)
    compilation_cache.reset_cache()


def kept(path, cfg, program="train"):
    """Compiles a program of `cfg` for one CPU device and keeps it."""
    report, compiled = compile.compile_program(cfg, "cpu:1", program, 1, 1)
    executable.save(path, cfg, report, compiled)
    return report, compiled


def losses(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def test_the_report_of_a_kept_executable_is_that_of_its_compilation(tmp_path):
    report, _ = kept(tmp_path / "step", config(family="ar", backbone__dim=24, **SMALL))
    assert executable.load_report(tmp_path / "step") == report
    step = executable.load(tmp_path / "step", jax.devices()[:1])
    cfg = config(family="ar", backbone__dim=24, **SMALL)
    mesh = make_mesh(cfg.mesh, jax.devices()[:1])
    state = init_state(cfg, FAMILIES["ar"], abstract_state(cfg, FAMILIES["ar"], mesh))
    state, metrics = step(state, batch_putter(mesh, 4)(batch_of(cfg)))
    assert int(state.step) == 1 and np.isfinite(metrics["loss"])


def test_an_executable_is_kept_in_a_bucket(bucket):
    report, _ = kept(bucket / "step", config(family="ar", backbone__dim=24, **SMALL))
    assert executable.load_report(bucket / "step") == report
    assert callable(executable.load(bucket / "step", jax.devices()[:1]))


def test_a_run_from_a_kept_executable_compiles_no_step_and_has_the_same_losses(tmp_path, text_config, monkeypatch):
    tree = settings.override(settings.load(f"{text_config}:vae"), [("vae.ffn_dim", "20"), ("train.eval_every", "0")])
    cfg = settings.resolve(tree)
    kept(tmp_path / "step", cfg)
    runs.run_training(cfg, tmp_path / "own")
    monkeypatch.setattr(of_a_run, "train_step", None)
    runs.run_training(cfg, tmp_path / "kept", executable=tmp_path / "step")
    assert len(losses(tmp_path / "own")) == 3
    np.testing.assert_array_equal(losses(tmp_path / "kept"), losses(tmp_path / "own"))


@pytest.mark.slow
def test_a_run_on_two_devices_starts_from_what_was_compiled_for_two(tmp_path, text_config, trained):
    common = ["--config", f"{text_config}:vae", "--config.mesh.data=-1"]
    saved = ["--topology", "cpu:2", "--program", "train", "--save", str(tmp_path / "step")]
    trains = ["--workdir", str(tmp_path / "run"), "--executable", str(tmp_path / "step")]
    for command, more in (("compile", saved), ("train", trains)):
        program = [sys.executable, "-m", "cola_jax.cli", command, *common, *more]
        environment = os.environ | {"JAX_NUM_CPU_DEVICES": "2", "JAX_PLATFORMS": "cpu"}
        environment |= {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
        done = subprocess.run(program, capture_output=True, text=True, timeout=500, env=environment)
        assert done.returncode == 0, done.stderr[-3000:]
    assert "starting on mesh {'replica': 1, 'data': 2," in done.stderr
    np.testing.assert_allclose(losses(tmp_path / "run"), losses(trained["vae"]), rtol=2e-5)


def test_an_executable_of_another_run_is_refused_with_what_differs(tmp_path):
    cfg = config(family="ar", backbone__dim=40, **SMALL)
    kept(tmp_path / "step", cfg)
    mesh = make_mesh(cfg.mesh, jax.devices()[:1])
    given = lambda **changes: config(family="ar", backbone__dim=40, **SMALL | changes)
    same = given(train__log_every=7, train__steps=9, checkpoint__every=3, mesh__data=-1)
    assert list(executable.updates_for(tmp_path / "step", same, mesh)) == [("backbone",)]
    with pytest.raises(ConfigError, match=r"for another run, on cpu:1; .*seed: 66 -> 7.*Compile it again"):
        executable.updates_for(tmp_path / "step", given(seed=7), mesh)
    with pytest.raises(ConfigError, match=r"compute.remat: 'none' -> 'full'; optimizer.learning_rate"):
        executable.updates_for(tmp_path / "step", given(compute__remat="full", optimizer__learning_rate=1.0), mesh)
    report, compiled = kept(tmp_path / "step", given(seed=3))
    executable.save(tmp_path / "four", cfg, dataclasses.replace(report, mesh=report.mesh | {"data": 4}), compiled)
    with pytest.raises(ConfigError, match="mesh: .*'data': 4.* -> .*'data': 1"):
        executable.updates_for(tmp_path / "four", cfg, mesh)


def test_a_generate_step_is_no_training_step(tmp_path):
    cfg = config(family="ar", backbone__dim=48, **SMALL)
    kept(tmp_path / "step", cfg, "generate")
    with pytest.raises(ConfigError, match="holds a generate step, not a training step"):
        executable.updates_for(tmp_path / "step", cfg, make_mesh(cfg.mesh, jax.devices()[:1]))


@pytest.mark.slow
def test_an_executable_for_other_devices_or_versions_is_refused(tmp_path, monkeypatch):
    cfg = config(family="ar", backbone__dim=56, **SMALL)
    report, compiled = kept(tmp_path / "step", cfg)
    executable.save(tmp_path / "eight", cfg, dataclasses.replace(report, devices=8), compiled)
    with pytest.raises(ConfigError, match="for 8 x cpu.*here are .* 1 x cpu"):
        executable.load(tmp_path / "eight", jax.devices()[:1])
    monkeypatch.setattr(jax, "__version__", "0.0.1")
    with pytest.raises(ConfigError, match=r"compiled by jax [0-9.]+ .*here are jax 0\.0\.1 "):
        executable.load(tmp_path / "step", jax.devices()[:1])


def test_a_file_that_is_no_executable_is_refused(tmp_path):
    (tmp_path / "other").write_text("text")
    with pytest.raises(ConfigError, match="not an executable"):
        executable.load_report(tmp_path / "other")
    with pytest.raises(ConfigError, match="not an executable"):
        executable.load_report(tmp_path / "none")
