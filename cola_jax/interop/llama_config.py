"""config.json of the Hugging Face LLaMA form: every field is honoured, known to change nothing here, or refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cola_jax.config import BackboneConfig
from cola_jax.interop.released import ReleasedFormatError


class LlamaFormatError(ReleasedFormatError):
    """A folder that cannot be used as the LLaMA form; the message names the file and the fields or tensors."""


# What may stand in a config.json and changes no number here: ids of special tokens, limits and wrappers of other programs.
WITHOUT_EFFECT = {
    "dtype", "torch_dtype", "transformers_version", "_name_or_path", "bos_token_id", "eos_token_id", "pad_token_id",
    "max_position_embeddings", "use_cache", "pretraining_tp",
}  # fmt: skip

# Fields that are built for one value only; the values stand for a missing field too.
ONLY = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "attention_dropout": 0.0,
    "rope_scaling": None,
}

SIZES = {
    "vocab_size": "vocab_size", "dim": "hidden_size", "ffn_dim": "intermediate_size", "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
}  # fmt: skip

# Optional there: our field, theirs, and what a missing one means.
DEFAULTS = (("norm_eps", "rms_norm_eps", 1e-6), ("tie_embeddings", "tie_word_embeddings", False),
            ("init_std", "initializer_range", 0.02))  # fmt: skip
ROPE_THETA = 10_000.0  # where a config.json gives none
OTHERS = {"num_key_value_heads", "head_dim", "rope_theta", "rope_parameters"}


def is_llama(folder: str | Path) -> bool:
    """Whether the folder's config.json says that it holds a LLaMA; False where there is none that can be read."""
    try:
        fields = read_fields(Path(folder))
    except LlamaFormatError:
        return False
    return fields.get("model_type") == "llama" or fields.get("architectures") == ONLY["architectures"]


def read_config(folder: str | Path) -> BackboneConfig:
    """Reads config.json.

    Raises:
      LlamaFormatError: naming every field that is missing or unknown, and every value that is not built here.
    """
    folder = Path(folder)
    fields = read_fields(folder)
    known = WITHOUT_EFFECT | set(ONLY) | set(SIZES.values()) | {theirs for _, theirs, _ in DEFAULTS} | OTHERS
    wrong = [f"field {name}={fields[name]!r} is unknown" for name in sorted(set(fields) - known)]
    wrong += [f"{name}={fields[name]!r} is not supported, only {value!r}" for name, value in ONLY.items()
              if fields.get(name, value) != value]  # fmt: skip
    missing = [f"field {theirs} is missing" for theirs in SIZES.values() if theirs not in fields]
    if missing:
        raise LlamaFormatError(f"{folder}/config.json: {'; '.join(missing + wrong)}")
    values = {ours: fields[theirs] for ours, theirs in SIZES.items()}
    values |= {ours: fields.get(theirs, default) for ours, theirs, default in DEFAULTS}
    heads = fields["num_attention_heads"]
    values["kv_heads"] = fields.get("num_key_value_heads") or heads
    values["rope_theta"] = _rope_theta(fields, wrong)
    head_dim = fields.get("head_dim") or fields["hidden_size"] // heads
    if head_dim * heads != fields["hidden_size"]:
        wrong.append(
            f"head_dim={head_dim} is not supported, only hidden_size / num_attention_heads={fields['hidden_size'] / heads}"
        )
    if heads % values["kv_heads"]:
        wrong.append(f"num_key_value_heads={values['kv_heads']} does not divide num_attention_heads={heads}")
    if wrong:
        raise LlamaFormatError(f"{folder}/config.json: {'; '.join(wrong)}")
    return BackboneConfig(**values)


def _rope_theta(fields: dict[str, Any], wrong: list[str]) -> float:
    """RoPE's base, under its older or its newer name; other kinds of RoPE are appended to `wrong`."""
    rope = fields.get("rope_parameters") or {}
    plain = {"rope_type": "default", "partial_rotary_factor": 1.0}
    for name, value in rope.items():
        if name != "rope_theta" and (name not in plain or value != plain[name]):
            only = f"only {plain[name]!r}" if name in plain else "no such option"
            wrong.append(f"rope_parameters.{name}={value!r} is not supported, {only}")
    thetas = {float(group["rope_theta"]) for group in (fields, rope) if group.get("rope_theta") is not None}
    if len(thetas) > 1:
        wrong.append(
            f"rope_theta={fields['rope_theta']!r} and rope_parameters.rope_theta={rope['rope_theta']!r} differ"
        )
    return max(thetas, default=ROPE_THETA)


def fields_of(config: BackboneConfig, *, dtype: str, max_positions: int, eos_id: int | None) -> dict[str, Any]:
    """Returns the fields of a config.json that `read_config` reads as `config`, under the names of every version."""
    given = {theirs: getattr(config, ours) for ours, theirs in SIZES.items()}
    given |= {theirs: getattr(config, ours) for ours, theirs, _ in DEFAULTS}
    given |= {name: value for name, value in ONLY.items() if name != "rope_scaling"}
    return dict(sorted((given | {
        "num_key_value_heads": config.kv_heads, "head_dim": config.dim // config.num_heads,
        "rope_theta": config.rope_theta, "rope_parameters": {"rope_theta": config.rope_theta, "rope_type": "default"},
        "dtype": dtype, "torch_dtype": dtype, "max_position_embeddings": max_positions, "use_cache": True,
        "bos_token_id": None, "eos_token_id": eos_id, "pad_token_id": None,
    }).items()))  # fmt: skip


def read_fields(folder: Path) -> dict[str, Any]:
    """Returns the fields of a folder's config.json."""
    fields = read_json(folder / "config.json")
    if not isinstance(fields, dict):
        raise LlamaFormatError(f"{folder}/config.json holds no fields")
    return fields


def read_json(path: Path) -> Any:
    if not path.is_file():
        raise LlamaFormatError(f"{path} does not exist")
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise LlamaFormatError(f"{path} is not JSON: {error}") from error
