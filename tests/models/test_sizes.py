"""The exact parameter counts of the released sizes, by shapes alone."""

import jax
import numpy as np
import pytest
from tiny import replace

from cola_jax.config import RunConfig
from cola_jax.families import FAMILIES

ENCODER, DECODER, DIT = 250_896_416, 250_975_158, 1_829_875_728


def counts(cfg):
    shapes = jax.eval_shape(lambda: FAMILIES[cfg.family].objective.init(cfg, jax.random.PRNGKey(0)))
    return {group: sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree)) for group, tree in shapes.items()}


def test_the_default_config_has_the_released_sizes():
    assert counts(RunConfig()) == {"encoder": ENCODER, "decoder": DECODER, "dit": DIT}
    assert ENCODER + DECODER + DIT == 2_331_747_302
    assert counts(RunConfig(family="text_vae")) == {"encoder": ENCODER, "decoder": DECODER}


@pytest.mark.parametrize(("latent_dim", "dit"), [(64, 1_830_072_384), (128, 1_830_334_592)])
def test_wider_latents_add_to_the_ends_alone(latent_dim, dit):
    found = counts(replace(RunConfig(), vae__latent_dim=latent_dim))
    added = latent_dim - 16
    assert found == {"encoder": ENCODER + 2 * added * 1537, "decoder": DECODER + added * 1536, "dit": dit}
