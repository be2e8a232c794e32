"""Released folders that cannot be read: every one is refused with the file and the field or tensor."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from release_folder import write_weights
from safetensors.numpy import load_file, save_file
from tiny import close

from cola_jax.interop import released
from cola_jax.interop.released import ReleasedFormatError
from cola_jax.interop.released_config import check_pair

BASE = Path(__file__).parents[1] / "data" / "goldens" / "base"
CONFIGS = {"cola_vae": released.read_vae_config, "cola_dit": released.read_dit_config}
ABSENT = object()
TENSORS = {"cola_vae": released.read_vae, "cola_dit": released.read_dit}


@pytest.fixture(params=["cola_vae", "cola_dit"])
def folder(request, tmp_path):
    return Path(shutil.copytree(BASE / request.param, tmp_path / request.param))


def read(folder):
    return TENSORS[folder.name](folder, CONFIGS[folder.name](folder))


def rewrite(folder, **fields):
    """Changes fields of config.json; ABSENT takes one away."""
    raw = json.loads((folder / "config.json").read_text()) | fields
    kept = {name: value for name, value in raw.items() if value is not ABSENT}
    (folder / "config.json").write_text(json.dumps(kept))


def shard(folder):
    """Cuts the weights of a folder into three files and an index."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    write_weights(folder, tensors, 3)


def refused(folder, *parts):
    with pytest.raises(ReleasedFormatError) as error:
        read(folder)
    message = str(error.value)
    assert str(folder) in message
    assert "\n" not in message
    for part in parts:
        assert part in message


def test_a_whole_folder_is_read(folder):
    groups = read(folder)
    assert set(groups) == ({"encoder", "decoder"} if folder.name == "cola_vae" else {"dit"})


def test_a_missing_config_is_named(folder):
    (folder / "config.json").unlink()
    refused(folder, "config.json does not exist")


def test_a_config_that_is_not_json_is_named(folder):
    (folder / "config.json").write_text("{")
    refused(folder, "config.json is not JSON")


def test_a_missing_folder_is_named(folder):
    shutil.rmtree(folder)
    refused(folder, "config.json does not exist")


def test_a_missing_weights_file_is_named(folder):
    (folder / "model.safetensors").unlink()
    refused(folder, "model.safetensors does not exist, and neither does model.safetensors.index.json")


def test_missing_extra_and_misshapen_tensors_are_all_named(folder):
    tensors = load_file(folder / "model.safetensors")
    missing, misshapen, retyped, *_ = [
        name for name in sorted(tensors) if "blocks.1" in name and name.endswith("weight")
    ]
    shape = list(tensors[missing].shape)
    del tensors[missing]
    tensors[misshapen] = np.zeros((2, 3), np.float32)
    tensors[retyped] = tensors[retyped][0]
    save_file(tensors | {"stray.weight": np.zeros(3, np.float32)}, folder / "model.safetensors")
    refused(folder, f"tensor {missing} {shape} is missing", "tensor stray.weight [3] is not expected",
            f"tensor {misshapen} is [2, 3], expected", f"tensor {retyped} is [")  # fmt: skip


@pytest.mark.parametrize(
    ("kept", "part"), [(-100, "is truncated"), (200, "is truncated"), (5, "is truncated"), (0, "is truncated")]
)
def test_a_truncated_file_is_named(folder, kept, part):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    refused(folder, str(path), part)


def test_a_file_with_a_broken_header_is_named(folder):
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[8] = ord("[")
    path.write_bytes(bytes(data))
    refused(folder, f"{path} is no safetensors file: its header cannot be read")


def test_tensors_that_overlap_are_refused(folder):
    path = folder / "model.safetensors"
    path.write_bytes(re.sub(rb'"data_offsets":\[(\d+),(\d+)\]', rb'"data_offsets":[0,0]  ', path.read_bytes()[:3000])
                     + path.read_bytes()[3000:])  # fmt: skip
    refused(folder, f"{path} is")


def test_shards_are_read_as_one_file_would_be(folder):
    whole = read(folder)
    shard(folder)
    close(read(folder), whole, atol=0, rtol=0)


def test_an_index_that_names_a_missing_shard_is_refused(folder):
    shard(folder)
    (folder / "model-00002-of-00003.safetensors").unlink()
    refused(folder, "model.safetensors.index.json names shards that do not exist: model-00002-of-00003.safetensors")


def test_an_index_and_shards_that_disagree_are_refused(folder):
    shard(folder)
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    name = sorted(index["weight_map"])[0]
    del index["weight_map"][name]
    path.write_text(json.dumps(index))
    refused(folder, f"model.safetensors.index.json and its shards disagree on {name}")
    path.write_text("{}")
    refused(folder, "has no weight_map")


def test_an_unknown_config_field_is_named(folder):
    rewrite(folder, brand_new=3)
    refused(folder, "unknown fields brand_new=3")


@pytest.mark.parametrize(("kind", "field"), [("cola_vae", "latent_dim"), ("cola_dit", "emb_dim")])
def test_a_missing_config_field_is_named(tmp_path, kind, field):
    folder = Path(shutil.copytree(BASE / kind, tmp_path / kind))
    rewrite(folder, **{field: ABSENT})
    refused(folder, f"field {field} is missing")


VAE_REFUSED = {
    "causal": True, "block_causal": False, "dropout": 0.1, "attn_dropout": 0.1, "layer_norm_type": "rms", "use_emb": False,
    "clip_qkv": 0.0, "scaling_factor": 0.0, "act": "relu", "shared_heads_kv": 3, "num_heads": 5, "ffn_dim": 97,
    "patch_size": 0, "vocab_size": "97", "post_norm": 1, "scaling_factor ": [1.0, 2.0],
}  # fmt: skip
DIT_REFUSED = {
    "patch_size": 2, "txt_in_channels": 9, "txt_dim": 128, "rope_dim": 7, "expand_ratio": 2.5, "heads": True,
    "block_size": None,
}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [("cola_vae", *item) for item in VAE_REFUSED.items()] + [("cola_dit", *item) for item in DIT_REFUSED.items()],
)
def test_a_config_value_that_is_not_built_here_is_named_with_its_value(tmp_path, kind, field, value):
    folder = Path(shutil.copytree(BASE / kind, tmp_path / kind))
    rewrite(folder, **{field.strip(): value})
    refused(folder, f"{field.strip()}={value!r}")


def test_all_problems_of_a_config_are_named_at_once(folder):
    fields = {"cola_vae": ("dim", "act"), "cola_dit": ("heads", "norm_eps")}[folder.name]
    rewrite(folder, brand_new=1, **dict.fromkeys(fields, ABSENT))
    refused(folder, *(f"field {field} is missing" for field in fields), "unknown fields brand_new=1")


def test_a_strictly_causal_mask_is_read_where_it_is_that_of_blocks_of_one(tmp_path):
    folder = Path(shutil.copytree(BASE / "cola_vae", tmp_path / "cola_vae"))
    rewrite(folder, causal=True, block_size=1)
    assert released.read_vae_config(folder).block_size == 1


def test_a_dit_of_other_latents_than_the_vaes_is_refused(tmp_path):
    folder = Path(shutil.copytree(BASE / "cola_dit", tmp_path / "cola_dit"))
    rewrite(folder, txt_in_channels=9, txt_out_channels=9)
    with pytest.raises(ReleasedFormatError, match="txt_in_channels=9, but the VAE has latent_dim=8"):
        check_pair(folder, released.read_vae_config(BASE / "cola_vae"))


def test_rotation_frequencies_of_another_theta_are_refused(tmp_path):
    folder = Path(shutil.copytree(BASE / "cola_dit", tmp_path / "cola_dit"))
    tensors = load_file(folder / "model.safetensors")
    name = next(name for name in tensors if name.endswith("rope.freqs"))
    save_file(tensors | {name: tensors[name] * 1.5}, folder / "model.safetensors")
    refused(folder, name, "theta")
