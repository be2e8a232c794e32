"""What a generated text answers: where the answer ends, its normal form, and which choice it means (SPEC 7)."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

LEAST_RATIO = 0.9  # of a choice that is only similar to what was written
SHORT = 40  # characters of a text in which a bracketed letter alone is taken for the choice
SAID = r"(?:\s*(?:is\b|=|:))?\s*"  # between "answer" and the answer
ANSWER = re.compile(rf"\b(?:final\s+)?answer\b{SAID}(.+)", re.IGNORECASE)
PREFIX = re.compile(rf"^(?:the\s+)?(?:correct\s+)?(?:final\s+)?(?:answer|option|choice)\b{SAID}", re.IGNORECASE)


def cut(text: str) -> str:
    """Returns `text` up to the first newline that has a word character before it."""
    written = re.search(r"\w", text)
    end = text.find("\n", written.start()) if written else -1
    return text if end < 0 else text[:end]


def normalized(text: str) -> str:
    """Returns `text` in lower case, of word characters and single spaces alone."""
    return " ".join(re.sub(r"[^\w\s]", "", text.lower()).split())


def first_word(text: str) -> str:
    """Returns the first word of the normal form; "" where there is none."""
    return normalized(text).partition(" ")[0]


def choice_of(text: str, choices: Sequence[str]) -> int | None:
    """Returns which of `choices` a text means, 0 being the first; None where it means none.

    Looks in what follows the last "answer", then in the whole text: for a letter, then for the text of a choice.
    """
    for part in (answer_segment(text), text):
        for find in (by_letter, by_text):
            found = find(part, choices)
            if found is not None:
                return found
    return None


def answer_segment(text: str) -> str:
    """Returns what follows "answer" or "final answer" (is, =, :) on the last line that has it, else the whole text."""
    found = [match for line in text.splitlines() if (match := ANSWER.search(line))]
    return found[-1][1] if found else text


def by_letter(text: str, choices: Sequence[str]) -> int | None:
    """Returns the choice whose letter stands alone, behind "answer", "option" or "choice", or in brackets in a short text."""
    letters = "".join(chr(ord("A") + index) for index in range(len(choices)))
    one = f"([{letters}{letters.lower()}])"
    text = text.strip()
    found = re.findall(rf"^[(\[]?{one}[)\]]?\.?$", text)
    found = found or re.findall(
        rf"\b(?:final\s+answer|answer|option|choice){SAID}[(\[]?{one}(?!\w)", text, re.IGNORECASE
    )
    if not found and len(text) <= SHORT:
        found = re.findall(rf"[(\[]{one}[)\]]", text)
    return letters.index(found[-1].upper()) if found else None


def by_text(text: str, choices: Sequence[str]) -> int | None:
    """Returns the choice that a text repeats, with or without "the answer is" before it, alone contains, or nearly repeats."""
    normal = [normalized(choice) for choice in choices]
    written = normalized(text)
    for candidate in (written, normalized(PREFIX.sub("", text.strip(), count=1))):
        if candidate and candidate in normal:
            return normal.index(candidate)
    inside = [index for index, choice in enumerate(normal) if choice and choice in written]
    if len(inside) == 1:
        return inside[0]
    return most_similar(text, choices, LEAST_RATIO)


def most_similar(text: str, choices: Sequence[str], least: float) -> int | None:
    """Returns the choice of the highest Ratcliff-Obershelp ratio, the first of several; None below `least` and at 0."""
    written = normalized(text)
    if not written:
        return None
    ratios = [difflib.SequenceMatcher(None, written, normalized(choice)).ratio() for choice in choices]
    best = max(ratios, default=0.0)
    return ratios.index(best) if best >= least and best > 0 else None
