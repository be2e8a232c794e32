"""Text <-> token ids: SentencePiece trained on the corpus, bytes, or an existing file.

A tokenizer is saved as tokenizer.json (kind, vocabulary size, ids of the special tokens, hash of the model) beside its
model file, so that a workdir or a prepared corpus contains its own tokenizer.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from cola_jax import storage
from cola_jax.config import RunConfig
from cola_jax.data import lossy_tokenizers
from cola_jax.data.errors import DataError, Warn, to_stderr
from cola_jax.data.files import given
from cola_jax.data.huggingface import HuggingFaceTokenizer
from cola_jax.data.sentencepieces import SentencePieceTokenizer, train_sentencepiece
from cola_jax.data.sources import open_source
from cola_jax.storage import AnyPath

META_NAME = "tokenizer.json"
META_VERSION = 1
UTF8_BOM = "\ufeff".encode()


class Tokenizer(Protocol):
    """The interface of a tokenizer.

    Attributes:
      kind: sentencepiece | bytes | huggingface.
      vocab_size: ids are 0 .. vocab_size - 1, special tokens included.
      pad_id: padding of rows; never part of a text.
      eos_id: ends a document.
      model: the bytes of the model file; empty if there is none.
      special_names: the names of pad and end of document in the model file.
    """

    kind: str
    vocab_size: int
    pad_id: int
    eos_id: int
    model: bytes
    special_names: tuple[str, str]

    def encode(self, text: str) -> list[int]:
        """Returns the ids of `text`, without special tokens; `decode` of them is `text` again."""

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of `ids`; special tokens and ids outside the vocabulary are left out."""

    def lost(self, text: str) -> str:
        """Returns the characters of `text` without a token; empty if `encode` keeps them all."""

    def drops(self, text: str, ids: Sequence[int]) -> bool:
        """Returns whether `ids`, those of `text`, leave out a character without a token; faster than `lost`."""


class BytesTokenizer:
    """The 256 byte values, then pad and end of document."""

    kind = "bytes"
    vocab_size = 258
    pad_id = 256
    eos_id = 257
    model = b""
    special_names = ("", "")

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(int(i) for i in ids if 0 <= i < 256).decode(errors="replace")

    def lost(self, text: str) -> str:
        return ""

    def drops(self, text: str, ids: Sequence[int]) -> bool:
        return False


class StreamDecoder:
    """Decodes a stream of ids into a stream of text, in whole characters.

    The pieces that `push` and `finish` return join to exactly `tokenizer.decode` of all ids. Decoders that change
    earlier output are an exception: some tokenizer.json drop a whole run of bytes if one of them is not UTF-8.
    """

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self._shown: list[int] = []  # ids whose text was returned already, kept as context of the next ones
        self._waiting: list[int] = []

    def push(self, ids: Sequence[int]) -> str:
        """Returns the text that `ids` complete; an incomplete character is held back until its other bytes arrive."""
        self._waiting += [int(i) for i in ids]
        text = self._new_text()
        if not text or text.endswith("\N{REPLACEMENT CHARACTER}"):
            return ""
        # What decodes to spaces alone is no context: a decoder that strips the start of a text would strip them again.
        self._shown = self._waiting if text.strip() else self._shown + self._waiting
        self._waiting = []
        return text

    def finish(self) -> str:
        """Returns the text held back, with U+FFFD for bytes that are not a complete character."""
        text = self._new_text()
        self._shown, self._waiting = [], []
        return text

    def _new_text(self) -> str:
        before = self._tokenizer.decode(self._shown)
        return self._tokenizer.decode(self._shown + self._waiting)[len(before) :]


def fingerprint(tokenizer: Tokenizer) -> str:
    """Returns a hash that is equal exactly for tokenizers that map text to the same ids."""
    names = [tokenizer.kind, tokenizer.vocab_size, tokenizer.pad_id, tokenizer.eos_id]
    return hashlib.sha256(json.dumps(names).encode() + tokenizer.model).hexdigest()[:16]


def build(cfg: RunConfig, workdir: str | AnyPath | None = None, warn: Warn = to_stderr) -> Tokenizer:
    """Returns the tokenizer of a run: the one in `workdir`, else that of a prepared corpus, else that
    of cfg.tokenizer.

    SentencePiece is trained on the training documents of the sources alone. A new tokenizer is saved in `workdir`.

    Args:
      warn: called with a line on the text that a tokenizer file changes, when it is loaded for the first time.

    Raises:
      DataError: if a file or the corpus cannot be used.
    """
    if workdir is not None and is_saved(workdir):
        return load(workdir)
    tokenizer = _make(cfg, warn)
    if workdir is not None:
        save(tokenizer, workdir)
    return tokenizer


def _make(cfg: RunConfig, warn: Warn) -> Tokenizer:
    prepared = [source for source in cfg.data.sources if source.kind == "prepared"]
    if prepared:
        return load(given(prepared[0].path[0]))
    if cfg.tokenizer.kind == "bytes":
        return BytesTokenizer()
    if cfg.tokenizer.kind == "file":
        tokenizer = from_file(cfg.tokenizer.path, cfg.tokenizer.pad_token, cfg.tokenizer.eos_token)
        changed = lossy_tokenizers.line_of(tokenizer, f"tokenizer.path={cfg.tokenizer.path}")
        if changed:
            warn(changed)
        return tokenizer
    return train_sentencepiece(_sample(cfg), cfg.tokenizer.vocab_size)


def _sample(cfg: RunConfig) -> Iterator[str]:
    """Yields tokenizer.training_documents training documents, from all sources by weight, spread over each."""
    total = sum(source.weight for source in cfg.data.sources)
    for source in cfg.data.sources:
        documents = open_source(cfg.data, source).train
        wanted = math.ceil(cfg.tokenizer.training_documents * source.weight / total)
        count = min(wanted, len(documents))
        yield from (documents[k * len(documents) // count] for k in range(count))


def from_file(path: str | AnyPath, pad_token: str, eos_token: str) -> Tokenizer:
    """Loads a SentencePiece .model or a Hugging Face tokenizer.json (recognised by its suffix or first character).

    Raises:
      DataError: if the file is missing, of another kind, or has no tokens of these names.
      StorageError: for scheme://, and a tokenizer.json that is not JSON.
    """
    path = storage.path(path, "tokenizer.path")
    if not path.is_file():
        raise DataError(f"tokenizer.path={str(path)!r} is not a file: give a SentencePiece .model or a tokenizer.json")
    model = storage.read_bytes(path)
    if path.suffix.lower() == ".json" or model.removeprefix(UTF8_BOM).lstrip().startswith(b"{"):
        return HuggingFaceTokenizer(model, pad_token, eos_token, str(path))
    return SentencePieceTokenizer(model, pad_token, eos_token, str(path))


def files_of(tokenizer: Tokenizer) -> dict[str, bytes]:
    """Returns {name: bytes} of the files of a saved tokenizer; tokenizer.json comes last."""
    model_name = {"sentencepiece": "tokenizer.model", "huggingface": "tokenizer.hf.json", "bytes": ""}[tokenizer.kind]
    meta = {
        "version": META_VERSION,
        "kind": tokenizer.kind,
        "vocab_size": tokenizer.vocab_size,
        "pad_id": tokenizer.pad_id,
        "eos_id": tokenizer.eos_id,
        "model": model_name,
        "fingerprint": fingerprint(tokenizer),
        "special_names": tokenizer.special_names,
    }
    model = {model_name: tokenizer.model} if model_name else {}
    return model | {META_NAME: storage.to_json(meta)}


def save(tokenizer: Tokenizer, folder: str | AnyPath) -> None:
    """Writes tokenizer.json and the model file into `folder`; tokenizer.json comes last, each in one rename."""
    folder = storage.path(folder)
    storage.make_folder(folder)
    for name, content in files_of(tokenizer).items():
        storage.write_bytes(folder / name, content)


def is_saved(folder: str | AnyPath) -> bool:
    """Returns whether `folder` holds a saved tokenizer."""
    return (storage.path(folder) / META_NAME).is_file()


def load(folder: str | AnyPath) -> Tokenizer:
    """Reads what `save` wrote.

    Raises:
      DataError: if it is missing, damaged, of another version, or its model is not the one it was saved with.
    """
    path = storage.path(folder) / META_NAME
    if not path.is_file():
        raise DataError(f"{path} is missing: this folder has no tokenizer")
    meta = _saved_meta(path)
    if meta["kind"] == "bytes":
        return BytesTokenizer()
    model = path.parent / meta["model"]
    if not model.is_file():
        raise DataError(f"{model} is missing, though {path} names it")
    kinds = {"sentencepiece": SentencePieceTokenizer, "huggingface": HuggingFaceTokenizer}
    tokenizer = kinds[meta["kind"]](storage.read_bytes(model), *meta["special_names"], str(model))
    if fingerprint(tokenizer) != meta["fingerprint"]:
        raise DataError(f"{model} is not the model that {path} was saved with")
    return tokenizer


def _saved_meta(path: AnyPath) -> dict[str, Any]:
    """Returns the content of a tokenizer.json of `save`, checked as far as `load` reads it."""
    meta = storage.read_json(path)
    version = meta.get("version") if isinstance(meta, dict) else None
    if version != META_VERSION:
        raise DataError(f"{path} has version {version!r}, this program reads {META_VERSION}")
    names = meta.get("special_names")
    whole = (
        meta.get("kind") in ("bytes", "sentencepiece", "huggingface")
        and all(isinstance(meta.get(name), str) for name in ("model", "fingerprint"))
        and isinstance(names, list)
        and len(names) == 2
        and all(isinstance(name, str) for name in names)
    )
    if not whole:
        raise DataError(f"{path} lacks fields of a saved tokenizer, or they are damaged: restore it from a copy")
    return meta
