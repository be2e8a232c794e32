"""Text <-> token ids: SentencePiece trained on the corpus, bytes, or an existing file.

A tokenizer is saved as tokenizer.json (kind, vocabulary size, ids of the special tokens, hash of the model) beside its
model file, so that a workdir or a prepared corpus carries the one it was made with.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from cola_jax.config import RunConfig
from cola_jax.data.errors import DataError
from cola_jax.data.sentencepieces import SentencePieceTokenizer, train_sentencepiece
from cola_jax.data.sources import open_source

META_NAME = "tokenizer.json"
META_VERSION = 1


class Tokenizer(Protocol):
    """What a tokenizer is to the rest of the project.

    Attributes:
      kind: sentencepiece | bytes | huggingface.
      vocab_size: ids are 0 .. vocab_size - 1, special tokens included.
      pad_id: fills rows; never part of a text.
      eos_id: ends a document.
      model: the bytes of the model file; empty where there is none.
      special_names: how the model file calls pad and end of document.
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
        """Returns the characters of `text` that no token stands for; empty where `encode` keeps them all."""


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


class HuggingFaceTokenizer:
    """A tokenizer.json of the optional package `tokenizers`; special tokens are found by name."""

    kind = "huggingface"

    def __init__(self, model: bytes, pad_token: str, eos_token: str, source: str):
        """Raises DataError where the package is missing, the file is none of its kind or a special token is absent."""
        try:
            import tokenizers
        except ImportError as error:
            message = f"{source}: a tokenizer.json needs the package tokenizers: pip install 'cola_jax[hf]'"
            raise DataError(message) from error
        try:
            self._inner = tokenizers.Tokenizer.from_str(model.decode())
        except Exception as error:  # the package raises bare Exception
            raise DataError(f"{source} is not a Hugging Face tokenizer.json ({error})") from error
        self.model = model
        self.special_names = (pad_token, eos_token)
        self.vocab_size = 1 + max(
            self._inner.get_vocab(with_added_tokens=True).values(), default=-1
        )  # ids may have gaps
        self.pad_id = self._named("pad_token", pad_token, source)
        self.eos_id = self._named("eos_token", eos_token, source)

    def _named(self, field: str, token: str, source: str) -> int:
        found = self._inner.token_to_id(token)
        if found is None:
            special = ", ".join(repr(t.content) for _, t in sorted(self._inner.get_added_tokens_decoder().items()))
            raise DataError(
                f"tokenizer.{field}={token!r} is not in {source}: give the name of a token it has ({special or 'none special'})"
            )
        return found

    def encode(self, text: str) -> list[int]:
        """Raises DataError where the tokenizer has no way to encode `text`."""
        try:
            return self._inner.encode(text, add_special_tokens=False).ids
        except (
            Exception
        ) as error:  # the package raises bare Exception, e.g. a word list without a token for unknown words
            raise DataError(f"the tokenizer cannot encode {text[:40]!r}: {error}") from error

    def decode(self, ids: Sequence[int]) -> str:
        hidden = {self.pad_id, self.eos_id}
        kept = [int(i) for i in ids if int(i) not in hidden and 0 <= i < self.vocab_size]
        return self._inner.decode(kept, skip_special_tokens=True)

    def lost(self, text: str) -> str:
        try:
            encoding = self._inner.encode(text, add_special_tokens=False)
        except Exception:  # as in `encode`
            return text
        unknown = getattr(self._inner.model, "unk_token", None)
        if unknown is None:  # such a model drops what it has no token for, and what follows loses its place
            alone = lambda c: self._inner.encode(c, add_special_tokens=False).ids
            return "".join(c for c in dict.fromkeys(text) if not c.isspace() and not alone(c))
        covered = np.zeros(len(text), bool)
        for token, (start, end) in zip(encoding.tokens, encoding.offsets):
            covered[start:end] |= token != unknown
        return "".join(c for c, kept in zip(text, covered) if not kept and not c.isspace())


class StreamDecoder:
    """Turns ids that arrive in pieces into text that arrives in pieces, never half a character.

    The pieces that `push` and `finish` return join to exactly `tokenizer.decode` of all ids.
    """

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self._shown: list[int] = []  # ids whose text is out already, kept as context of the next ones
        self._waiting: list[int] = []

    def push(self, ids: Sequence[int]) -> str:
        """Returns the text that `ids` complete; an unfinished character waits for its other bytes."""
        self._waiting += [int(i) for i in ids]
        text = self._new_text()
        if not text or text.endswith("\N{REPLACEMENT CHARACTER}"):
            return ""
        self._shown, self._waiting = self._waiting, []
        return text

    def finish(self) -> str:
        """Returns what still waits, with U+FFFD for bytes that never became a character."""
        text = self._new_text()
        self._shown, self._waiting = [], []
        return text

    def _new_text(self) -> str:
        before = self._tokenizer.decode(self._shown)
        return self._tokenizer.decode(self._shown + self._waiting)[len(before) :]


def fingerprint(tokenizer: Tokenizer) -> str:
    """Returns a hash that two tokenizers share exactly if they map text to the same ids."""
    names = [tokenizer.kind, tokenizer.vocab_size, tokenizer.pad_id, tokenizer.eos_id]
    return hashlib.sha256(json.dumps(names).encode() + tokenizer.model).hexdigest()[:16]


def build(cfg: RunConfig, workdir: str | Path | None = None) -> Tokenizer:
    """Returns the tokenizer of a run: the one `workdir` carries, else that of a prepared corpus, else what cfg.tokenizer says.

    SentencePiece is trained on the training documents of the sources alone. A new tokenizer is saved in `workdir`.

    Raises:
      DataError: where a file or the corpus cannot be used.
    """
    if workdir is not None and is_saved(workdir):
        return load(workdir)
    tokenizer = _make(cfg)
    if workdir is not None:
        save(tokenizer, workdir)
    return tokenizer


def _make(cfg: RunConfig) -> Tokenizer:
    prepared = [source for source in cfg.data.sources if source.kind == "prepared"]
    if prepared:
        return load(prepared[0].path[0])
    if cfg.tokenizer.kind == "bytes":
        return BytesTokenizer()
    if cfg.tokenizer.kind == "file":
        return from_file(cfg.tokenizer.path, cfg.tokenizer.pad_token, cfg.tokenizer.eos_token)
    return train_sentencepiece(_sample(cfg), cfg.tokenizer.vocab_size)


def _sample(cfg: RunConfig) -> Iterator[str]:
    """Yields tokenizer.training_documents training documents, from all sources by weight, spread over each."""
    total = sum(source.weight for source in cfg.data.sources)
    for source in cfg.data.sources:
        documents = open_source(cfg.data, source).train
        wanted = math.ceil(cfg.tokenizer.training_documents * source.weight / total)
        count = min(wanted, len(documents))
        yield from (documents[k * len(documents) // count] for k in range(count))


def from_file(path: str | Path, pad_token: str, eos_token: str) -> Tokenizer:
    """Loads a SentencePiece .model or a Hugging Face tokenizer.json (told apart by its ending).

    Raises:
      DataError: where the file is missing, of another kind, or has no tokens of these names.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"tokenizer.path={str(path)!r} is not a file: give a SentencePiece .model or a tokenizer.json")
    if path.suffix == ".json":
        return HuggingFaceTokenizer(path.read_bytes(), pad_token, eos_token, str(path))
    return SentencePieceTokenizer(path.read_bytes(), pad_token, eos_token, str(path))


def save(tokenizer: Tokenizer, folder: str | Path) -> None:
    """Writes tokenizer.json and the model file into `folder`; tokenizer.json comes last, in one rename."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    model_name = {"sentencepiece": "tokenizer.model", "huggingface": "tokenizer.hf.json", "bytes": ""}[tokenizer.kind]
    if model_name:
        _write(folder / model_name, tokenizer.model)
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
    _write(folder / META_NAME, (json.dumps(meta, indent=1) + "\n").encode())


def _write(path: Path, content: bytes) -> None:
    """Writes in one rename, so that hosts that share the folder cannot see each other's half files."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        file.write(content)
    os.chmod(file.name, 0o644)
    os.replace(file.name, path)


def is_saved(folder: str | Path) -> bool:
    """Returns whether `folder` holds a saved tokenizer."""
    return (Path(folder) / META_NAME).is_file()


def load(folder: str | Path) -> Tokenizer:
    """Reads what `save` wrote.

    Raises:
      DataError: where it is missing, of another version, or its model is not the one it was saved with.
    """
    path = Path(folder) / META_NAME
    if not path.is_file():
        raise DataError(f"{path} is missing: this folder carries no tokenizer")
    meta = json.loads(path.read_text())
    if meta.get("version") != META_VERSION:
        raise DataError(f"{path} has version {meta.get('version')!r}, this program reads {META_VERSION}")
    if meta["kind"] == "bytes":
        return BytesTokenizer()
    model = path.parent / meta["model"]
    if not model.is_file():
        raise DataError(f"{model} is missing, though {path} names it")
    kinds = {"sentencepiece": SentencePieceTokenizer, "huggingface": HuggingFaceTokenizer}
    tokenizer = kinds[meta["kind"]](model.read_bytes(), *meta["special_names"], str(model))
    if fingerprint(tokenizer) != meta["fingerprint"]:
        raise DataError(f"{model} is not the model that {path} was saved with")
    return tokenizer
