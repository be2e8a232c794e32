"""Extraction of answers from generated text: where the answer ends, and which choice it means (SPEC 7)."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

from cola_jax.evaluate.normal_forms import NormalForm, published

LEAST_RATIO = 0.9  # least similarity of a choice to the generated text
SHORT = 40  # length of a text, in characters, up to which a bracketed letter alone is read as the choice
SAID = r"(?:\s*(?:is\b|=|:))?\s*"  # between "answer" and the answer
ANSWER = re.compile(rf"\b(?:final\s+)?answer\b{SAID}(.+)", re.IGNORECASE)
PREFIX = re.compile(rf"^(?:the\s+)?(?:correct\s+)?(?:final\s+)?(?:answer|option|choice)\b{SAID}", re.IGNORECASE)


def cut(text: str) -> str:
    """Returns `text` up to the first newline that has a word character before it."""
    written = re.search(r"\w", text)
    end = text.find("\n", written.start()) if written else -1
    return text if end < 0 else text[:end]


def first_word(text: str, normal: NormalForm = published) -> str:
    """Returns the first word of the normal form; "" if there is none."""
    return normal(text).partition(" ")[0]


def choice_of(text: str, choices: Sequence[str], normal: NormalForm = published) -> int | None:
    """Returns which of `choices` a text means, 0 being the first; None if it means none.

    Searches the text after the last "answer", then the whole text: for a letter, then for the text of a choice. If the
    normal form keeps signs, a text that is a choice is that choice before it is a letter; of equal choices it is the first.
    """
    exact = normal is not published
    if exact and (found := same(text, choices, normal)) is not None:
        return found
    for part in (answer_segment(text), text):
        letter = by_letter(part, choices)
        if letter is not None:
            return same(choices[letter], choices, normal) if exact else letter
        found = by_text(part, choices, normal)
        if found is not None:
            return found
    return None


def same(text: str, choices: Sequence[str], normal: NormalForm) -> int | None:
    """Returns the first of `choices` that has the normal form of `text`."""
    written = normal(text)
    return next((index for index, choice in enumerate(choices) if written and normal(choice) == written), None)


def answer_segment(text: str) -> str:
    """Returns the text after "answer" or "final answer" (is, =, :) on the last line that has it, else the whole text."""
    found = [match for line in text.splitlines() if (match := ANSWER.search(line))]
    return found[-1][1] if found else text


def by_letter(text: str, choices: Sequence[str]) -> int | None:
    """Returns the choice whose letter occurs alone, after "answer", "option" or "choice", or in brackets in a short text."""
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


def by_text(text: str, choices: Sequence[str], normal: NormalForm = published) -> int | None:
    """Returns the choice that a text repeats, with or without "the answer is" before it, alone contains, or nearly repeats."""
    forms = [normal(choice) for choice in choices]
    written = normal(text)
    for candidate in (written, normal(PREFIX.sub("", text.strip(), count=1))):
        if candidate and candidate in forms:
            return forms.index(candidate)
    holds = contains if normal is published else contains_whole
    inside = {form for form in forms if form and holds(written, form)}
    if len(inside) == 1 and (normal is not published or forms.count(*inside) == 1):
        return forms.index(*inside)
    return most_similar(text, choices, LEAST_RATIO, normal)


def contains(written: str, choice: str) -> bool:
    return choice in written


def contains_whole(written: str, choice: str) -> bool:
    """Whether a choice occurs in a text, other than as part of a longer number or before a sign: not 5 in -5, nor C in C++."""
    before = r"(?<![-+.,/\d])" if choice[0].isdigit() else ""
    behind = r"(?![+#%^*/\u00b0'\u2032]|[-.,]?\d)" if choice[-1].isalnum() else ""
    return re.search(before + re.escape(choice) + behind, written) is not None


def most_similar(text: str, choices: Sequence[str], least: float, normal: NormalForm = published) -> int | None:
    """Returns the choice of the highest Ratcliff-Obershelp ratio, the first of several; None below `least` or at 0."""
    written = normal(text)
    if not written:
        return None
    ratios = [difflib.SequenceMatcher(None, written, normal(choice)).ratio() for choice in choices]
    best = max(ratios, default=0.0)
    return ratios.index(best) if best >= least and best > 0 else None
