"""The Hugging Face LLaMA form: config.json of LlamaForCausalLM and model.safetensors, in one file or in shards, read
and written.

The same weights serve the families ar and llada: both have the one parameter group "backbone". The id of llada's mask
is not part of the form; it is the config's llada.mask_id. Linear weights are (out, in) there and (in, out) here;
layers are numbered there and stacked here; q, k, v and gate, up are single matrices here.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cola_jax.config import BackboneConfig
from cola_jax.interop.errors import ReleasedFormatError
from cola_jax.interop.llama_config import LlamaFormatError as LlamaFormatError
from cola_jax.interop.llama_config import fields_of
from cola_jax.interop.llama_config import is_llama as is_llama
from cola_jax.interop.llama_config import read_config as read_config
from cola_jax.interop.llama_config import refuse_others as refuse_others
from cola_jax.interop.safetensors_file import Entry
from cola_jax.interop.weight_files import INDEX, SINGLE, read_files, refuse_types

FREQUENCIES = "rotary_emb.inv_freq"  # a tensor of older files, per layer or shared, which is computed here
DTYPES = {"float32": 4, "bfloat16": 2, "float16": 2}  # bytes per file of `write`


def read(folder: str | Path, config: BackboneConfig) -> dict[str, Any]:
    """Reads the weights of a folder. Returns {"backbone": parameters}, numpy fp32.

    Raises:
      LlamaFormatError: naming every tensor that is missing, not expected or misshapen; tensors of a dtype that is not
        read; one that is not finite; and files that are missing or damaged.
    """
    tensors = _tensors(Path(folder), config)
    turned = lambda name: np.ascontiguousarray(tensors[name].T)
    layers = [f"model.layers.{i}" for i in range(config.num_layers)]
    together = lambda *names: np.stack(
        [np.concatenate([turned(f"{layer}.{name}.weight") for name in names], axis=-1) for layer in layers]
    )
    gain = lambda name: {"scale": np.stack([tensors[f"{layer}.{name}.weight"] for layer in layers])}
    backbone = {
        "embedding": tensors["model.embed_tokens.weight"],
        "blocks": {
            "norm_attn": gain("input_layernorm"),
            "qkv": {"kernel": together("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")},
            "attn_out": {"kernel": together("self_attn.o_proj")},
            "norm_ffn": gain("post_attention_layernorm"),
            "ffn_in": {"kernel": together("mlp.gate_proj", "mlp.up_proj")},
            "ffn_out": {"kernel": together("mlp.down_proj")},
        },
        "final_norm": {"scale": tensors["model.norm.weight"]},
    }
    if not config.tie_embeddings:
        backbone["logits"] = {"kernel": turned("lm_head.weight")}
    return {"backbone": backbone}


def write(
    folder: str | Path,
    config: BackboneConfig,
    params: dict[str, Any],
    *,
    dtype: str = "float32",
    max_positions: int = 2048,
    eos_id: int | None = None,
    shard_bytes: int = 5 * 10**9,
) -> None:
    """Writes {"backbone": parameters} as config.json and model.safetensors, in shards if it exceeds `shard_bytes`.

    Args:
      dtype: of the tensors: float32, bfloat16 or float16.
      max_positions: the maximum length for other programs; RoPE itself has no limit.
      eos_id: the id that ends a document, for other programs.

    Raises:
      LlamaFormatError: if the folder is not empty, or the parameters do not fit `config`.
    """
    from safetensors.numpy import save_file

    folder = Path(folder)
    if dtype not in DTYPES:
        raise LlamaFormatError(f"dtype={dtype!r} is not one of {', '.join(DTYPES)}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise LlamaFormatError(f"{folder} is not an empty folder: give another one")
    tensors = _named(config, params["backbone"])
    wrong = _misshapen({name: tensor.shape for name, tensor in tensors.items()}, shapes_of(config))
    if wrong:
        raise LlamaFormatError(f"parameters do not fit the config: {'; '.join(wrong)}")
    folder.mkdir(parents=True, exist_ok=True)
    fields = fields_of(config, dtype=dtype, max_positions=max_positions, eos_id=eos_id)
    (folder / "config.json").write_text(json.dumps(fields, indent=2) + "\n")
    shards = _shards(tensors, DTYPES[dtype], shard_bytes)
    names = [SINGLE] if len(shards) == 1 else [
        f"model-{number:05d}-of-{len(shards):05d}.safetensors" for number in range(1, len(shards) + 1)
    ]  # fmt: skip
    for name, shard in zip(names, shards):
        cast = {key: np.ascontiguousarray(tensors[key].astype(jnp.dtype(dtype))) for key in shard}
        save_file(cast, folder / name, metadata={"format": "pt"})
    if len(shards) > 1:
        where = {key: name for name, shard in zip(names, shards) for key in shard}
        total = sum(tensor.size for tensor in tensors.values()) * DTYPES[dtype]
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(where.items()))}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")


def shapes_of(config: BackboneConfig) -> dict[str, tuple[int, ...]]:
    """Returns the tensors of the form by name, with their shapes."""
    dim, kv = config.dim, config.kv_heads * (config.dim // config.num_heads)
    layer = {
        "input_layernorm": (dim,), "post_attention_layernorm": (dim,),
        "self_attn.q_proj": (dim, dim), "self_attn.k_proj": (kv, dim), "self_attn.v_proj": (kv, dim),
        "self_attn.o_proj": (dim, dim), "mlp.gate_proj": (config.ffn_dim, dim), "mlp.up_proj": (config.ffn_dim, dim),
        "mlp.down_proj": (dim, config.ffn_dim),
    }  # fmt: skip
    shapes = {
        f"model.layers.{i}.{name}.weight": shape for i in range(config.num_layers) for name, shape in layer.items()
    }
    shapes |= {"model.embed_tokens.weight": (config.vocab_size, dim), "model.norm.weight": (dim,)}
    return shapes if config.tie_embeddings else shapes | {"lm_head.weight": (config.vocab_size, dim)}


def _named(config: BackboneConfig, backbone: dict[str, Any]) -> dict[str, np.ndarray]:
    """Parameters as the form's tensors: the inverse of `read`."""
    backbone = jax.tree.map(np.asarray, backbone)
    blocks, kv = backbone["blocks"], config.kv_heads * (config.dim // config.num_heads)
    qkv = np.split(blocks["qkv"]["kernel"], [config.dim, config.dim + kv], axis=-1)
    gate_up = np.split(blocks["ffn_in"]["kernel"], 2, axis=-1)
    kernels = dict(zip(("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), qkv))
    kernels |= dict(zip(("mlp.gate_proj", "mlp.up_proj"), gate_up))
    kernels |= {"self_attn.o_proj": blocks["attn_out"]["kernel"], "mlp.down_proj": blocks["ffn_out"]["kernel"]}
    gains = {"input_layernorm": blocks["norm_attn"]["scale"], "post_attention_layernorm": blocks["norm_ffn"]["scale"]}
    tensors = {"model.embed_tokens.weight": backbone["embedding"], "model.norm.weight": backbone["final_norm"]["scale"]}
    for i in range(len(gains["input_layernorm"])):
        tensors |= {f"model.layers.{i}.{name}.weight": kernel[i].T for name, kernel in kernels.items()}
        tensors |= {f"model.layers.{i}.{name}.weight": scale[i] for name, scale in gains.items()}
    if "logits" in backbone:
        tensors["lm_head.weight"] = backbone["logits"]["kernel"].T
    return tensors


def _tensors(folder: Path, config: BackboneConfig) -> dict[str, np.ndarray]:
    """Reads every expected tensor, fp32, after checking that all exist and fit."""
    expected = shapes_of(config)
    try:
        entries = {entry.name: entry for _, _, found in read_files(folder) for entry in found}
        refuse_types(folder, entries.values())
        extra = [entries.pop(name) for name in [*entries] if name.endswith(FREQUENCIES)]
        tied = entries.pop("lm_head.weight", None) if config.tie_embeddings else None
        wrong = _misshapen({name: entry.shape for name, entry in entries.items()}, expected)
        wrong += [
            f"{e.name} is not that of RoPE with rope_theta={config.rope_theta}"
            for e in extra
            if not _is_rope(e, config)
        ]
        if wrong:
            raise LlamaFormatError(f"{folder}: {'; '.join(wrong)}")
        tensors = {name: entries[name].read_weights() for name in expected}
        if tied is not None and not np.array_equal(tied.read_weights(), tensors["model.embed_tokens.weight"]):
            raise LlamaFormatError(
                f"{folder}: lm_head.weight differs from model.embed_tokens.weight, though config.json has "
                "tie_word_embeddings=True: it should have False"
            )
        return tensors
    except LlamaFormatError:
        raise
    except ReleasedFormatError as error:
        raise LlamaFormatError(str(error)) from error


def _is_rope(entry: Entry, config: BackboneConfig) -> bool:
    """Whether a tensor of older files equals the frequencies computed here, in its precision."""
    size = config.dim // config.num_heads
    frequencies = config.rope_theta ** (-np.arange(0, size, 2) / size)
    exact = entry.dtype in ("F32", "F64")
    near = {"rtol": 1e-4, "atol": 0.0} if exact else {"rtol": 1e-2, "atol": 1e-6}
    return entry.shape == frequencies.shape and np.allclose(np.float64(entry.read()), frequencies, **near)


def _misshapen(found: dict[str, tuple[int, ...]], expected: dict[str, tuple[int, ...]]) -> list[str]:
    """Returns one phrase for every tensor that is missing, not expected, or of another shape."""
    wrong = [f"tensor {name} {expected[name]} is missing" for name in expected if name not in found]
    wrong += [f"tensor {name} {found[name]} is not expected" for name in found if name not in expected]
    return wrong + [
        f"tensor {name} is {found[name]}, expected {shape}"
        for name, shape in expected.items()
        if name in found and found[name] != shape
    ]


def _shards(tensors: dict[str, np.ndarray], width: int, shard_bytes: int) -> list[list[str]]:
    """Divides tensors, in the order of their names, over files of at most `shard_bytes` (a larger tensor gets its own file)."""
    shards: list[list[str]] = [[]]
    size = 0
    for name in sorted(tensors):
        own = tensors[name].size * width
        if shards[-1] and size + own > shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += own
    return shards
