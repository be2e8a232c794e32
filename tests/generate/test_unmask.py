"""What masks become depends on all of the prompt, and on nothing that it is padded with."""

import numpy as np
from tiny import config, parameters

from cola_jax.families import llada
from cola_jax.families.rows import RowOptions

LENGTH = 5  # of a prompt, padded to 16


def test_every_token_of_a_prompt_moves_what_is_written_and_its_padding_does_not():
    cfg = config(family="llada", sampling__max_new_tokens=3)
    params = parameters(cfg)
    prompts = np.random.default_rng(0).integers(0, 12, (24, LENGTH))
    write = lambda rows, *options: np.concatenate(
        [np.asarray(array) for _, array in llada.generate(cfg, params, rows.tolist(), RowOptions(*options))], axis=1
    )
    written = write(prompts, 0)
    np.testing.assert_array_equal(write(prompts, 7, 0, None, 48), written)
    for place in range(LENGTH):
        other = prompts.copy()
        other[:, place] = (other[:, place] + 1) % 12
        assert np.any(write(other, 0) != written), f"token {place} of {LENGTH}"
