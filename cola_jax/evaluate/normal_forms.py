"""Normal forms: when two texts count as the same answer.

`published` is the normal form of the published numbers (SPEC 7): word characters and single spaces. It makes 3.14 and 314,
+ and -, C and C++ alike, and drops combining marks. `signed` keeps signs that carry meaning and ignores what surrounds a word:
quotes, brackets, the marks that end a clause, and case.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence

NormalForm = Callable[[str], str]

FOLDED = {
    "<wide>",
    "<narrow>",
    "<noBreak>",
    "<compat>",
    "<initial>",
    "<medial>",
    "<final>",
    "<isolated>",
}  # not <super>: 10²
DASHES = dict.fromkeys(map(ord, "\u2010\u2011\u2012\u2013\u2212"), "-")  # hyphens, en dash, minus; not longer dashes
QUOTES = {ord("\u2018"): "'", ord("\u2019"): "'", ord("\u201c"): '"', ord("\u201d"): '"'}
MEANT = set("%\u2030\u2031#&@*/\\\u2032\u2033\u00a7\u00b7")  # marks (Unicode Po) that are not sentence punctuation
AROUND = set("`\u2014\u2015")  # of other categories
EMPHASIS = re.compile(r"(?<![\w*])(\*{1,2})(?=[^\s*])(.+?)(?<=[^\s*])\1(?![\w*])")  # *this* and **this**
MINUS = re.compile(r"-+(?:[^\W\d_]{2}|$)")  # a leading hyphen is not a sign before a word or nothing
CUT_OFF = re.compile(r"[^\W\d_]{3}-$")  # a trailing hyphen is a charge only after the one or two letters of an element


def published(text: str) -> str:
    """Returns `text` in lower case, of word characters and single spaces alone."""
    return " ".join(re.sub(r"[^\w\s]", "", text.lower()).split())


def as_written(text: str) -> str:
    """Returns `text` in NFC with single spaces, without invisible characters."""
    visible = (c for c in unicodedata.normalize("NFC", text) if not _is_invisible(c))
    return " ".join("".join(visible).split())


def without_case(text: str) -> str:
    """Returns `as_written` in lower case, with variants of width, ligatures, dashes and quotes made one."""
    folded = "".join(map(_fold, as_written(text))).translate(DASHES).translate(QUOTES)
    return " ".join(unicodedata.normalize("NFC", folded.lower()).split())


def signed(text: str) -> str:
    """Returns `without_case` with every word stripped of surrounding marks; a text of punctuation alone is unchanged."""
    plain = without_case(text)
    words = [bare for word in EMPHASIS.sub(r"\2", plain).split() if (bare := _bare(word))]
    return " ".join(words) or plain


def signed_form(choices: Sequence[str]) -> NormalForm:
    """Returns the most tolerant of `signed`, `without_case` and `as_written` under which all choices differ.

    Choices that are the same text as written are one choice.
    """
    distinct = len(set(map(as_written, choices)))
    return next((form for form in (signed, without_case) if len(set(map(form, choices))) == distinct), as_written)


def _is_invisible(character: str) -> bool:
    return unicodedata.category(character) == "Cf" or "\ufe00" <= character <= "\ufe0f"


def _fold(character: str) -> str:
    kind = unicodedata.decomposition(character).partition(" ")[0]
    if (
        kind not in FOLDED or unicodedata.category(character) == "Sk"
    ):  # a spacing accent must not become space and accent
        return character
    return unicodedata.normalize("NFKC", character)


def _bare(word: str) -> str:
    """Returns a word without quotes, brackets and clause marks around it; a sign or point before a number stays."""
    while word and (_surrounds(word[0]) or MINUS.match(word)):
        if word[0] == "." and word[1:2].isdigit():
            break
        word = word[1:]
    while word and (_surrounds(word[-1]) or CUT_OFF.search(word)):
        word = word[:-1]
    return word


def _surrounds(character: str) -> bool:
    kind = unicodedata.category(character)
    return kind in ("Ps", "Pe", "Pi", "Pf") or character in AROUND or (kind == "Po" and character not in MEANT)
