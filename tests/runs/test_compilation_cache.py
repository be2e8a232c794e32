"""compute.compilation_cache: a restart compiles nothing."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from cola_jax import cli, storage
from cola_jax.config import ConfigError
from cola_jax.runs.compilation import cached_programs
from cola_jax.train.metrics import read_metrics

ROOT = Path(__file__).resolve().parents[2]
NAMES = (
    "jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs",
    "jax_persistent_cache_min_entry_size_bytes", "jax_persistent_cache_enable_xla_caches", "jax_compilation_cache_max_size",
)  # fmt: skip


def start(text_config, workdir, cache, *more):
    """Trains in another process; returns the programs that it compiled and those of the cache."""
    command = [
        sys.executable, "-m", "cola_jax.cli", "train", "--config", f"{text_config}:vae", "--workdir", str(workdir),
        f"--config.compute.compilation_cache={cache}", "--config.train.eval_every=0", "--config.checkpoint.every=2", *more,
    ]  # fmt: skip
    done = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    line = read_metrics(workdir)[-1]
    found = tuple(int(line[f"goodput/{name}_programs"]) for name in ("compiled", "cached"))
    assert f"programs: {found[0]} compiled, {found[1]} from the compilation cache" in done.stderr
    assert line["goodput/import"] > 0
    return found


def one_step_less(workdir):
    """Takes the last checkpoint away, as if the run had been killed before it."""
    storage.remove_tree(workdir / "checkpoints" / "3")


@pytest.mark.slow
def test_a_restart_in_another_process_compiles_nothing(text_config, tmp_path):
    compiled, cached = start(text_config, tmp_path / "a", tmp_path / "cache")
    assert compiled > 3 and cached == 0
    one_step_less(tmp_path / "a")
    assert start(text_config, tmp_path / "a", tmp_path / "cache")[0] == 0


@pytest.mark.slow
def test_a_restart_compiles_nothing_with_the_cache_on_a_bucket(text_config, tmp_path, bucket):
    compiled, cached = start(text_config, tmp_path / "a", bucket)
    assert compiled > 3 and cached == 0
    assert start(text_config, tmp_path / "b", bucket) == (0, compiled)
    assert not (Path.cwd() / "gs:").exists() and not (Path.cwd() / "s3:").exists()


def test_jax_is_left_as_it_was(tmp_path):
    before = {name: getattr(jax.config, name) for name in NAMES}
    with pytest.raises(KeyError), cached_programs(str(tmp_path / "cache")):
        assert jax.config.jax_compilation_cache_dir == str(tmp_path / "cache")
        jax.jit(lambda x: x * 5 - 3)(jax.numpy.arange(11.0))
        assert list((tmp_path / "cache").iterdir())
        raise KeyError
    assert {name: getattr(jax.config, name) for name in NAMES} == before
    count = len(list((tmp_path / "cache").iterdir()))
    jax.jit(lambda x: x * 6 - 3)(jax.numpy.arange(11.0))
    assert len(list((tmp_path / "cache").iterdir())) == count, "later programs go where they went before"


def test_an_empty_field_changes_nothing(tmp_path):
    before = {name: getattr(jax.config, name) for name in NAMES}
    with cached_programs(""):
        assert {name: getattr(jax.config, name) for name in NAMES} == before


def test_programs_are_kept_in_a_bucket_and_xlas_own_files_are_not(bucket):
    with cached_programs(str(bucket)):
        assert not jax.config.jax_persistent_cache_enable_xla_caches
        jax.jit(lambda x: x * 7 - 3)(jax.numpy.arange(13.0))
    assert storage.names_in(bucket)


@pytest.mark.parametrize("given, says", [
    ("ftp://x/y", "ftp:// is not supported"), ("gs://", "names no bucket"), ("{file}", "is a file; give a folder"),
    ("{file}/below", "is a file; give a folder"),
])  # fmt: skip
def test_a_cache_that_cannot_be_used_is_one_error_before_anything(text_config, tmp_path, capsys, given, says):
    (tmp_path / "file").write_text("")
    cache = given.format(file=tmp_path / "file")
    command = ["train", "--config", f"{text_config}:vae", "--workdir", str(tmp_path / "w")]
    assert cli.main([*command, f"--config.compute.compilation_cache={cache}"]) == 2
    error = capsys.readouterr().err
    assert says in error and "compute.compilation_cache" in error and error.count("\n") == 1
    assert not (tmp_path / "w").exists()


def test_a_bucket_that_does_not_exist_is_refused(stores):
    for scheme in stores:
        refused = pytest.raises(storage.StorageError, match="there is no bucket|cannot be reached")
        with refused, cached_programs(f"{scheme}://no-such-bucket-here/cache"):
            raise AssertionError("it is found before any work")


def test_a_folder_that_cannot_be_written_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *arguments: False)
    with pytest.raises(ConfigError, match="cannot be written"), cached_programs(str(tmp_path / "cache")):
        pass
