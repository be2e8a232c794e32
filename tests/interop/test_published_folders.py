"""Folders as other people publish them: what they hold beside the model is read over, and what cannot be used is named."""

import json
import re
import shutil

import ml_dtypes
import numpy as np
import pytest
from release_folder import GOLDENS, PARTS, released_folder, write_tokenizer
from safetensors.numpy import load_file, save_file
from tiny import close

from cola_jax import cli
from cola_jax.interop import llama, released
from cola_jax.interop.llama import LlamaFormatError
from cola_jax.interop.released import ReleasedFormatError
from cola_jax.interop.safetensors_file import read_header

NORM = "model.norm.weight"


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(GOLDENS / "llama", tmp_path / "llama")


def rewrite(folder, **fields):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def weights(folder, change):
    """Rewrites model.safetensors with what `change` makes of its tensors."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")
    return tensors


def read(folder):
    return llama.read(folder, llama.read_config(folder))


def refused(call, *arguments):
    with pytest.raises(ReleasedFormatError) as error:
        call(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


CHANGES_NOTHING = {
    "_attn_implementation_autoset": True, "unsloth_version": "2025.1", "is_llama_config": True, "rope_interleaved": False,
    "sliding_window": None, "quantization_config": None, "partial_rotary_factor": 1.0, "rope_scaling": {"rope_type": "default"},
    "pretraining_tp": 1, "id2label": {"0": "A"}, "task_specific_params": None, "transformers.js_config": {}, "unheard_of": None,
    "layer_types": ["full_attention"] * 3, "qk_norm": False, "torch_dtype": "float16", "temperature": 0.6, "unk_token_id": 0,
}  # fmt: skip


@pytest.mark.parametrize("field", CHANGES_NOTHING)
def test_a_field_that_changes_nothing_is_read_over(folder, field):
    plain = llama.read_config(folder)
    rewrite(folder, **{field: CHANGES_NOTHING[field]})
    assert llama.read_config(folder) == plain and llama.is_llama(folder)


@pytest.mark.parametrize(
    ("scaling", "theta"),
    [
        ({"type": "default", "rope_theta": 5e5}, 5e5),
        ({"type": "linear", "factor": 1.0}, 1e4),
        ({"rope_theta": 1e4}, 1e4),
    ],
)
def test_rope_that_is_scaled_by_nothing_is_plain_rope(folder, scaling, theta):
    rewrite(folder, rope_scaling=scaling, rope_parameters=None, rope_theta=None)
    assert llama.read_config(folder).rope_theta == theta


@pytest.mark.parametrize("kind", [np.float32, np.float16])
def test_stored_frequencies_of_rope_are_read_over_where_they_are_those(folder, kind):
    plain = read(folder)
    frequencies = (1e4 ** (-np.arange(0, 16, 2) / 16)).astype(kind)
    name = "model.layers.1.self_attn.rotary_emb.inv_freq"
    weights(folder, lambda tensors: tensors.update({name: frequencies, "model.rotary_emb.inv_freq": frequencies}))
    close(read(folder), plain, atol=0, rtol=0)
    weights(folder, lambda tensors: tensors.update({name: frequencies * kind(1.5)}))
    assert f"{name} is not that of RoPE with rope_theta=10000.0" in refused(read, folder)


def test_a_stored_head_is_read_over_where_it_is_the_tied_embedding(folder):
    rewrite(folder, tie_word_embeddings=True)
    weights(folder, lambda tensors: tensors.update({"lm_head.weight": tensors["model.embed_tokens.weight"]}))
    assert "logits" not in read(folder)["backbone"]
    weights(folder, lambda tensors: tensors.update({"lm_head.weight": tensors["lm_head.weight"] + 1}))
    assert "lm_head.weight differs from model.embed_tokens.weight" in refused(read, folder)


def test_doubles_are_read_as_fp32(folder):
    plain = read(folder)
    weights(folder, lambda tensors: tensors.update({name: x.astype(np.float64) for name, x in tensors.items()}))
    found = read(folder)
    close(found, plain, atol=0, rtol=0)
    assert found["backbone"]["embedding"].dtype == np.float32
    weights(folder, lambda tensors: tensors.update({NORM: np.full(64, 1e300)}))
    assert f"tensor {NORM} is not finite: it holds inf or nan in fp32" in refused(read, folder)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_named(folder, value):
    weights(folder, lambda tensors: tensors[NORM].__setitem__(3, value))
    assert f"tensor {NORM} is not finite" in refused(read, folder)


@pytest.mark.parametrize("kind", [ml_dtypes.float8_e4m3fn, np.int8])
def test_quantised_weights_are_named_once(folder, kind):
    quantised = [name for name in load_file(folder / "model.safetensors") if "mlp" in name]
    weights(folder, lambda tensors: tensors.update({name: tensors[name].astype(kind) for name in quantised}))
    message = refused(read, folder)
    assert re.search(rf"holds (F8_E4M3|I8) \({len(quantised)} tensors, {min(quantised)} the first\)", message)
    assert message.count("mlp") == 1


def test_files_with_a_bom_are_read(folder):
    plain = llama.read_config(folder)
    (folder / "config.json").write_bytes(b"\xef\xbb\xbf" + (folder / "config.json").read_bytes())
    assert llama.is_llama(folder) and llama.read_config(folder) == plain


# --- the released form ------------------------------------------------------------------------------------------------


def test_a_released_folder_with_bookkeeping_a_bom_and_doubles_is_imported(capsys, tmp_path):
    source = released_folder(tmp_path / "released")
    plain = released.read_vae(source / "cola_vae", released.read_vae_config(source / "cola_vae"))
    for part in PARTS:
        rewrite(source / part, _attn_implementation_autoset=True, unheard_of=None, use_cache=False)
        path = source / part / "config.json"
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
        weights(source / part, lambda tensors: tensors.update({n: x.astype(np.float64) for n, x in tensors.items()}))
    close(released.read_vae(source / "cola_vae", released.read_vae_config(source / "cola_vae")), plain, atol=0, rtol=0)
    (source / "tokenizer_config.json").write_bytes(b'\xef\xbb\xbf{"pad_token": "<pad>"}')
    assert cli.main(["convert", "import", str(source), str(tmp_path / "run")]) == 0
    assert cli.main(["convert", "export", str(tmp_path / "run"), str(tmp_path / "out")]) == 0
    for part in PARTS:
        assert (tmp_path / "out" / part / "config.json").read_bytes() == (source / part / "config.json").read_bytes()
        given, back = (load_file(path / part / "model.safetensors") for path in (source, tmp_path / "out"))
        assert all(back[name].dtype == np.float64 and np.array_equal(back[name], given[name]) for name in given)


def test_released_weights_that_are_not_finite_are_named_and_leave_nothing(capsys, tmp_path):
    source = released_folder(tmp_path / "released")
    tensors = weights(
        source / "cola_dit", lambda tensors: tensors["blocks.1.mlp.proj_in.weight"].__setitem__((0, 0), np.inf)
    )
    assert not np.isfinite(tensors["blocks.1.mlp.proj_in.weight"]).all()
    assert cli.main(["convert", "import", str(source), str(tmp_path / "run")]) == 2
    assert "tensor blocks.1.mlp.proj_in.weight is not finite" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["released"]


def test_a_damaged_record_of_an_import_is_named(capsys, tmp_path):
    source = released_folder(tmp_path / "released")
    assert cli.main(["convert", "import", str(source), str(tmp_path / "run")]) == 0
    for content in ("{", "[]", '{"files": [{}], "constants": {}}'):
        (tmp_path / "run" / "released" / "cola_vae" / "layout.json").write_text(content)
        assert cli.main(["convert", "export", str(tmp_path / "run"), str(tmp_path / "out")]) == 2
        assert "layout.json" in capsys.readouterr().err and not (tmp_path / "out").exists()


# --- what a folder is -------------------------------------------------------------------------------------------------


def imported(capsys, *arguments):
    capsys.readouterr()
    status = cli.main(["convert", "import", *map(str, arguments)])
    return status, capsys.readouterr().err


@pytest.mark.parametrize(
    ("fields", "part"),
    [
        ({"model_type": "mistral", "architectures": ["MistralForCausalLM"]}, "model_type mistral is not supported"),
        ({"model_type": "gpt2", "architectures": None}, "model_type gpt2 is not supported"),
        ({"model_type": None, "architectures": None}, "has no model_type"),
        ({"family": "ar", "backbone": {}, "model_type": None, "architectures": None}, "is a workdir"),
    ],
)
def test_a_model_of_another_type_is_named(capsys, folder, tmp_path, fields, part):
    rewrite(folder, **fields)
    status, err = imported(capsys, folder, tmp_path / "run")
    assert status == 2 and part in err and len(err.splitlines()) == 1 and not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "content", "part"),
    [
        ("config.json", b"{", "config.json is not JSON"), ("config.json", b"[]", "config.json holds no fields, but list"),
        ("config.json", b"\xff", "config.json is not UTF-8 text"),
        ("tokenizer_config.json", b"[]", "tokenizer_config.json is not JSON of an object, but of list"),
        ("model.safetensors", b"", "is truncated or no safetensors file"),
        ("model.safetensors", b"\xff" * 64, "is truncated or no safetensors file"),
    ],
)  # fmt: skip
def test_a_file_of_another_form_is_named(capsys, folder, tmp_path, name, content, part):
    write_tokenizer(folder / "tokenizer.json")
    (folder / "tokenizer_config.json").write_text('{"eos_token": "</s>"}')
    (folder / name).write_bytes(content)
    status, err = imported(capsys, folder, tmp_path / "run")
    assert status == 2 and part in err and len(err.splitlines()) == 1 and not list(tmp_path.glob("*run*"))


@pytest.mark.parametrize(
    ("header", "part"),
    [
        ({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 99]}}, "is not at its expected offset"),
        ({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}, "is not at its expected offset"),
        ({"a": {"dtype": "I64", "shape": [1], "data_offsets": [0, 99]}}, "is truncated: its tensors need"),
        ({n: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} for n in "ab"}, "is not at its expected offset"),
        ({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, "-1 is no size"),
        ({"a": {"dtype": "F32", "shape": [1.0], "data_offsets": [0, 4]}}, "1.0 is no size"),
        ({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0]}}, "its header cannot be read"),
        ({"a": []}, "its header cannot be read"), ([], "its header cannot be read"),
        ({"__metadata__": 3}, "its __metadata__ is not one of texts"),
    ],
)  # fmt: skip
def test_a_header_that_does_not_fit_its_file_is_refused(tmp_path, header, part):
    text = json.dumps(header).encode()
    (tmp_path / "m.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(4))
    assert part in refused(read_header, tmp_path / "m.safetensors")


@pytest.mark.parametrize(
    ("index", "part"),
    [
        ([], "is not JSON of an object"), ({"weight_map": []}, "has no weight_map"),
        ({"weight_map": {"a": 3}}, "has no weight_map"),
        ({"weight_map": {"a": "../llama/x.safetensors"}}, "names files outside its folder: ../llama/x.safetensors"),
        ({"weight_map": {"a": "none.safetensors"}}, "names shards that do not exist: none.safetensors"),
    ],
)  # fmt: skip
def test_an_index_of_another_form_is_refused(folder, index, part):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(LlamaFormatError) as error:
        read(folder)
    assert part in str(error.value)


def test_targets_are_links_to_fill_and_never_in_the_workdir(capsys, folder, tmp_path):
    write_tokenizer(folder / "tokenizer.json")
    (folder / "tokenizer_config.json").write_text('{"eos_token": "</s>"}')
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "link.partial").mkdir()
    status, err = imported(capsys, folder, tmp_path / "link")
    assert status == 2 and "which does not exist" in err
    (tmp_path / "real").mkdir()
    assert imported(capsys, folder, tmp_path / "link")[0] == 0
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real" / "config.json").is_file()
    assert (tmp_path / "link.partial").is_dir(), "what is not ours is left alone"
    for target, part in (
        (tmp_path / "real" / "out", "is in the workdir"),
        ("hdfs://b/out", "target hdfs://b/out: hdfs:// is not supported"),
    ):
        assert cli.main(["convert", "export", str(tmp_path / "link"), str(target)]) == 2
        assert part in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    for target, part in ((tmp_path / "file", "is not an empty folder"), (tmp_path / "file" / "x", "cannot be created")):
        status, err = imported(capsys, folder, target)
        assert status == 2 and part in err
    assert "is not a folder" in imported(capsys, tmp_path / "file", tmp_path / "new")[1]
