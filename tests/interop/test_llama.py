"""The Hugging Face LLaMA form: stored logits, the way there and back, and every field and tensor that does not fit."""

import dataclasses
import filecmp
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tiny import close, config, parameters

from cola_jax.families import FAMILIES
from cola_jax.interop import goldens, llama
from cola_jax.interop.llama import LlamaFormatError

GOLDEN = Path(__file__).parents[1] / "data" / "goldens" / "llama"


@pytest.fixture
def folder(tmp_path):
    """A copy of the golden that may be broken."""
    copy = tmp_path / "golden"
    shutil.copytree(GOLDEN, copy)
    return copy


def changed(folder, remove=(), **fields):
    """Rewrites config.json with other fields. Returns the folder."""
    path = folder / "config.json"
    given = {**json.loads(path.read_text()), **fields}
    path.write_text(json.dumps({name: value for name, value in given.items() if name not in remove}))
    return folder


def refused(call, *arguments):
    with pytest.raises(LlamaFormatError) as error:
        call(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_both_attention_patterns_give_the_stored_logits():
    [golden] = goldens.check(GOLDEN, "float32").goldens
    assert [case.name for case in golden.cases] == ["logits_causal", "logits_bidirectional"]
    assert golden.passed and all(case.bound == 1e-4 for case in golden.cases), golden


def test_a_golden_case_can_fail(folder):
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"] = tensors["model.norm.weight"] * 1.01
    save_file(tensors, folder / "model.safetensors")
    [golden] = goldens.check(folder, "float32").goldens
    assert not golden.error and not any(case.passed for case in golden.cases)


def test_the_export_of_an_import_has_the_original_bytes(tmp_path):
    cfg = llama.read_config(GOLDEN)
    llama.write(tmp_path / "out", cfg, llama.read(GOLDEN, cfg))
    assert filecmp.cmp(GOLDEN / "model.safetensors", tmp_path / "out" / "model.safetensors", shallow=False)
    assert llama.read_config(tmp_path / "out") == cfg
    assert llama.is_llama(tmp_path / "out") and llama.is_llama(GOLDEN)
    ours, theirs = (json.loads((path / "config.json").read_text()) for path in (tmp_path / "out", GOLDEN))
    about_text = {"bos_token_id", "eos_token_id", "max_position_embeddings", "transformers_version", "pretraining_tp"}
    assert {name: ours[name] for name in set(theirs) - about_text} == {
        name: theirs[name] for name in set(theirs) - about_text
    }


@pytest.mark.parametrize("family", ["ar", "llada"])
@pytest.mark.parametrize("tied", [False, True])
def test_grouped_heads_and_tied_embeddings_survive_in_shards_and_in_bfloat16(tmp_path, family, tied):
    cfg = config(family=family, backbone__tie_embeddings=tied)
    params = parameters(cfg)
    llama.write(tmp_path / "one", cfg.backbone, params, shard_bytes=2000)
    assert len(list((tmp_path / "one").glob("model-*.safetensors"))) > 3
    assert llama.read_config(tmp_path / "one") == cfg.backbone
    read = llama.read(tmp_path / "one", cfg.backbone)
    close(read, jax.tree.map(np.asarray, params), atol=0, rtol=0)
    drawn = jax.eval_shape(lambda: FAMILIES[family].objective.init(cfg, jax.random.PRNGKey(0)))
    assert jax.tree.map(np.shape, read) == jax.tree.map(lambda leaf: leaf.shape, drawn)
    llama.write(tmp_path / "half", cfg.backbone, params, dtype="bfloat16", eos_id=2)
    assert json.loads((tmp_path / "half" / "config.json").read_text())["dtype"] == "bfloat16"
    half = llama.read(tmp_path / "half", cfg.backbone)
    llama.write(tmp_path / "again", cfg.backbone, half, dtype="bfloat16", eos_id=2)
    for name in ("model.safetensors", "config.json"):
        assert filecmp.cmp(tmp_path / "half" / name, tmp_path / "again" / name, shallow=False)


REFUSED = [
    ({"attention_bias": True}, "attention_bias=True is not supported, only False"),
    ({"mlp_bias": True}, "mlp_bias=True is not supported"),
    ({"hidden_act": "gelu"}, "hidden_act='gelu' is not supported, only 'silu'"),
    ({"attention_dropout": 0.1}, "attention_dropout=0.1"),
    ({"model_type": "mistral"}, "model_type='mistral'"),
    ({"architectures": ["LlamaForSequenceClassification"]}, "architectures=['LlamaForSequenceClassification']"),
    ({"rope_scaling": {"rope_type": "linear", "factor": 2.0}}, "rope_scaling={'rope_type': 'linear'"),
    ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "rope_parameters.rope_type='yarn'"),
    ({"rope_parameters": {"rope_theta": 1e4, "factor": 8.0}}, "rope_parameters.factor=8.0 is not supported"),
    ({"rope_theta": 5e5}, "rope_theta=500000.0 and rope_parameters.rope_theta=10000.0 differ"),
    ({"head_dim": 32}, "head_dim=32 is not supported, only hidden_size / num_attention_heads=16"),
    ({"num_key_value_heads": 3}, "num_key_value_heads=3 does not divide num_attention_heads=4"),
    ({"sliding_window": 128, "qk_norm": True}, "qk_norm=True is not supported, only False; sliding_window=128 is not"),
    ({"brand_new": 3, "other": False}, "field brand_new=3 is unknown; field other=False is unknown"),
    ({"rope_interleaved": True}, "rope_interleaved=True is not supported, only False"),
    ({"partial_rotary_factor": 0.5}, "partial_rotary_factor=0.5 is not supported, only 1.0"),
    (
        {"quantization_config": {"quant_method": "gptq"}},
        "quantization_config={'quant_method': 'gptq'} is not supported",
    ),
    ({"rope_scaling": "linear"}, "rope_scaling='linear' is not supported"),
    (
        {"rope_scaling": {"type": "dynamic", "factor": 1.0}},
        "rope_scaling.type='dynamic' is not supported, only 'default'",
    ),
    (
        {"layer_types": ["full_attention", "sliding_attention"]},
        "layer_types=['full_attention', 'sliding_attention'] is not",
    ),
    ({"hidden_size": "64"}, "hidden_size='64' must be a positive integer"),
    ({"num_attention_heads": 0}, "num_attention_heads=0 must be a positive integer"),
    ({"vocab_size": True}, "vocab_size=True must be a positive integer"),
    ({"rms_norm_eps": "1e-5"}, "rms_norm_eps='1e-5' must be a positive number"),
    ({"rope_theta": 0}, "rope_theta=0 must be a positive number"),
    ({"tie_word_embeddings": 1}, "tie_word_embeddings=1 must be true or false"),
    ({"hidden_size": 60, "num_attention_heads": 4, "head_dim": 15}, "head_dim=15 must be even"),
]


@pytest.mark.parametrize(("fields", "message"), REFUSED, ids=[next(iter(fields)) for fields, _ in REFUSED])
def test_a_field_that_is_not_built_is_refused_by_name_and_value(folder, fields, message):
    assert message in refused(llama.read_config, changed(folder, **fields))


def test_missing_sizes_are_named_together_and_older_configs_are_read(folder):
    message = refused(llama.read_config, changed(folder, remove=("hidden_size", "vocab_size")))
    assert "field vocab_size is missing; field hidden_size is missing" in message
    older = changed(folder, ("rope_parameters", "head_dim", "num_key_value_heads"), hidden_size=64, vocab_size=101,
                    rope_theta=5e5, torch_dtype="float32", rope_scaling=None)  # fmt: skip
    assert llama.read_config(older) == dataclasses.replace(llama.read_config(GOLDEN), rope_theta=5e5)


def test_missing_unexpected_and_misshapen_tensors_are_all_listed(folder):
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"], tensors["lm_head.weight"]
    tensors["model.layers.0.self_attn.q_proj.bias"] = np.zeros(64, np.float32)
    tensors["model.norm.weight"] = np.zeros(32, np.float32)
    save_file(tensors, folder / "model.safetensors")
    message = refused(llama.read, folder, llama.read_config(folder))
    for part in (
        "tensor model.layers.1.mlp.up_proj.weight (176, 64) is missing", "tensor lm_head.weight (101, 64) is missing",
        "tensor model.layers.0.self_attn.q_proj.bias (64,) is not expected",
        "tensor model.norm.weight is (32,), expected (64,)",
    ):  # fmt: skip
        assert part in message


def test_folders_that_are_none_are_refused(folder, tmp_path):
    assert not llama.is_llama(tmp_path)
    assert "config.json does not exist" in refused(llama.read_config, tmp_path)
    cfg = llama.read_config(folder)
    params = llama.read(folder, cfg)
    assert "is not an empty folder" in refused(llama.write, folder, cfg, params)
    wrong = dataclasses.replace(cfg, ffn_dim=100)
    message = refused(llama.write, tmp_path / "new", wrong, params)
    assert "tensor model.layers.0.mlp.gate_proj.weight is (176, 64), expected (100, 64)" in message
    assert not (tmp_path / "new").exists()
    (folder / "model.safetensors").write_bytes(b"nothing")
    assert "is truncated or no safetensors file" in refused(llama.read, folder, cfg)
    (folder / "model.safetensors").unlink()
    assert "model.safetensors does not exist" in refused(llama.read, folder, cfg)
    (folder / "config.json").write_text("{")
    assert "is not JSON" in refused(llama.read_config, folder)
