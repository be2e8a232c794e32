"""Released checkpoints into workdirs and out again: every byte comes back, and what lies between trains and writes."""

import dataclasses
import json
import os
import re
import subprocess
import sys

import jax
import numpy as np
import pytest
import tiny
from release_folder import GOLDENS, PARTS, copy_of, released_folder, tensors_of, write_tokenizer

from cola_jax import cli
from cola_jax.data import tokenizers
from cola_jax.interop import release, released
from cola_jax.runs.writer import Writer
from cola_jax.train.checkpoint import load_params, save_params
from cola_jax.train.integrity import leaves_by_path
from cola_jax.train.workdir import write_config

CONFIGS = (released.read_vae_config, released.read_dit_config)
FORMS = [("float32", 1), ("float32", 3), ("bfloat16", 1), ("bfloat16", 2)]
CONTINUE = (
    "train.steps=1",
    "train.eval_every=0",
    "optimizer.learning_rate=1e-5",
    "optimizer.initial_learning_rate=1e-5",
    "objective.reference_weight=0.1",
)


def command(capsys, *arguments):
    """Exit status, stdout and stderr of one command."""
    capsys.readouterr()
    status = cli.main([str(argument) for argument in arguments])
    return status, *capsys.readouterr()


def settings(*assignments):
    return [f"--config.{assignment}" for assignment in assignments]


def imported(capsys, source, workdir, *arguments):
    status, out, err = command(capsys, "convert", "import", source, workdir, *arguments)
    assert (status, err) == (0, ""), err
    return out


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return released_folder(tmp_path_factory.mktemp("released"))


@pytest.fixture(scope="module")
def workdir(source, text_config, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("imported") / "run"
    assert (
        cli.main(
            ["convert", "import", str(source), str(workdir), "--config", f"{text_config}:joint", *settings(*CONTINUE)]
        )
        == 0
    )
    return workdir


@pytest.mark.parametrize(
    ("dtype", "shards"), [FORMS[0], *(pytest.param(*form, marks=pytest.mark.slow) for form in FORMS[1:])]
)
def test_an_export_of_an_import_gives_every_byte_back(capsys, tmp_path, dtype, shards):
    source = released_folder(tmp_path / "released", "patch2", dtype, shards)
    imported(capsys, source, tmp_path / "run")
    assert command(capsys, "convert", "export", tmp_path / "run", tmp_path / "out")[0] == 0
    for part in PARTS:
        given, back = source / part, tmp_path / "out" / part
        assert tensors_of(back) == tensors_of(given)
        assert {path.name for path in back.iterdir()} == {path.name for path in given.iterdir()}
        assert all((back / path.name).read_bytes() == path.read_bytes() for path in given.glob("*.json"))
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == (source / "tokenizer.json").read_bytes()


ON_FOUR_DEVICES = """
import sys
from pathlib import Path
import jax, numpy as np
from cola_jax.interop import convert
from cola_jax.config import RunConfig
from cola_jax.interop import released
folder = Path(sys.argv[1]) / "cola_dit"
dit = released.read_dit_config(folder)
mesh = convert.roomiest_mesh(RunConfig(dit=dit), ("cola_dit",))
assert mesh.size == mesh.shape["fsdp"] == 4, mesh
split, whole = (released.read_dit(folder, dit, on)["dit"] for on in (mesh, None))
kernel = split["blocks"]["mlp_in"]["kernel"]
assert [shard.data.shape for shard in kernel.addressable_shards] == [(3, 16, 256)] * 4
assert len(whole["blocks"]["mlp_in"]["kernel"].sharding.device_set) == 1
assert all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(split), jax.tree.leaves(whole), strict=True))
"""


def test_weights_go_straight_into_their_shards(source):
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    program = [sys.executable, "-c", ON_FOUR_DEVICES, str(source)]
    done = subprocess.run(program, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_an_export_in_another_dtype_rounds_the_weights_and_says_so(capsys, tmp_path, source, workdir):
    assert command(capsys, "convert", "export", workdir, tmp_path / "out", "--dtype", "bfloat16")[0] == 0
    for part in PARTS:
        kinds = {name: kind for name, (kind, _) in tensors_of(tmp_path / "out" / part).items()}
        assert {kind for name, kind in kinds.items() if not name.endswith("freqs")} == {"bfloat16"}
        assert json.loads((tmp_path / "out" / part / "config.json").read_text())["dtype"] == "bfloat16"
    vae = released.read_vae_config(tmp_path / "out" / "cola_vae")
    rounded, exact = (released.read_vae(path / "cola_vae", vae) for path in (tmp_path / "out", source))
    for a, b in zip(jax.tree.leaves(rounded), jax.tree.leaves(exact), strict=True):
        np.testing.assert_allclose(a, b, rtol=2**-8)


VARIANTS = [
    {
        "vae__block__bias": False, "dit__qk_bias": True, "vae__use_variation": False, "vae__block__post_norm": False,
        "vae__block__qk_norm": False, "vae__block__activation": "gelu", "vae__patch_size": 2,
    },
    {
        "vae__block__norm_affine": False, "vae__block__qk_norm_affine": False, "vae__block__shared_heads_kv": 2,
        "vae__block__clip_qkv": 2.5, "vae__block__qk_bias": True, "vae__encoder_last_ln": False, "dit__qk_bias": True,
    },
]  # fmt: skip


def made(folder, cfg, params):
    """A workdir of parameters that were not imported."""
    save_params(folder, cfg, params, {})
    write_config(folder, cfg)
    tokenizers.save(tokenizers.BytesTokenizer(), folder / "tokenizer")
    return folder


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: next(iter(variant)))
def test_what_was_made_here_can_be_released_and_read_again(capsys, tmp_path, variant):
    cfg = tiny.config(dit__time_frequencies=128, **variant)
    params = tiny.parameters(cfg)
    status, out, _ = command(capsys, "convert", "export", made(tmp_path / "run", cfg, params), tmp_path / "out")
    assert status == 0 and "of kind bytes: no tokenizer.json" in out
    vae, dit = (read(tmp_path / "out" / part) for part, read in zip(PARTS, CONFIGS))
    assert vae == cfg.vae and dit == dataclasses.replace(cfg.dit, zero_init=True)
    again = released.read_vae(tmp_path / "out" / "cola_vae", vae) | released.read_dit(
        tmp_path / "out" / "cola_dit", dit
    )
    tiny.close(again, params, atol=0, rtol=0)


def test_large_models_are_released_in_shards(tmp_path):
    cfg = tiny.config(dit__time_frequencies=128)
    params = {"dit": tiny.parameters(cfg)["dit"]}
    release.write_part("cola_dit", tmp_path / "out", cfg, leaves_by_path(params), None, None, shard_bytes=9000)
    shards = sorted(path.name for path in (tmp_path / "out").glob("*.safetensors"))
    assert len(shards) > 2 and shards[0] == f"model-00001-of-{len(shards):05d}.safetensors"
    tiny.close(released.read_part("cola_dit", tmp_path / "out", cfg), params, atol=0, rtol=0)


def test_a_first_stage_is_released_alone_and_what_cannot_be_said_is_refused(capsys, tmp_path):
    cfg = tiny.config()
    params = tiny.parameters(cfg)
    stage_1 = dataclasses.replace(cfg, family="text_vae")
    first = made(tmp_path / "stage_1", stage_1, {group: params[group] for group in ("encoder", "decoder")})
    assert command(capsys, "convert", "export", first, tmp_path / "vae")[0] == 0
    assert [path.name for path in (tmp_path / "vae").iterdir()] == ["cola_vae"]
    second = made(tmp_path / "stage_2", cfg, params)
    status, _, err = command(capsys, "convert", "export", second, tmp_path / "both")
    assert status == 2 and "dit.time_frequencies=8, only 128" in err and not (tmp_path / "both").exists()


@pytest.mark.slow
def test_training_continues_an_import_with_a_fresh_optimizer_and_its_encoder_as_reference(
    capsys, tmp_path, source, workdir
):
    run = copy_of(workdir, tmp_path / "run")
    assert not (run / "checkpoints" / "0" / "opt_state").exists()
    before = load_params(run)[1]
    status, out, _ = command(capsys, "train", "--workdir", run)
    assert (status, out) == (0, f"{run}: 1 of 1 steps done\n")
    after = load_params(run, 1)[1]
    moved = [np.abs(np.asarray(a) - np.asarray(b)).max() for a, b in zip(*map(jax.tree.leaves, (before, after)))]
    assert 0 < max(moved) < 1e-4, "one small step from the imported parameters"
    assert (run / "checkpoints" / "1" / "opt_state").exists() and (run / "checkpoints" / "1" / "frozen").exists()
    assert command(capsys, "train", "--workdir", run)[1] == f"{run}: 1 of 1 steps done\n"
    status, _, err = command(capsys, "train", "--workdir", run, "--config.optimizer.learning_rate=1")
    assert status == 2 and "optimizer.learning_rate: 1e-05 -> 1" in err
    assert command(capsys, "convert", "export", run, tmp_path / "out")[0] == 0
    given, back = tensors_of(source / "cola_dit"), tensors_of(tmp_path / "out" / "cola_dit")
    assert given.keys() == back.keys() and given != back


@pytest.mark.slow
def test_an_import_writes_text(capsys, workdir):
    status, out, _ = command(capsys, "generate", "--workdir", workdir, "--prompt", "Anna has ")
    assert status == 0 and out.startswith("Anna has ")


def test_a_prompt_that_the_tokenizer_has_no_token_for_is_refused(capsys, workdir):
    status, _, err = command(capsys, "generate", "--workdir", workdir, "--prompt", "Anna \u6570 has\u00e9")
    assert status == 2 and "prompt 0 has '\u6570\u00e9', which the tokenizer has no token for" in err


def test_the_config_keeps_its_training_and_gives_way_to_the_released_model(capsys, tmp_path, source, text_config):
    arguments = (
        "--config",
        f"{text_config}:joint",
        *settings("vae.fixed_logsnr=2.0", "dit.zero_init=True", "dit.head_dim=64"),
    )
    out = imported(capsys, source, tmp_path / "run", *arguments)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    given = json.loads((source / "cola_dit" / "config.json").read_text())
    assert (config["dit"]["dim"], config["dit"]["head_dim"], config["dit"]["rope_dim"]) == (64, 16, given["rope_dim"])
    assert config["vae"]["fixed_logsnr"] == 2.0 and config["dit"]["zero_init"] is True
    assert config["train"]["batch_size"] == 8 and config["data"]["sources"][0]["kind"] == "text"
    assert config["train"]["init_from"] == str(source)
    said = next(line for line in out.splitlines() if line.startswith("the released checkpoint replaces"))
    for change in ("vae.dim: 16 -> 48", "dit.head_dim: 64 -> 16", "tokenizer.kind: 'bytes' -> 'file'"):
        assert change in said
    assert "fixed_logsnr" not in said
    status, _, err = command(capsys, "convert", "export", tmp_path / "run", tmp_path / "out")
    assert status == 2 and "vae.fixed_logsnr=2.0" in err and not (tmp_path / "out").exists()


def test_special_tokens_are_found_by_the_names_that_stand_beside_the_tokenizer(capsys, tmp_path):
    source = released_folder(tmp_path / "released", specials=("[PAD]", "[END]"))
    arguments = ("convert", "import", source, tmp_path / "run")
    status, _, err = command(capsys, *arguments)
    assert status == 2 and "tokenizer.pad_token='<pad>' is not in" in err and "'[PAD]', '[END]'" in err
    (source / "tokenizer_config.json").write_text(json.dumps({"pad_token": "[PAD]", "eos_token": {"content": "[END]"}}))
    assert command(capsys, *arguments)[0] == 0
    assert (Writer.load(tmp_path / "run").tokenizer.pad_id, Writer.load(tmp_path / "run").tokenizer.eos_id) == (0, 1)
    assert command(capsys, "convert", "export", tmp_path / "run", tmp_path / "out")[0] == 0
    assert (tmp_path / "out" / "tokenizer_config.json").is_file()


def test_a_tokenizer_larger_than_the_vocabulary_is_refused_with_both_sizes(capsys, tmp_path, source):
    large = copy_of(source, tmp_path / "released")
    write_tokenizer(large / "tokenizer.json", more=[f"word{i}" for i in range(80)])
    status, _, err = command(capsys, "convert", "import", large, tmp_path / "run")
    [size] = re.findall(r"vae.vocab_size=97 is smaller than the tokenizer's (\d+)", err)
    assert status == 2 and int(size) > 97 and "smaller tokenizer would be fine" in err
    assert not list(tmp_path.glob("run*"))


def test_a_checkpoint_without_a_tokenizer_needs_one_by_name(capsys, tmp_path, source):
    bare = copy_of(source, tmp_path / "released")
    (bare / "tokenizer.json").unlink()
    status, _, err = command(capsys, "convert", "import", bare, tmp_path / "run")
    assert status == 2 and "has no tokenizer.json" in err and "tokenizer.path" in err
    path = f"tokenizer.path={source / 'tokenizer.json'}"
    imported(capsys, bare, tmp_path / "run", *settings("tokenizer.kind=file", path))


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("import", "{none}", "{new}"), "does not exist"),
        (("import", "{source}", "{source}"), "is not an empty folder"),
        (("import", "{llama}", "{new}"), "has no tokenizer.json"),
        (("import", "{source}", "{new}", "--step", "3"), "takes no --step"),
        (("import", "{source}", "{new}", "--config.train.sequence_length=33"), "train.sequence_length=33"),
        (("import", "{source}", "{new}", "--config.train.nothing=1"), "no such field"),
        (("export", "{source}", "{new}"), "is not a workdir"),
        (("export", "{workdir}", "{source}"), "is not an empty folder"),
        (("export", "{workdir}", "{new}", "--config.seed=1"), "takes no --config"),
        (("export", "{workdir}", "{new}", "--step", "7"), "no checkpoint of step 7"),
    ],
)
def test_misuse_is_one_line_and_leaves_nothing_behind(capsys, tmp_path, source, workdir, arguments, part):
    places = {"none": tmp_path / "none", "new": tmp_path / "new", "source": source, "workdir": workdir}
    places["llama"] = GOLDENS / "llama"
    status, _, err = command(capsys, "convert", *(argument.format(**places) for argument in arguments))
    assert status in (1, 2) and len(err.splitlines()) == 1 and part in err
    assert not list(tmp_path.iterdir())


def test_train_without_a_config_needs_a_workdir_that_has_one(capsys, tmp_path):
    status, _, err = command(capsys, "train", "--workdir", tmp_path)
    assert status == 2 and "has no config.json" in err
