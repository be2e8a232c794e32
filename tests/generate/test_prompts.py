"""Prompts of any length as whole blocks. Here a block is 4 latents; pad is 9."""

import numpy as np
import pytest

from cola_jax.generate.prompts import PromptError, pad_prompts

SIZES = {"block_size": 4, "pad_id": 9, "vocab_size": 10}


def pad(*lengths, patch_size=1, first_block="clean", blocks=0):
    prompts = [list(range(1, 9)) * 4 for _ in lengths]
    prompts = [prompt[:length] for prompt, length in zip(prompts, lengths)]
    return pad_prompts(prompts, patch_size=patch_size, first_block=first_block, blocks=blocks, **SIZES)


@pytest.mark.parametrize("first_block", ["clean", "repaint"])
def test_a_prompt_that_ends_inside_a_block_leaves_it_to_be_completed(first_block):
    batch = pad(3, 8, 6, 0, first_block=first_block)
    assert batch.tokens.shape == (4, 8)
    assert batch.known.tolist() == [3, 8, 6, 0]
    assert batch.trim.tolist() == [3, 0, 2, 0]
    np.testing.assert_array_equal(batch.tokens[0], [1, 2, 3, 9, 9, 9, 9, 9])


def test_right_padding_counts_as_prompt():
    batch = pad(3, 8, 6, first_block="right_pad")
    assert (batch.known.tolist(), batch.trim.tolist()) == ([4, 8, 8], [0, 0, 0])
    np.testing.assert_array_equal(batch.tokens[2], [1, 2, 3, 4, 5, 6, 9, 9])


def test_left_padding_moves_the_prompt_to_the_end_of_its_own_blocks():
    batch = pad(3, 8, 6, first_block="left_pad")
    assert (batch.known.tolist(), batch.trim.tolist()) == ([4, 8, 8], [0, 0, 0])
    np.testing.assert_array_equal(batch.tokens[0], [9, 1, 2, 3, 9, 9, 9, 9])
    np.testing.assert_array_equal(batch.tokens[2], [9, 9, 1, 2, 3, 4, 5, 6])


@pytest.mark.parametrize(
    ("length", "known", "trim"), [(8, 4, 0), (7, 4, 0), (9, 5, 1), (10, 5, 2), (13, 7, 5), (1, 1, 1), (6, 3, 6)]
)
def test_a_latent_is_known_if_any_of_its_tokens_is_real(length, known, trim):
    batch = pad(length, patch_size=2)
    assert (batch.known.tolist(), batch.trim.tolist()) == ([known], [trim])
    assert batch.tokens.shape[1] % 8 == 0


def test_batches_can_be_padded_to_a_common_number_of_blocks():
    assert pad(3, blocks=5).tokens.shape == (1, 20)
    assert pad(18, blocks=2).tokens.shape == (1, 20)
    assert pad(0).tokens.shape == (1, 4)


def test_what_cannot_be_continued_is_refused_with_its_number():
    with pytest.raises(PromptError, match="no prompts were given"):
        pad_prompts([], patch_size=1, **SIZES)
    for token in (10, -1):
        with pytest.raises(PromptError, match=f"prompt 1 has token {token}, outside the model's vocabulary of 10"):
            pad_prompts([[1], [2, token]], patch_size=1, **SIZES)
