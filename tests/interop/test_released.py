"""Released folders that cannot be read: every one is refused with the file and the field or tensor."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from cola_jax.interop import released
from cola_jax.interop.released import ReleasedFormatError

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


def test_a_missing_weights_file_is_named(folder):
    (folder / "model.safetensors").unlink()
    refused(folder, "model.safetensors does not exist")


def test_a_missing_tensor_is_named(folder):
    tensors = load_file(folder / "model.safetensors")
    name = next(name for name in sorted(tensors) if "blocks.1" in name and name.endswith("weight"))
    del tensors[name]
    save_file(tensors, folder / "model.safetensors")
    refused(folder, f"tensor {name} is missing")


def test_an_extra_tensor_is_named(folder):
    tensors = load_file(folder / "model.safetensors") | {"stray.weight": np.zeros(3, np.float32)}
    save_file(tensors, folder / "model.safetensors")
    refused(folder, "unknown tensors stray.weight")


def test_an_unknown_config_field_is_named(folder):
    rewrite(folder, brand_new=3)
    refused(folder, "unknown fields brand_new")


@pytest.mark.parametrize(("kind", "field"), [("cola_vae", "latent_dim"), ("cola_dit", "emb_dim")])
def test_a_missing_config_field_is_named(tmp_path, kind, field):
    folder = Path(shutil.copytree(BASE / kind, tmp_path / kind))
    rewrite(folder, **{field: ABSENT})
    refused(folder, f"field {field} is missing")


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        ("cola_vae", "causal", True),
        ("cola_vae", "block_causal", False),
        ("cola_vae", "dropout", 0.1),
        ("cola_vae", "attn_dropout", 0.1),
        ("cola_vae", "layer_norm_type", "rms"),
        ("cola_vae", "use_emb", False),
        ("cola_vae", "rope_full_precision", False),
        ("cola_dit", "patch_size", 2),
        ("cola_dit", "txt_in_channels", 9),
    ],
)
def test_a_config_value_that_is_not_built_here_is_named(tmp_path, kind, field, value):
    folder = Path(shutil.copytree(BASE / kind, tmp_path / kind))
    rewrite(folder, **{field: value})
    refused(folder, field)


def test_rotation_frequencies_of_another_theta_are_refused(tmp_path):
    folder = Path(shutil.copytree(BASE / "cola_dit", tmp_path / "cola_dit"))
    tensors = load_file(folder / "model.safetensors")
    name = next(name for name in tensors if name.endswith("rope.freqs"))
    save_file(tensors | {name: tensors[name] * 1.5}, folder / "model.safetensors")
    refused(folder, name, "theta")
