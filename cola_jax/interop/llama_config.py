"""config.json of the Hugging Face LLaMA form: every field is honoured, known to change nothing here, or refused by name."""

from __future__ import annotations

import math
from typing import Any

from cola_jax import storage
from cola_jax.config import BackboneConfig
from cola_jax.interop.bookkeeping import OFF, is_off
from cola_jax.interop.errors import ReleasedFormatError
from cola_jax.storage import AnyPath


class LlamaFormatError(ReleasedFormatError):
    """A folder that cannot be used as the LLaMA form; the message names the file and the fields or tensors."""


# Fields with one supported value; a missing field has this value too.
ONLY = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "attention_dropout": 0.0,
}

SIZES = {
    "vocab_size": "vocab_size", "dim": "hidden_size", "ffn_dim": "intermediate_size", "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
}  # fmt: skip

# Optional fields: our name, theirs, and the default.
DEFAULTS = (("norm_eps", "rms_norm_eps", 1e-6), ("tie_embeddings", "tie_word_embeddings", False),
            ("init_std", "initializer_range", 0.02))  # fmt: skip
PLAIN_ROPE = {"rope_type": "default", "type": "default", "partial_rotary_factor": 1.0}
ROPE_THETA = 10_000.0  # default of config.json
OTHERS = {"num_key_value_heads", "head_dim", "rope_theta", "rope_parameters", "rope_scaling", "layer_types"}


def is_llama(folder: str | AnyPath) -> bool:
    """Whether the folder's config.json declares a LLaMA; False if it does not exist or cannot be read."""
    try:
        fields = read_fields(storage.path(folder))
    except LlamaFormatError:
        return False
    return fields.get("model_type") == "llama" or fields.get("architectures") == ONLY["architectures"]


def refuse_others(folder: str | AnyPath) -> None:
    """Reports the type of a folder that is neither of the LLaMA form nor, by its parts, of the released one.

    Raises:
      LlamaFormatError: naming its model type; StorageError if its path is not local. Returns if it has no config.json.
    """
    folder = storage.path(folder)
    if folder.exists() and not folder.is_dir():
        raise LlamaFormatError(f"{folder} is not a folder")
    if (folder / "cola_vae").exists() or (folder / "cola_dit").exists() or not (folder / "config.json").exists():
        return
    fields = read_fields(folder)
    if "family" in fields and "backbone" in fields:
        raise LlamaFormatError(
            f"{folder} is a workdir: train and generate read it as it is; `convert export` publishes it"
        )
    kind = fields.get("model_type")
    what = "has no model_type" if kind is None else f"model_type {kind} is not supported"
    raise LlamaFormatError(
        f"{folder}/config.json: {what}, only llama, and cola_vae/ and cola_dit/ of the released form"
    )


def read_config(folder: str | AnyPath) -> BackboneConfig:
    """Reads config.json.

    Raises:
      LlamaFormatError: naming every field that is missing or unknown, and every value that is not supported.
    """
    folder = storage.path(folder)
    fields = {name: value for name, value in read_fields(folder).items() if value is not None}
    known = set(ONLY) | set(SIZES.values()) | {theirs for _, theirs, _ in DEFAULTS} | OTHERS
    strange = sorted(name for name in set(fields) - known if not is_off(name, fields[name]))
    wrong = [f"field {name}={fields[name]!r} is unknown" for name in strange if name not in OFF]
    wrong += [f"{name}={fields[name]!r} is not supported, only {OFF[name]!r}" for name in strange if name in OFF]
    wrong += [f"{name}={fields[name]!r} is not supported, only {value!r}" for name, value in ONLY.items()
              if fields.get(name, value) != value]  # fmt: skip
    wrong += _mistyped(fields)
    missing = [f"field {theirs} is missing" for theirs in SIZES.values() if theirs not in fields]
    if missing or wrong:
        raise LlamaFormatError(f"{folder}/config.json: {'; '.join(missing + wrong)}")
    values = {ours: fields[theirs] for ours, theirs in SIZES.items()}
    values |= {ours: fields.get(theirs, default) for ours, theirs, default in DEFAULTS}
    heads = fields["num_attention_heads"]
    values["kv_heads"] = fields.get("num_key_value_heads", heads)
    values["rope_theta"] = _rope_theta(fields, wrong)
    head_dim = fields.get("head_dim", fields["hidden_size"] / heads)
    if head_dim * heads != fields["hidden_size"]:
        built = fields["hidden_size"] / heads
        wrong.append(f"head_dim={head_dim} is not supported, only hidden_size / num_attention_heads={built}")
    elif head_dim % 2:
        wrong.append(f"head_dim={head_dim} must be even for RoPE")
    if heads % values["kv_heads"]:
        wrong.append(f"num_key_value_heads={values['kv_heads']} does not divide num_attention_heads={heads}")
    if wrong:
        raise LlamaFormatError(f"{folder}/config.json: {'; '.join(wrong)}")
    return BackboneConfig(**values)


def _mistyped(fields: dict[str, Any]) -> list[str]:
    """Returns one phrase for each field whose value is of another type or size than in the form."""
    sizes = [*SIZES.values(), "num_key_value_heads", "head_dim"]
    wrong = [f"{n}={fields[n]!r} must be a positive integer" for n in sizes if n in fields and not _is_size(fields[n])]
    numbers = [name for name in ("rms_norm_eps", "initializer_range", "rope_theta") if name in fields]
    wrong += [f"{n}={fields[n]!r} must be a positive number" for n in numbers if not _is_positive(fields[n])]
    if not isinstance(fields.get("tie_word_embeddings", False), bool):
        wrong.append(f"tie_word_embeddings={fields['tie_word_embeddings']!r} must be true or false")
    types = fields.get("layer_types", [])
    if not isinstance(types, list) or any(kind != "full_attention" for kind in types):
        wrong.append(f"layer_types={types!r} is not supported, only 'full_attention'")
    return wrong


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_positive(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < math.inf


def _rope_theta(fields: dict[str, Any], wrong: list[str]) -> float:
    """RoPE's base, under its older or newer name; other kinds of RoPE are appended to `wrong`."""
    thetas = [fields["rope_theta"]] if "rope_theta" in fields else []
    for group in ("rope_scaling", "rope_parameters"):
        rope = fields.get(group, {})
        if not isinstance(rope, dict):
            wrong.append(f"{group}={rope!r} is not supported, only null or its fields in braces")
            continue
        if (rope.get("rope_type", rope.get("type")), rope.get("factor")) == ("linear", 1.0):
            continue  # positions divided by 1
        for name, value in rope.items():
            if name == "rope_theta" and _is_positive(value):
                thetas.append(value)
            elif name not in PLAIN_ROPE or value not in (None, PLAIN_ROPE[name]):
                only = f"only {PLAIN_ROPE[name]!r}" if name in PLAIN_ROPE else "no such option"
                whole = f" ({group}={rope!r})" if group == "rope_scaling" else ""
                wrong.append(f"{group}.{name}={value!r} is not supported, {only}{whole}")
    if len({float(theta) for theta in thetas}) > 1:
        first, second = (fields.get(n) for n in ("rope_theta", "rope_parameters"))
        wrong.append(f"rope_theta={first!r} and rope_parameters.rope_theta={(second or {}).get('rope_theta')!r} differ")
    return max(map(float, thetas), default=ROPE_THETA)


def fields_of(config: BackboneConfig, *, dtype: str, max_positions: int, eos_id: int | None) -> dict[str, Any]:
    """Returns the fields of a config.json that `read_config` reads as `config`, under the names of every version."""
    given = {theirs: getattr(config, ours) for ours, theirs in SIZES.items()}
    given |= {theirs: getattr(config, ours) for ours, theirs, _ in DEFAULTS}
    given |= ONLY
    return dict(sorted((given | {
        "num_key_value_heads": config.kv_heads, "head_dim": config.dim // config.num_heads,
        "rope_theta": config.rope_theta, "rope_parameters": {"rope_theta": config.rope_theta, "rope_type": "default"},
        "dtype": dtype, "torch_dtype": dtype, "max_position_embeddings": max_positions, "use_cache": True,
        "bos_token_id": None, "eos_token_id": eos_id, "pad_token_id": None,
    }).items()))  # fmt: skip


def read_fields(folder: AnyPath) -> dict[str, Any]:
    """Returns the fields of a folder's config.json."""
    path = folder / "config.json"
    if not path.is_file():
        raise LlamaFormatError(f"{path} does not exist")
    try:
        fields = storage.read_json(path)
    except storage.StorageError as error:
        raise LlamaFormatError(str(error)) from error
    if not isinstance(fields, dict):
        raise LlamaFormatError(f"{path} holds no fields, but {type(fields).__name__}")
    return fields
