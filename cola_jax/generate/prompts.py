"""Prompts of any length as one batch of whole blocks (SPEC 3.1). Axes: B batch, L padded tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from cola_jax.errors import UserError

PROMPT_MULTIPLE = 16  # rows of tokens are padded to a multiple, so that many lengths share a program
Place = Callable[[Any], Any]  # puts an array whose leading axis is rows on devices


class PromptError(UserError):
    """A prompt that cannot be continued; the message says which one and why."""


class PromptBatch(NamedTuple):
    """Padded prompts.

    Attributes:
      tokens: (B, L) int32, L a multiple of the P * S tokens of a block.
      known: (B,) int32, latents of each row that hold a prompt token.
      trim: (B,) int32, prompt tokens in the first generated block, which its output repeats.
    """

    tokens: np.ndarray
    known: np.ndarray
    trim: np.ndarray


def pad_prompts(
    prompts: Sequence[Sequence[int]],
    *,
    patch_size: int,
    block_size: int,
    pad_id: int,
    vocab_size: int,
    first_block: str = "clean",
    blocks: int = 0,
) -> PromptBatch:
    """Pads token prompts to whole blocks.

    Args:
      first_block: clean and repaint keep the last, partly filled block to be completed; right_pad counts its padding as
        prompt; left_pad moves the padding to the front (Table 5).
      blocks: pad every row to at least this many blocks, so that batches share a compiled program.

    Raises:
      PromptError: for no prompts at all, or a token that is not in the vocabulary.
    """
    if not prompts:
        raise PromptError("no prompts were given")
    for row, prompt in enumerate(prompts):
        wrong = [token for token in prompt if not 0 <= token < vocab_size]
        if wrong:
            raise PromptError(f"prompt {row} has token {wrong[0]}, outside the model's vocabulary of {vocab_size}")
    span = patch_size * block_size
    longest = max(-(-len(prompt) // span) for prompt in prompts)
    tokens = np.full((len(prompts), max(longest, blocks, 1) * span), pad_id, np.int32)
    known, trim = np.zeros(len(prompts), np.int32), np.zeros(len(prompts), np.int32)
    for row, prompt in enumerate(prompts):
        whole = -(-len(prompt) // span) * span
        start = whole - len(prompt) if first_block == "left_pad" else 0
        tokens[row, start : start + len(prompt)] = prompt
        if first_block in ("left_pad", "right_pad"):
            known[row] = whole // patch_size
        else:
            known[row] = -(-len(prompt) // patch_size)
            trim[row] = len(prompt) - known[row] // block_size * span if known[row] % block_size else 0
    return PromptBatch(tokens, known, trim)


def pad_tokens(
    texts: Sequence[Sequence[int]], *, pad_id: int, vocab_size: int, least: int = 0, empty: str = ""
) -> PromptBatch:
    """Pads texts of a family without latents or blocks to rows of one length, at least `least` tokens.

    Args:
      empty: the error message for an empty text; by default it is allowed.

    Raises:
      PromptError: see `pad_prompts`; and for an empty text if `empty` is given.
    """
    batch = pad_prompts(
        texts, patch_size=1, block_size=PROMPT_MULTIPLE, pad_id=pad_id, vocab_size=vocab_size,
        blocks=-(-least // PROMPT_MULTIPLE),
    )  # fmt: skip
    rows = [row for row, text in enumerate(texts) if not len(text)] if empty else []
    if rows:
        raise PromptError(f"prompt {rows[0]} is empty: {empty}")
    return batch


def join_answers(prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]) -> list[list[int]]:
    """Returns each prompt followed by its answer.

    Raises:
      PromptError: for an empty answer, which has no likelihood.
    """
    empty = [row for row, answer in enumerate(answers) if not len(answer)]
    if empty:
        raise PromptError(f"answer {empty[0]} is empty: it has no likelihood")
    return [[*prompt, *answer] for prompt, answer in zip(prompts, answers, strict=True)]
