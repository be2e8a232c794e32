"""The released Cola DLM form: `cola_vae/` and `cola_dit/`, each with config.json and model.safetensors.

Tensors are named as in the public release; here they become the parameter groups encoder, decoder and dit. Linear weights
are (out, in) there and (in, out) here; layers are numbered there and stacked here.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from cola_jax.config import DiTConfig, TextVAEConfig, VAEBlockConfig


class ReleasedFormatError(ValueError):
    """A released folder that cannot be used; the message names the file and the field or tensor."""


# Config fields whose other values change nothing here (initialisation and inference wrappers) or are implied by the weights.
IGNORED_VAE_FIELDS = [
    "architectures",
    "dtype",
    "model_type",
    "transformers_version",
    "attn_dropout",
    "dropout",
    "init_cutoff_factor",
    "init_fn",
    "rope_full_precision",
    "layer_norm_type",
    "use_emb",
    "block_causal",
    "causal",
]
IGNORED_DIT_FIELDS = [
    "architectures",
    "dtype",
    "model_type",
    "transformers_version",
    "patch_size",
    "txt_dim",
    "txt_out_channels",
]

REQUIRED_VAE_VALUES = {
    "attn_dropout": 0.0, "dropout": 0.0, "layer_norm_type": "layer_norm", "use_emb": True, "block_causal": True,
    "causal": False, "rope_full_precision": True,
}  # fmt: skip


def read_vae_config(folder: Path) -> TextVAEConfig:
    """Reads cola_vae/config.json.

    Raises:
      ReleasedFormatError: naming a missing or unknown field, or a value that is not built here.
    """
    fields = _read_json(folder / "config.json")
    for name, value in REQUIRED_VAE_VALUES.items():
        if fields.get(name, value) != value:
            raise ReleasedFormatError(f"{folder}/config.json: {name}={fields[name]!r} is not supported, only {value!r}")
    take = _Taker(folder, fields, IGNORED_VAE_FIELDS)
    block = VAEBlockConfig(
        activation=take("act"), post_norm=take("post_norm"), norm_affine=take("layer_norm_affine"),
        norm_eps=take("layer_norm_eps"), qk_norm=take("qk_norm"), qk_norm_affine=take("qk_norm_affine"),
        qk_bias=take("qk_bias"), bias=take("bias"), clip_qkv=float(take("clip_qkv") or 0.0),
        shared_heads_kv=take("shared_heads_kv"), rope_theta=float(take("rope_theta")), init_std=take("init_std"),
    )  # fmt: skip
    config = TextVAEConfig(
        vocab_size=take("vocab_size"), dim=take("dim"), ffn_dim=take("ffn_dim"), num_heads=take("num_heads"),
        encoder_blocks=take("encoder_num_blocks"), decoder_blocks=take("decoder_num_blocks"),
        latent_dim=take("latent_dim"), patch_size=take("patch_size"), block_size=take("block_size"),
        use_variation=take("use_variation"), encoder_last_ln=take("encoder_last_ln"), fixed_logsnr=None,
        latent_shift=float(take("shifting_factor")), latent_scale=float(take("scaling_factor")), block=block,
    )  # fmt: skip
    take.finish()
    return config


def read_dit_config(folder: Path) -> DiTConfig:
    """Reads cola_dit/config.json. Raises as `read_vae_config`."""
    fields = _read_json(folder / "config.json")
    if fields.get("patch_size", 1) != 1:
        raise ReleasedFormatError(f"{folder}/config.json: patch_size={fields['patch_size']} is not supported, only 1")
    if fields.get("txt_in_channels") != fields.get("txt_out_channels"):
        raise ReleasedFormatError(f"{folder}/config.json: txt_in_channels and txt_out_channels differ")
    take = _Taker(folder, fields, [*IGNORED_DIT_FIELDS, "txt_in_channels"])
    config = DiTConfig(
        dim=take("emb_dim"), num_layers=take("num_layers"), num_heads=take("heads"), head_dim=take("head_dim"),
        expand_ratio=take("expand_ratio"), block_size=take("block_size"), rope_dim=take("rope_dim"),
        norm_eps=take("norm_eps"), qk_bias=take("qk_bias"),
    )  # fmt: skip
    take.finish()
    return config


class _Taker:
    """Hands out fields of a config.json and remembers which were asked for."""

    def __init__(self, folder: Path, fields: dict[str, Any], ignored: list[str]):
        self.folder, self.fields, self.left = folder, fields, set(fields) - set(ignored)

    def __call__(self, name: str) -> Any:
        if name not in self.fields:
            raise ReleasedFormatError(f"{self.folder}/config.json: field {name} is missing")
        self.left.discard(name)
        return self.fields[name]

    def finish(self) -> None:
        if self.left:
            raise ReleasedFormatError(f"{self.folder}/config.json: unknown fields {', '.join(sorted(self.left))}")


def read_vae(folder: Path, config: TextVAEConfig) -> dict[str, Any]:
    """Reads the Text VAE's tensors. Returns the parameter groups {"encoder", "decoder"}, numpy fp32."""
    source = _Tensors(folder)
    block = config.block
    blocks = {"qkv": "qkv_proj", "attn_out": "attn_out_proj", "ffn_in": "ffn_proj", "ffn_out": "ffn_out"}
    norms = {"norm_attn": "norm_attn", "norm_ffn": "norm_ffn"} if block.norm_affine else {}
    if block.qk_norm and block.qk_norm_affine:
        norms |= {"q_norm": "q_norm", "k_norm": "k_norm"}

    def stack(prefix: str, count: int) -> dict[str, Any]:
        dense = {
            name: source.dense([f"{prefix}.blocks.{i}.{theirs}" for i in range(count)],
                               block.qk_bias if name == "qkv" else block.bias)
            for name, theirs in blocks.items()
        }  # fmt: skip
        return dense | {n: source.norm([f"{prefix}.blocks.{i}.{t}" for i in range(count)]) for n, t in norms.items()}

    patch = source.take("encoder.patch_embedder.weight")  # (out, in, P): a convolution of width and stride P
    encoder = {
        "embedding": source.take("encoder.wte.weight"),
        "patch": {
            "kernel": patch.transpose(2, 1, 0).reshape(-1, patch.shape[0]),
            "bias": source.take("encoder.patch_embedder.bias"),
        },
        "blocks": stack("encoder", config.encoder_blocks),
        "head": source.dense("encoder.final_layer", True),
    }
    decoder = {
        "input": source.dense("decoder.in_layer", True),
        "blocks": stack("decoder", config.decoder_blocks),
        "unpatch": source.dense("decoder.unpatch_layer", True),
        "logits": source.dense("decoder.final_layer", True),
    }
    if block.norm_affine:
        decoder["final_norm"] = source.norm("decoder.final_norm")
    source.finish()
    return {"encoder": encoder, "decoder": decoder}


def read_dit(folder: Path, config: DiTConfig) -> dict[str, Any]:
    """Reads the DiT's tensors. Returns the parameter group {"dit"}, numpy fp32."""
    source = _Tensors(folder)
    layers = range(config.num_layers)

    def each(theirs: str) -> list[str]:
        return [f"blocks.{i}.{theirs}" for i in layers]

    for name in each("msa.rope.rope.freqs"):  # a constant there, computed here
        expected = config.rope_theta ** (-np.arange(0, config.rope_dim, 2) / config.rope_dim)
        if not np.allclose(source.take(name), expected, rtol=1e-4):
            raise ReleasedFormatError(f"{folder}: {name} is not that of RoPE with theta {config.rope_theta}")
    order = rope_order(config)
    blocks = {
        "qkv": {
            name: _reorder_qkv(leaf, config)
            for name, leaf in source.dense(each("msa.proj_qkv"), config.qk_bias).items()
        },
        "attn_out": source.dense(each("msa.proj_out"), False),
        "q_norm": {name: leaf[:, order] for name, leaf in source.norm(each("msa.norm_q")).items()},
        "k_norm": {name: leaf[:, order] for name, leaf in source.norm(each("msa.norm_k")).items()},
        "mlp_in": source.dense(each("mlp.proj_in"), True),
        "mlp_out": source.dense(each("mlp.proj_out"), True),
        "ada_attn_in": source.dense(each("ada.msa_in.1"), True),
        "ada_attn_out": source.dense(each("ada.msa_out.1"), True),
        "ada_mlp_in": source.dense(each("ada.mlp_in.1"), True),
        "ada_mlp_out": source.dense(each("ada.mlp_out.1"), True),
    }
    dit = {
        "input": source.dense("txt_in.proj", True),
        "time": {ours: source.dense(f"emb_in.proj_{theirs}", True)
                 for ours, theirs in (("in", "in"), ("hidden", "hid"), ("out", "out"))},
        "blocks": blocks,
        "output_norm": source.norm("txt_out_norm"),
        "output_ada": source.dense("txt_out_ada.out_in.1", True),
        "output": source.dense("txt_out.proj", True),
    }  # fmt: skip
    source.finish()
    return {"dit": dit}


def rope_order(config: DiTConfig) -> np.ndarray:
    """Channels of a released head in our order: the even ones of the rotated, the odd ones, the rest."""
    rotated = np.arange(config.rope_dim)
    return np.concatenate([rotated[0::2], rotated[1::2], np.arange(config.rope_dim, config.head_dim)])


def _reorder_qkv(leaf: np.ndarray, config: DiTConfig) -> np.ndarray:
    """Reorders the channels of every head of q and k in (..., 3 * heads * head_dim)."""
    heads = leaf.reshape(*leaf.shape[:-1], 3, config.num_heads, config.head_dim)
    q_and_k = heads[..., :2, :, :][..., rope_order(config)]
    return np.concatenate([q_and_k, heads[..., 2:, :, :]], axis=-3).reshape(leaf.shape)


class _Tensors:
    """The tensors of one safetensors file, each to be taken once."""

    def __init__(self, folder: Path):
        try:
            from safetensors.numpy import load_file
        except ImportError as error:
            raise ImportError("reading released weights needs safetensors: pip install 'cola_jax[hf]'") from error
        self.folder = folder
        path = folder / "model.safetensors"
        if not path.is_file():
            raise ReleasedFormatError(f"{path} does not exist")
        self.tensors = load_file(path)

    def take(self, name: str) -> np.ndarray:
        if name not in self.tensors:
            raise ReleasedFormatError(f"{self.folder}/model.safetensors: tensor {name} is missing")
        return np.asarray(self.tensors.pop(name), np.float32)

    def dense(self, names: str | list[str], bias: bool) -> dict[str, np.ndarray]:
        """Linear layers as {"kernel", "bias"}; a list of names comes stacked."""
        if isinstance(names, list):
            each = [self.dense(name, bias) for name in names]
            return {key: np.stack([layer[key] for layer in each]) for key in each[0]}
        layer = {"kernel": self.take(f"{names}.weight").T}
        return layer | ({"bias": self.take(f"{names}.bias")} if bias else {})

    def norm(self, names: str | list[str]) -> dict[str, np.ndarray]:
        """Layer norms as {"scale", "bias"}; a list of names comes stacked."""
        if isinstance(names, list):
            each = [self.norm(name) for name in names]
            return {key: np.stack([layer[key] for layer in each]) for key in each[0]}
        return {"scale": self.take(f"{names}.weight"), "bias": self.take(f"{names}.bias")}

    def finish(self) -> None:
        if self.tensors:
            raise ReleasedFormatError(
                f"{self.folder}/model.safetensors: unknown tensors {', '.join(sorted(self.tensors))}"
            )


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ReleasedFormatError(f"{path} does not exist")
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ReleasedFormatError(f"{path} is not JSON: {error}") from error
