"""The tokenizer of an imported folder, and the files beside it."""

from __future__ import annotations

from cola_jax import storage
from cola_jax.config import RunConfig, vocabulary
from cola_jax.data import tokenizers
from cola_jax.data.corpus import check_vocabulary
from cola_jax.data.errors import DataError
from cola_jax.interop import record
from cola_jax.interop.released_config import read_json
from cola_jax.storage import AnyPath


def import_tokenizer(cfg: RunConfig, source: AnyPath) -> tokenizers.Tokenizer:
    """Returns the folder's tokenizer, which has priority over that of a prepared corpus; training reports if the two differ.

    Raises:
      DataError: if there is none, or it has more tokens than the model.
    """
    if cfg.tokenizer.kind == "file":
        tokenizer = tokenizers.from_file(cfg.tokenizer.path, cfg.tokenizer.pad_token, cfg.tokenizer.eos_token)
    elif cfg.tokenizer.kind == "sentencepiece" and cfg.data.sources[0].kind != "prepared":
        raise DataError(
            f"{source} has no tokenizer.json, and one trained on another corpus would not fit the model: "
            "give tokenizer.kind='file' and tokenizer.path, or tokenizer.kind='bytes'"
        )
    else:
        tokenizer = tokenizers.build(cfg)
    ours = vocabulary(cfg)
    if tokenizer.vocab_size > ours.size:
        raise DataError(
            f"{ours.field}={ours.size} is smaller than the tokenizer's {tokenizer.vocab_size}: the last tokens have no "
            f"embedding in {source} (a smaller tokenizer would be fine)"
        )
    check_vocabulary(cfg, tokenizer)
    return tokenizer


def special_names(source: AnyPath) -> dict[str, str]:
    """Returns pad_token and eos_token as far as the files beside tokenizer.json name them."""
    found: dict[str, str] = {}
    for name in record.BESIDE_THE_TOKENIZER:
        fields = read_json(source / name) if (source / name).is_file() else {}
        for key in ("pad_token", "eos_token"):
            token = fields.get(key)
            token = token.get("content") if isinstance(token, dict) else token
            if isinstance(token, str):
                found.setdefault(key, token)
    return found


def copy_files_beside(source: AnyPath, target: AnyPath) -> None:
    """Copies the files beside tokenizer.json."""
    for name in record.BESIDE_THE_TOKENIZER:
        if (source / name).is_file():
            storage.write_bytes(target / name, storage.read_bytes(source / name))
