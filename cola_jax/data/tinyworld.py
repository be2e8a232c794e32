"""A small world whose short stories end with a question and the answer that their events entail.

Every story is a pure function of (seed, split, index). A hash of its text decides the split it may belong to, so the
streams of training and held-out stories are disjoint for all seeds. Words: tinyworld_words; forms: tinyworld_grammar;
what is possible: tinyworld_state; generation: tinyworld_draft; checking: tinyworld_check.
"""

from __future__ import annotations

import hashlib
import random
import re

from cola_jax.data.errors import DataError
from cola_jax.data.tinyworld_draft import draft
from cola_jax.data.tinyworld_words import word_class

__all__ = ["SPLITS", "answer_of", "prompt_of", "question_prompt", "split_of", "story", "word_class"]

SPLITS = ("train", "heldout")
HELDOUT_BYTES = 32  # of the 256 values of the first byte of a story's hash


def story(seed: int, split: str, index: int) -> str:
    """Returns story `index` of a stream: sentences, a question, "Answer:" and the answer, on one line.

    Raises:
      DataError: if `split` is not train or heldout.
    """
    if split not in SPLITS:
        raise DataError(f"split {split!r} of the small world is not one of {', '.join(SPLITS)}")
    rng = random.Random(f"tinyworld/{seed}/{split}/{index}")
    while True:
        text = draft(rng)
        if text and split_of(text) == split:
            return text


def split_of(text: str) -> str:
    """Returns the only split that may hold this story."""
    first = hashlib.blake2b(text.encode(), digest_size=1).digest()[0]
    return "heldout" if first < HELDOUT_BYTES else "train"


def prompt_of(text: str) -> str:
    """Returns the first sentences of a story, two if at least two more precede the question, else one."""
    told = re.findall(r"[^.]*\.", text[: text.index("?")])
    return "".join(told[: 2 if len(told) >= 4 else 1])


def question_prompt(text: str) -> str:
    """Returns a story up to and including "Answer:", so that the answer is the continuation."""
    return text[: text.index("Answer:") + len("Answer:")]


def answer_of(text: str) -> str:
    """Returns the text after "Answer:" in a story, e.g. "the kitchen."."""
    return text[len(question_prompt(text)) :].strip()
