"""Config files: what they may import, and one line for each that cannot be used."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cola_jax import config
from cola_jax.config import ConfigError
from cola_jax.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
HEAD = "from cola_jax import config\n"


def file(folder, text, name="mine.py"):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def refused(spec, *parts):
    with pytest.raises(UserError) as error:
        config.load(str(spec))
    assert "\n" not in str(error.value)
    for part in parts:
        assert part in str(error.value)


@pytest.mark.parametrize("text,parts", [
    ("def get_config(arg=None)\n    return 1\n", ["line 1", "not Python"]),
    (HEAD + "def get_config(arg=None):\n    c = config.base(); c.trian.steps = 5\n    return c\n", ["line 3", "trian"]),
    (HEAD + "def get_config():\n    return config.base()\n", ["it must be get_config(arg=None)"]),
    (HEAD + "def get_config(arg=None):\n    c = config.base()\n", ["returned NoneType, expected the ConfigDict"]),
    (HEAD + "c = config.base()\n", ["defines no get_config(arg=None)"]),
    ("import nothing_of_this_name\n", ["line 1", "ModuleNotFoundError", "nothing_of_this_name"]),
    ("raise RuntimeError('two\\nlines')\n", ["line 1", "RuntimeError: two"]),
], ids=["syntax", "attribute", "no argument", "none", "no function", "import", "raises"])  # fmt: skip
def test_a_file_that_cannot_be_used_is_one_line_with_its_place(tmp_path, text, parts):
    refused(file(tmp_path, text), str(tmp_path / "mine.py"), *parts)


def test_a_field_that_does_not_exist_is_named(tmp_path):
    path = file(tmp_path, HEAD + "def get_config(arg=None):\n    c = config.base(); c.train.stepz = 5\n    return c\n")
    with pytest.raises(ConfigError, match=r"unknown field train\.stepz"):
        config.resolve(config.load(str(path)))


def test_a_file_of_another_kind_is_named(tmp_path):
    refused(file(tmp_path, "{}", "config.json"), "does not end in .py", "give its workdir")
    refused(file(tmp_path, "x", "noext"), "does not end in .py")
    refused("gs://bucket/config.py", "gs://bucket/config.py", "is read from a local disk")


def test_dataclasses_are_a_config_too(tmp_path):
    path = file(tmp_path, HEAD + "def get_config(arg=None):\n    return config.RunConfig(seed=3)\n")
    assert config.load(str(path)).seed == 3


def test_a_file_imports_its_neighbour_and_another_files_neighbour_of_that_name_is_its_own(tmp_path):
    text = (
        HEAD
        + "from neighbour import STEPS\ndef get_config(arg=None):\n    c = config.base(); c.train.steps = STEPS\n    return c\n"
    )
    before = list(sys.path)
    for steps in (3, 4):
        folder = tmp_path / str(steps)
        file(folder, f"STEPS = {steps}\n", "neighbour.py")
        assert config.load(str(file(folder, text))).train.steps == steps
    assert "neighbour" not in sys.modules and sys.path == before


def test_a_users_experiments_folder_and_the_projects_own_are_both_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file(tmp_path, "SEED = 5\n", "experiments/shared_of_mine.py")
    file(tmp_path, "", "experiments/__init__.py")
    text = "from experiments import tinyworld\nfrom experiments.shared_of_mine import SEED\n"
    text += "def get_config(arg=None):\n    c = tinyworld.get_config('vae'); c.seed = SEED\n    return c\n"
    file(tmp_path, text, "experiments/mine.py")
    for spec in ("mine", "experiments/mine.py", str(tmp_path / "experiments" / "mine.py")):
        assert config.load(spec).seed == 5
    assert config.load("cola_2b:vae,p").family == "text_vae", "the project's own import their own neighbours"


def test_a_file_here_does_not_shadow_a_name_of_the_project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file(tmp_path, "not a config", "pydocs")
    assert config.load("pydocs:vae").family == "text_vae"


def test_the_command_line_works_beside_an_experiments_folder_of_the_user(tmp_path):
    file(tmp_path, "", "experiments/__init__.py")
    file(tmp_path, HEAD + "def get_config(arg=None):\n    return config.base()\n", "experiments/mine.py")
    command = [sys.executable, "-m", "cola_jax.cli", "compare", "mine", "cola_2b:joint,p"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("assignment,message", [
    (("train", "5"), "--config.train is a group of fields"), (("vae.block", "None"), "--config.vae.block is a group"),
    (("data.sources", "5"), "data.sources must be a list"), (("data.sources.0.path", "7"), "must be a list"),
    (("vae.dim", "{[]: 1}"), "vae.dim must be int"), (("vae.dim", "1e400"), "vae.dim must be int"),
    (("optimizer.learning_rate", "1e400"), "must be finite"), (("optimizer.learning_rate", "nan"), "must be float"),
    (("seed", "1" * 30), "seed="), (("vae.dim", "(" * 300), "vae.dim must be int"),
])  # fmt: skip
def test_an_assignment_of_the_wrong_kind_is_one_line(assignment, message):
    with pytest.raises(ConfigError) as error:
        config.resolve(config.override(config.base(), [assignment]))
    assert message in str(error.value) and "\n" not in str(error.value)


def test_text_that_looks_like_a_number_stays_text_where_a_field_is_text():
    tree = config.override(config.base(), [("train.init_from", "20240101"), ("train.init_step", "500")])
    assert (tree.train.init_from, tree.train.init_step) == ("20240101", "500")


@pytest.mark.parametrize("spec,paths,vae", [
    ("own_text:vae,a.txt", ("a.txt",), ""), ("own_text:vae,a.txt,b.txt", ("a.txt", "b.txt"), ""),
    ("own_text:joint,a.txt,w", ("a.txt",), "w"), ("own_text:joint,a.txt,b.txt,w", ("a.txt", "b.txt"), "w"),
    ("own_text:joint,a.txt", ("a.txt",), ""), ("own_text:joint,a.txt,b.txt,", ("a.txt", "b.txt"), ""),
])  # fmt: skip
def test_every_part_of_an_experiments_argument_is_used(spec, paths, vae):
    cfg = config.resolve(config.load(spec))
    assert cfg.data.sources[0].path == paths and cfg.train.init_from == vae


def test_a_comma_in_a_name_is_no_separator(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a,b").mkdir()
    (tmp_path / "c.txt").write_text("x")
    assert config.load("own_text:vae,a,b").data.sources[0].path == ("a,b",)
    refused("own_text:joint,a,b,c.txt", "the last part is the stage 1 workdir, but c.txt is a file")


@pytest.mark.parametrize("spec", [
    "cola_8b:vae,p,W", "cola_8b:joint,p,w,MACHINE", "cola_70b:joint,p,w,v5p:8x8x16", "cola_2b:joint,p,w,h100x8,more",
    "cola_2b:joint,p,w,nowhere", "cola_2b:vae,p,nowhere", "tinyworld:vae,w", "pydocs:vae,w", "pydocs:joint,w,x",
    "tinyworld_matched:ar,w",
])  # fmt: skip
def test_a_part_that_an_experiment_does_not_use_is_refused(spec):
    refused(spec)
