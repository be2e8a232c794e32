"""Text that a tokenizer changes, found by encoding and decoding probes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cola_jax.data.errors import DataError

if TYPE_CHECKING:
    from cola_jax.data.tokenizers import Tokenizer

# Each probe tests one property. They use few letters, because a WordLevel vocabulary may lack other words.
PROBES = {
    "the spaces between words": ("a b",),
    "newlines": ("a\nb", "a\n\nb\n"),
    "carriage returns": ("a\r\nb",),
    "tabs": ("a\tb",),
    "runs of spaces": ("a  b   a",),
    "spaces at the start or end": (" a", "a "),
    "capital letters": ("A b", "AB"),
    "accents": ("é", "e\u0301"),
    "compatibility characters (ligatures, full width, superscripts)": ("ﬁ", "Ａ", "a²"),
    "control and zero-width characters": ("a\x07b", "a\u200bb"),
    "no-break spaces": ("a\u00a0b",),
    "the sign \u2581": ("a\u2581b",),
    "spaces beside punctuation": ("a , b .", "a n't"),
    "characters of other scripts": ("数", "д"),
    "emoji": ("\U0001f600",),
}


def losses(tokenizer: Tokenizer) -> list[str]:
    """Returns the kinds of text that do not survive encoding and decoding."""
    return [name for name, probes in PROBES.items() if not all(_comes_back(tokenizer, text) for text in probes)]


def line_of(tokenizer: Tokenizer, source: str) -> str:
    """Returns one line on what `tokenizer` changes in text; empty if it changes nothing."""
    changed = losses(tokenizer)
    return f"{source} does not restore every text: it loses or changes {', '.join(changed)}" if changed else ""


def _comes_back(tokenizer: Tokenizer, text: str) -> bool:
    try:
        return tokenizer.decode(tokenizer.encode(text)) == text
    except DataError:
        return False
