"""config.json of `cola_vae/` and `cola_dit/`, to and from the config of a run.

Every field of the released files is in one of the tables below: it becomes a field of ours, it has one supported
value, or it does not affect what the model computes. Anything else is refused by name and value.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

from cola_jax import storage
from cola_jax.config import CHOICES, DiTConfig, RunConfig, TextVAEConfig, VAEBlockConfig
from cola_jax.interop.bookkeeping import is_off
from cola_jax.interop.errors import ReleasedFormatError

# theirs -> (ours, type); "block." is VAEBlockConfig
VAE_FIELDS = {
    "vocab_size": ("vocab_size", int), "dim": ("dim", int), "ffn_dim": ("ffn_dim", int), "num_heads": ("num_heads", int),
    "encoder_num_blocks": ("encoder_blocks", int), "decoder_num_blocks": ("decoder_blocks", int),
    "latent_dim": ("latent_dim", int), "patch_size": ("patch_size", int), "block_size": ("block_size", int),
    "use_variation": ("use_variation", bool), "encoder_last_ln": ("encoder_last_ln", bool),
    "shifting_factor": ("latent_shift", float), "scaling_factor": ("latent_scale", float),
    "act": ("block.activation", str), "post_norm": ("block.post_norm", bool),
    "layer_norm_affine": ("block.norm_affine", bool), "layer_norm_eps": ("block.norm_eps", float),
    "qk_norm": ("block.qk_norm", bool), "qk_norm_affine": ("block.qk_norm_affine", bool),
    "qk_bias": ("block.qk_bias", bool), "bias": ("block.bias", bool), "clip_qkv": ("block.clip_qkv", float),
    "shared_heads_kv": ("block.shared_heads_kv", int), "rope_theta": ("block.rope_theta", float),
    "init_std": ("block.init_std", float),
}  # fmt: skip
DIT_FIELDS = {
    "emb_dim": ("dim", int), "num_layers": ("num_layers", int), "heads": ("num_heads", int), "head_dim": ("head_dim", int),
    "expand_ratio": ("expand_ratio", int), "block_size": ("block_size", int), "rope_dim": ("rope_dim", int),
    "norm_eps": ("norm_eps", float), "qk_bias": ("qk_bias", bool),
}  # fmt: skip
FIELDS = {"cola_vae": VAE_FIELDS, "cola_dit": DIT_FIELDS}

# Supported values of fields without a counterpart in our config; a file may omit them.
FIXED = {
    "cola_vae": {
        "dropout": 0.0, "attn_dropout": 0.0, "layer_norm_type": "layer_norm", "use_emb": True, "block_causal": True,
    },
    "cola_dit": {"patch_size": 1},
}  # fmt: skip
# What a model computes in fp32 does not depend on these: bookkeeping, how new weights are drawn, and whether rotations may be
# computed in less than the fp32 they always have here.
NEUTRAL = {
    "cola_vae": {"init_fn": "normal", "init_cutoff_factor": 3, "rope_full_precision": True},
    "cola_dit": {},
}
NAMES = {
    "cola_vae": {"architectures": ["ColaTextVAEModel"], "model_type": "cola_text_vae"},
    "cola_dit": {"architectures": ["ColaDiTModel"], "model_type": "cola_dit"},
}
HANDLED = {"cola_vae": {"causal"}, "cola_dit": {"txt_dim", "txt_in_channels", "txt_out_channels"}}


def read_vae_config(folder: Path) -> TextVAEConfig:
    """Reads cola_vae/config.json.

    Raises:
      ReleasedFormatError: naming every missing or unknown field, and every value that is not supported.
    """
    fields = read_json(folder / "config.json")
    problems: list[str] = []
    values = _values("cola_vae", fields, problems)
    if fields.get("causal", False) is not False and values.get("block_size") != 1:
        problems.append(f"causal={fields['causal']!r} is supported with block_size=1 only, where both masks agree")
    if fields.get("clip_qkv") is not None and values.get("block.clip_qkv", 1.0) <= 0:
        problems.append(f"clip_qkv={fields['clip_qkv']!r} must be null or positive")
    if values.get("latent_scale") == 0:
        problems.append(f"scaling_factor={fields['scaling_factor']!r} has no inverse")
    if "block.activation" in values and values["block.activation"] not in CHOICES["vae.block.activation"]:
        built = ", ".join(CHOICES["vae.block.activation"])
        problems.append(f"act={values['block.activation']!r} is not supported, only {built}")
    heads, width, shared = (values.get(name) for name in ("num_heads", "dim", "block.shared_heads_kv"))
    if None not in (heads, width, shared) and (width % (2 * heads) or heads % shared):
        problems.append(f"dim={width}, num_heads={heads}, shared_heads_kv={shared} do not divide one another")
    if values.get("block.activation") == "swiglu" and values.get("ffn_dim", 0) % 2:
        problems.append(f"ffn_dim={values['ffn_dim']} must be even for act='swiglu'")
    _refuse(folder, problems)
    block = {name.removeprefix("block."): value for name, value in values.items() if name.startswith("block.")}
    own = {name: value for name, value in values.items() if not name.startswith("block.")}
    return TextVAEConfig(**own, fixed_logsnr=None, block=VAEBlockConfig(**block))


def read_dit_config(folder: Path) -> DiTConfig:
    """Reads cola_dit/config.json. Raises as `read_vae_config`."""
    fields = read_json(folder / "config.json")
    problems: list[str] = []
    values = _values("cola_dit", fields, problems)
    if "txt_in_channels" in fields and not _is(fields["txt_in_channels"], int):
        problems.append(f"txt_in_channels={fields['txt_in_channels']!r} must be a positive integer")
    for name, other in (("txt_out_channels", "txt_in_channels"), ("txt_dim", "emb_dim")):
        if name in fields and fields[name] != fields.get(other):
            problems.append(f"{name}={fields[name]!r} and {other}={fields.get(other)!r} must be equal")
    if "rope_dim" in values and (values["rope_dim"] % 2 or values["rope_dim"] > values.get("head_dim", math.inf)):
        problems.append(f"rope_dim={values['rope_dim']} must be even and at most head_dim={fields.get('head_dim')}")
    _refuse(folder, problems)
    return DiTConfig(**values)


def check_pair(folder: Path, vae: TextVAEConfig) -> None:
    """Raises ReleasedFormatError unless the DiT of `folder` (cola_dit) fits this VAE's latents."""
    channels = read_json(folder / "config.json").get("txt_in_channels", vae.latent_dim)
    if channels != vae.latent_dim:
        raise ReleasedFormatError(
            f"{folder}/config.json: txt_in_channels={channels!r}, but the VAE has latent_dim={vae.latent_dim}"
        )


def released_fields(part: str, cfg: RunConfig, dtype: str) -> dict[str, Any]:
    """Returns the fields of config.json of one part.

    Raises:
      ReleasedFormatError: naming the fields of `cfg` that the released form cannot represent.
    """
    problems = (
        [] if part == "cola_vae" else _unsayable(DiTConfig(), cfg.dit, ("rope_theta", "time_frequencies"), "dit.")
    )
    if part == "cola_vae":
        problems = _unsayable(TextVAEConfig(), cfg.vae, ("fixed_logsnr",), "vae.")
    if problems:
        raise ReleasedFormatError(f"the released form cannot represent {'; '.join(problems)}")
    tree = dataclasses.asdict(cfg.vae if part == "cola_vae" else cfg.dit)
    flat = {**tree, **{f"block.{name}": value for name, value in tree.get("block", {}).items()}}
    fields = {**NAMES[part], **FIXED[part], **NEUTRAL[part], "dtype": dtype}
    fields |= {theirs: flat[ours] for theirs, (ours, _) in FIELDS[part].items()}
    if part == "cola_vae":
        fields |= {"causal": False, "clip_qkv": fields["clip_qkv"] or None}
    else:
        channels = cfg.vae.latent_dim
        fields |= {"txt_dim": cfg.dit.dim, "txt_in_channels": channels, "txt_out_channels": channels}
    return dict(sorted(fields.items()))


def _unsayable(built: Any, given: Any, names: tuple[str, ...], prefix: str) -> list[str]:
    differ = [name for name in names if getattr(built, name) != getattr(given, name)]
    return [f"{prefix}{name}={getattr(given, name)!r}, only {getattr(built, name)!r}" for name in differ]


def _values(part: str, fields: dict[str, Any], problems: list[str]) -> dict[str, Any]:
    """Returns {our field: value} of the fields that have one, noting missing, unknown, unsupported and mistyped ones."""
    wanted, values = FIELDS[part], {}
    required = [*wanted, *(["txt_in_channels"] if part == "cola_dit" else [])]
    problems += [f"field {name} is missing" for name in required if name not in fields]
    for theirs, (ours, kind) in wanted.items():
        if theirs in fields:
            value = 0.0 if theirs == "clip_qkv" and fields[theirs] is None else fields[theirs]
            if _is(value, kind):
                values[ours] = kind(value)
            else:
                problems.append(f"{theirs}={value!r} must be {'a positive integer' if kind is int else kind.__name__}")
    for name, value in FIXED[part].items():
        if name in fields and fields[name] != value:
            problems.append(f"{name}={fields[name]!r} is not supported, only {value!r}")
    known = {*wanted, *FIXED[part], *NEUTRAL[part], *HANDLED[part]}
    unknown = sorted(name for name in set(fields) - known if not is_off(name, fields[name]))
    if unknown:
        problems.append(f"unknown fields {', '.join(f'{name}={fields[name]!r}' for name in unknown)}")
    return values


def _is(value: Any, kind: type) -> bool:
    if kind in (bool, str):
        return isinstance(value, kind)
    if isinstance(value, bool):
        return False
    if kind is int:
        return isinstance(value, int) and value > 0
    return isinstance(value, (int, float)) and math.isfinite(value)


def _refuse(folder: Path, problems: list[str]) -> None:
    if problems:
        raise ReleasedFormatError(f"{folder}/config.json: {'; '.join(problems)}")


def read_json(path: Path) -> dict[str, Any]:
    """Returns the object in a JSON file.

    Raises:
      ReleasedFormatError: if it is missing, or is not an object.
    """
    if not path.is_file():
        raise ReleasedFormatError(f"{path} does not exist")
    try:
        fields = storage.read_json(path)
    except storage.StorageError as error:
        raise ReleasedFormatError(str(error)) from error
    if not isinstance(fields, dict):
        raise ReleasedFormatError(f"{path} is not JSON of an object, but of {type(fields).__name__}")
    return fields
