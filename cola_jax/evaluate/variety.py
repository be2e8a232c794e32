"""Diversity of texts. An n-gram is n neighbouring words; words are separated by white space."""

from __future__ import annotations

from collections.abc import Sequence


def ngrams(text: str, n: int) -> list[tuple[str, ...]]:
    words = text.split()
    return [tuple(words[start : start + n]) for start in range(len(words) - n + 1)]


def distinct(texts: Sequence[str], n: int) -> float:
    """Returns the share of distinct n-grams among those of all texts; 0 if there are none."""
    found = [gram for text in texts for gram in ngrams(text, n)]
    return len(set(found)) / max(len(found), 1)


def self_repetition(texts: Sequence[str], n: int) -> float:
    """Returns the mean share of a text's n-grams that occur earlier in the same text; texts without n-grams are left out."""
    grams = [found for text in texts if (found := ngrams(text, n))]
    return sum(1 - len(set(found)) / len(found) for found in grams) / max(len(grams), 1)
