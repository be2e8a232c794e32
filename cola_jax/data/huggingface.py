"""Tokenizers of a Hugging Face tokenizer.json, through the optional package `tokenizers`.

The file contains state that is not part of the mapping from text to ids: truncation, padding, dropout, and names of special
tokens that a text may contain. The copy used for encoding has none of it: lengths are unlimited, encoding is deterministic, and
special tokens are renamed, so that a text that spells `</s>` is encoded as those four characters.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from cola_jax import storage
from cola_jax.data.errors import DataError

UNSPELLABLE = "\ufdd0"  # a Unicode noncharacter, put before the names of special tokens: it does not occur in text
RANDOM = ("dropout", "alpha", "nbest_size")  # fields of a model that make encoding random


class HuggingFaceTokenizer:
    """A tokenizer.json; pad and end of document are found by name."""

    kind = "huggingface"

    def __init__(self, model: bytes, pad_token: str, eos_token: str, source: str):
        """Raises DataError if the package is missing, the file is not a tokenizer.json or lacks a special token."""
        try:
            import tokenizers
        except ImportError as error:
            message = f"{source}: a tokenizer.json needs the package tokenizers: pip install 'cola_jax[hf]'"
            raise DataError(message) from error
        tree = _tree(model, source)
        try:
            renamed = _rename_special(tree, (pad_token, eos_token))
            self._inner = tokenizers.Tokenizer.from_str(json.dumps(tree))
        except Exception as error:  # the package raises bare Exception, and any part of the tree may be of a wrong type
            raise DataError(f"{source} is not a Hugging Face tokenizer.json ({error})") from error
        self._inner.encode_special_tokens = True
        self.model = model
        self.special_names = (pad_token, eos_token)
        ids = self._inner.get_vocab(with_added_tokens=True).values()
        self.vocab_size = 1 + max(ids, default=-1)  # ids may have gaps
        self.pad_id = self._named("pad_token", renamed.get(pad_token, pad_token), source, tree)
        self.eos_id = self._named("eos_token", renamed.get(eos_token, eos_token), source, tree)
        self._unknown = self._unknown_id(tree["model"])
        self._alone: dict[str, bool] = {}  # whether a character alone has a token

    def _named(self, field: str, token: str, source: str, tree: dict[str, Any]) -> int:
        found = self._inner.token_to_id(token)
        if found is None:
            special = ", ".join(repr(one["content"].removeprefix(UNSPELLABLE)) for one in tree["added_tokens"])
            raise DataError(
                f"tokenizer.{field}={token.removeprefix(UNSPELLABLE)!r} is not in {source}: give the name of a token it has"
                f" ({special or 'none special'})"
            )
        return found

    def _unknown_id(self, model: dict[str, Any]) -> int | None:
        """Returns the id of the unknown token; None if unknown text is dropped, or is an error."""
        if model.get("type") == "Unigram" or "unk_id" in model:
            return model.get("unk_id")
        name = model.get("unk_token")
        return None if name is None else self._inner.token_to_id(name)

    def _encoding(self, text: str) -> Any:
        try:
            return self._inner.encode(text, add_special_tokens=False)
        except Exception as error:  # bare Exception, e.g. of a WordLevel model without an unknown token
            raise DataError(f"the tokenizer cannot encode {text[:40]!r}: {error}") from error

    def encode(self, text: str) -> list[int]:
        """Raises DataError if the tokenizer encodes `text` with a special token."""
        ids = self._encoding(text).ids
        if self.pad_id in ids or self.eos_id in ids:
            which = self.special_names[0] if self.pad_id in ids else self.special_names[1]
            raise DataError(
                f"the tokenizer encodes {text[:40]!r} with its special token {which!r}, e.g. for characters that it has"
                " no token for: give tokenizer.pad_token and eos_token that are not the unknown token"
            )
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        hidden = {self.pad_id, self.eos_id}
        kept = [int(i) for i in ids if int(i) not in hidden and 0 <= i < self.vocab_size]
        return self._inner.decode(kept, skip_special_tokens=True)

    def drops(self, text: str, ids: Sequence[int]) -> bool:
        if self._unknown is not None:
            return self._unknown in ids
        return any(not self._has_token(c) for c in set(text))

    def lost(self, text: str) -> str:
        try:
            encoding = self._encoding(text)
        except DataError:
            return text
        if self._unknown is None:  # a model that drops unknown text gives wrong offsets after it
            return "".join(c for c in dict.fromkeys(text) if not self._has_token(c))
        covered = np.zeros(len(text), bool)
        for index, (start, end) in zip(encoding.ids, encoding.offsets):
            covered[start:end] |= index != self._unknown
        return "".join(c for c, kept in zip(text, covered) if not kept and not c.isspace())

    def _has_token(self, character: str) -> bool:
        if character not in self._alone:
            self._alone[character] = character.isspace() or self._gives_ids(character)
        return self._alone[character]

    def _gives_ids(self, character: str) -> bool:
        try:
            return bool(self._encoding(character).ids)
        except DataError:  # a WordLevel model that raises for unknown words drops none
            return True


def _tree(model: bytes, source: str) -> dict[str, Any]:
    """Returns a tokenizer.json without the state that would change the encoding of a text."""
    tree = storage.parse_json(storage.decode(model, source), source)
    if not isinstance(tree, dict) or not isinstance(tree.get("model"), dict):
        plain = isinstance(tree, dict) and tree and all(isinstance(value, int) for value in tree.values())
        hint = ": a vocabulary alone, without the rules to use it; give the tokenizer.json" if plain else ""
        raise DataError(f"{source} is not a Hugging Face tokenizer.json{hint}")
    added = tree["added_tokens"] = tree.get("added_tokens") or []
    if not isinstance(added, list) or not all(
        isinstance(one, dict) and isinstance(one.get("content"), str) for one in added
    ):
        raise DataError(f"{source} is not a Hugging Face tokenizer.json: its added_tokens are damaged")
    tree["truncation"] = tree["padding"] = None
    for name in RANDOM:
        tree["model"].pop(name, None)
    return tree


def _rename_special(tree: dict[str, Any], names: Sequence[str]) -> dict[str, str]:
    """Renames the special tokens of `tree`, and those called `names`, in place; returns the new name of each.

    Added tokens that are not special stay tokens of text; none strips the spaces beside it.
    """
    for one in tree["added_tokens"]:
        one["special"] = bool(one.get("special")) or one["content"] in names
        if one["special"]:
            one["normalized"] = False
        else:
            one["lstrip"] = one["rstrip"] = False
    special = {one["content"] for one in tree["added_tokens"] if one["special"]} | set(names)
    renamed = {name: UNSPELLABLE + name for name in special}
    for one in tree["added_tokens"]:
        one["content"] = renamed.get(one["content"], one["content"])
    model = tree["model"]
    vocabulary = model.get("vocab")
    if isinstance(vocabulary, dict):
        model["vocab"] = {renamed.get(word, word): index for word, index in vocabulary.items()}
    elif isinstance(vocabulary, list):
        model["vocab"] = [[renamed.get(piece[0], piece[0]), *piece[1:]] for piece in vocabulary]
    if isinstance(model.get("unk_token"), str):
        model["unk_token"] = renamed.get(model["unk_token"], model["unk_token"])
    if isinstance(model.get("merges"), list):
        model["merges"] = [pair for pair in model["merges"] if not _makes(pair, special)]
    return renamed


def _makes(pair: Any, names: set[str]) -> bool:
    """Returns whether a BPE merge produces or consumes a token of `names`."""
    parts = pair.split(" ") if isinstance(pair, str) else list(pair)
    return "".join(parts) in names or not names.isdisjoint(parts)
