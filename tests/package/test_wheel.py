"""What is installed: the wheel's packages, the public surface, and the commands in an empty folder."""

import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import cola_jax

ROOT = Path(__file__).resolve().parents[2]
OWN = """
from cola_jax import config
from experiments import tinyworld

def get_config(arg=None):
    tree = tinyworld.get_config("vae")
    tree.train.steps = 7
    return tree
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder that holds what the wheel holds."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(ROOT)]
    done = subprocess.run(build, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        wheel.extractall(folder / "site")
    return folder / "site"


def test_every_package_of_the_tree_is_named():
    named = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    found = {
        ".".join(path.relative_to(ROOT).parts) for path in (ROOT / "cola_jax").rglob("*") if any(path.glob("*.py"))
    }
    assert named == found | {"cola_jax", "cola_jax.experiments"}


def test_the_public_surface_is_loaded_on_first_use_and_has_nothing_of_a_rooms_name():
    rooms = {path.name for path in (ROOT / "cola_jax").iterdir() if path.is_dir()}
    assert rooms.isdisjoint(cola_jax.__all__) and set(cola_jax.__all__) <= set(dir(cola_jax))
    for name in cola_jax.__all__:
        found = getattr(cola_jax, name)
        assert callable(found) and found.__name__ == name and found.__doc__
    with pytest.raises(AttributeError, match="no attribute 'train_all'"):
        _ = cola_jax.train_all
    code = "import sys, cola_jax; assert 'jax' not in sys.modules and 'numpy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=60)


@pytest.mark.slow
def test_the_wheel_has_the_experiments_inside_and_works_in_an_empty_folder(installed, tmp_path):
    tops = {path.name for path in installed.iterdir()}
    assert {name for name in tops if not name.endswith(".dist-info")} == {"cola_jax"}
    environment = {**os.environ, "PYTHONPATH": str(installed), "PYTHONSAFEPATH": "1"}

    def run(*arguments):
        command = [sys.executable, "-m", "cola_jax.cli", *arguments]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)

    where = subprocess.run(
        [sys.executable, "-c", "import cola_jax; print(cola_jax.__file__)"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert where.stdout.startswith(str(installed)), "the wheel is what runs"
    done = run("compare", "tinyworld:vae", "tinyworld_matched:ar")
    assert done.returncode == 0 and "not matched:" in done.stdout, done.stderr
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "mine.py").write_text(OWN)
    done = run("compare", "mine", "tinyworld:vae")
    assert done.returncode == 0 and "train.steps" in done.stdout, done.stderr
