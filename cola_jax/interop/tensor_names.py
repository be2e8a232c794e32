"""Names and layout of parameters in the released form.

Each model has one table of modules; which of their parameters exist (a bias, a gain) follows from the networks themselves.
Linear weights are (out, in) there and (in, out) here; layers are numbered there and stacked here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from cola_jax.config import DiTConfig, RunConfig

# Our module -> theirs; {} is the number of the layer.
VAE_MODULES = {
    "encoder": "encoder.wte",  # modules whose only parameter is an embedding
    "encoder/patch": "encoder.patch_embedder",
    "encoder/head": "encoder.final_layer",
    "decoder/input": "decoder.in_layer",
    "decoder/unpatch": "decoder.unpatch_layer",
    "decoder/final_norm": "decoder.final_norm",
    "decoder/logits": "decoder.final_layer",
} | {
    f"{side}/blocks/{ours}": f"{side}.blocks.{{}}.{theirs}"
    for side in ("encoder", "decoder")
    for ours, theirs in {
        "qkv": "qkv_proj", "attn_out": "attn_out_proj", "ffn_in": "ffn_proj", "ffn_out": "ffn_out",
        "norm_attn": "norm_attn", "norm_ffn": "norm_ffn", "q_norm": "q_norm", "k_norm": "k_norm",
    }.items()
}  # fmt: skip

DIT_MODULES = {
    "dit/input": "txt_in.proj",
    "dit/time/in": "emb_in.proj_in",
    "dit/time/hidden": "emb_in.proj_hid",
    "dit/time/out": "emb_in.proj_out",
    "dit/output_norm": "txt_out_norm",
    "dit/output_ada": "txt_out_ada.out_in.1",
    "dit/output": "txt_out.proj",
} | {
    f"dit/blocks/{ours}": f"blocks.{{}}.{theirs}"
    for ours, theirs in {
        "qkv": "msa.proj_qkv", "attn_out": "msa.proj_out", "q_norm": "msa.norm_q", "k_norm": "msa.norm_k",
        "mlp_in": "mlp.proj_in", "mlp_out": "mlp.proj_out", "ada_attn_in": "ada.msa_in.1",
        "ada_attn_out": "ada.msa_out.1", "ada_mlp_in": "ada.mlp_in.1", "ada_mlp_out": "ada.mlp_out.1",
    }.items()
}  # fmt: skip

MODULES = {"cola_vae": VAE_MODULES, "cola_dit": DIT_MODULES}
GROUPS = {"cola_vae": ("encoder", "decoder"), "cola_dit": ("dit",)}


class TensorLayout(NamedTuple):
    """Conversion of one layer's parameter from the released form to ours, and back. Both take and return numpy arrays."""

    ours: Callable[[np.ndarray], np.ndarray]
    theirs: Callable[[np.ndarray], np.ndarray]


class Row(NamedTuple):
    """One parameter of ours and the corresponding released tensors.

    Attributes:
      path: ours, e.g. "encoder/blocks/qkv/kernel".
      names: theirs, one per layer if layers are stacked, else one.
      stacked: whether our leading axis is the layer.
      shape: of each released tensor.
      layout: between one of them and one of our layers.
    """

    path: str
    names: tuple[str, ...]
    stacked: bool
    shape: tuple[int, ...]
    layout: TensorLayout


def rows(part: str, cfg: RunConfig, leaves: dict[str, Any]) -> list[Row]:
    """Returns a row for each of our parameters of one part.

    Args:
      part: cola_vae | cola_dit.
      leaves: {path: anything with a shape} of the part's parameter groups.

    Raises:
      KeyError: for a parameter that is not in the tables.
    """
    return [_row(part, cfg, path, tuple(leaf.shape)) for path, leaf in leaves.items()]


def _row(part: str, cfg: RunConfig, path: str, shape: tuple[int, ...]) -> Row:
    module, _, kind = path.rpartition("/")
    theirs = MODULES[part][module] + (".bias" if kind == "bias" else ".weight")
    stacked = "{}" in theirs
    layout = _layout(cfg, module, kind)
    one = np.broadcast_to(np.int8(0), shape[1:] if stacked else shape)
    names = tuple(theirs.format(layer) for layer in range(shape[0])) if stacked else (theirs,)
    return Row(path, names, stacked, layout.theirs(one).shape, layout)


def _layout(cfg: RunConfig, module: str, kind: str) -> TensorLayout:
    if module in ("dit/blocks/q_norm", "dit/blocks/k_norm"):
        order = rope_order(cfg.dit)
        return TensorLayout(lambda x: x[order], lambda x: x[np.argsort(order)])
    if module == "dit/blocks/qkv":
        order = rope_order(cfg.dit)
        turn = np.transpose if kind == "kernel" else lambda x: x
        return TensorLayout(
            lambda x: turn(_reorder_qkv(x, cfg.dit, order)), lambda x: _reorder_qkv(turn(x), cfg.dit, np.argsort(order))
        )
    if kind != "kernel":
        return TensorLayout(lambda x: x, lambda x: x)
    if module == "encoder/patch":  # (out, in, P): a convolution of width and stride P
        patch = cfg.vae.patch_size
        return TensorLayout(
            lambda x: x.transpose(2, 1, 0).reshape(-1, x.shape[0]),
            lambda x: x.reshape(patch, x.shape[0] // patch, x.shape[1]).transpose(2, 1, 0),
        )
    return TensorLayout(np.transpose, np.transpose)


def rope_order(config: DiTConfig) -> np.ndarray:
    """Channels of a released head in our order: the even rotated ones, the odd rotated ones, the rest."""
    rotated = np.arange(config.rope_dim)
    return np.concatenate([rotated[0::2], rotated[1::2], np.arange(config.rope_dim, config.head_dim)])


def _reorder_qkv(x: np.ndarray, config: DiTConfig, order: np.ndarray) -> np.ndarray:
    """Reorders the channels of every head of q and k in (3 * heads * head_dim, ...)."""
    heads = x.reshape(3, config.num_heads, config.head_dim, *x.shape[1:])
    return np.concatenate([heads[:2][:, :, order], heads[2:]]).reshape(x.shape)


def constants(part: str, cfg: RunConfig) -> dict[str, np.ndarray]:
    """Returns the released tensors that are computed here: the DiT's RoPE frequencies, (rope_dim / 2,) fp32, per layer."""
    if part != "cola_dit":
        return {}
    dit = cfg.dit
    frequencies = dit.rope_theta ** (-np.arange(0, dit.rope_dim, 2) / dit.rope_dim)
    return {f"blocks.{layer}.msa.rope.rope.freqs": frequencies.astype(np.float32) for layer in range(dit.num_layers)}
