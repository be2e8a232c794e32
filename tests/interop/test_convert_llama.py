"""Folders of the LLaMA form into workdirs of ar and llada and out again."""

import filecmp
import json
import shutil

import numpy as np
import pytest
import tiny
from release_folder import write_llama, write_tokenizer

from cola_jax import cli
from cola_jax.interop import llama
from cola_jax.runs.writer import Writer
from cola_jax.train.checkpoint import load_params


def convert(capsys, *arguments):
    """Exit status, stdout and stderr of one command."""
    capsys.readouterr()
    status = cli.main(["convert", *map(str, arguments)])
    return status, *capsys.readouterr()


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_llama(tmp_path_factory.mktemp("llama") / "golden")


@pytest.mark.parametrize("family", ["ar", "llada"])
def test_an_export_of_an_import_has_the_original_bytes_and_the_run_between_writes(capsys, source, tmp_path, family):
    workdir = tmp_path / "run"
    status, out, err = convert(capsys, "import", source, workdir, f"--config.family={family}")
    assert (status, err) == (0, "") and f"family {family}, " in out
    tree, params = load_params(workdir)
    assert tree["family"] == family and tree["tokenizer"]["pad_token"] == "</s>", "the form often has no pad"
    net = llama.read_config(source)
    tiny.close(params, llama.read(source, net), atol=0, rtol=0)
    writer = Writer.load(workdir).with_sampling(max_new_tokens=4)
    assert isinstance(writer.write(["It was"])[0], str)
    status, out, _ = convert(capsys, "export", workdir, tmp_path / "out")
    assert status == 0 and ("causal mask" in out) == (family == "llada")
    for name in ("model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        assert filecmp.cmp(source / name, tmp_path / "out" / name, shallow=False), name
    assert llama.read_config(tmp_path / "out") == net
    assert json.loads((tmp_path / "out" / "config.json").read_text())["eos_token_id"] == writer.tokenizer.eos_id
    assert convert(capsys, "export", workdir, tmp_path / "half", "--dtype", "bfloat16")[0] == 0
    assert json.loads((tmp_path / "half" / "config.json").read_text())["dtype"] == "bfloat16"


def test_what_the_config_says_of_another_model_gives_way_and_is_told(capsys, source, text_config, tmp_path):
    arguments = ("--config", f"{text_config}:joint", "--config.backbone.dim=48", "--config.train.steps=7")
    status, out, err = convert(capsys, "import", source, tmp_path / "run", *arguments)
    assert (status, err) == (0, "")
    told = out.splitlines()[0]
    dim = llama.read_config(source).dim
    assert "family: 'cola' -> 'ar'" in told and f"backbone.dim: 48 -> {dim}" in told and "vae." not in told
    tree, _ = load_params(tmp_path / "run")
    assert (tree["train"]["steps"], tree["sampling"]["max_new_tokens"]) == (7, 10)
    assert tree["data"]["sources"][0]["kind"] == "text"


def test_an_imported_run_trains(capsys, source, text_config, tmp_path):
    arguments = ("--config", f"{text_config}:joint", "--config.train.steps=1", "--config.data.packing=concat")
    assert convert(capsys, "import", source, tmp_path / "run", *arguments)[0] == 0
    assert cli.main(["train", "--workdir", str(tmp_path / "run")]) == 0
    before, after = (load_params(tmp_path / "run", step)[1]["backbone"]["embedding"] for step in (0, 1))
    assert 0 < np.abs(np.asarray(before) - np.asarray(after)).max() < 0.1


def test_what_cannot_be_converted_is_one_line_and_leaves_nothing_behind(capsys, source, tmp_path):
    bare = tmp_path / "bare"
    shutil.copytree(source, bare)
    (bare / "tokenizer.json").unlink()
    status, _, err = convert(capsys, "import", bare, tmp_path / "run")
    assert status == 2 and "has no tokenizer.json" in err and len(err.splitlines()) == 1
    write_tokenizer(bare / "tokenizer.json", more=[f"more{i}" for i in range(101)])
    status, _, err = convert(capsys, "import", bare, tmp_path / "run")
    assert status == 2 and "backbone.vocab_size=101 is smaller than the tokenizer's" in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bare"]
    assert convert(capsys, "export", tmp_path, tmp_path / "out")[0] == 2
