"""The block loop: what a row's text depends on, and what a prompt that ends inside a block keeps.

Axes: B rows, S = 4 latents per block.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.errors import ScopeParamShapeError
from tiny import close, config, parameters

from cola_jax.config import ConfigError
from cola_jax.families import cola
from cola_jax.families.rows import RowOptions
from cola_jax.generate import blocks
from cola_jax.models import build
from cola_jax.models.text_vae import from_prior, to_prior

PROMPTS = [[1, 2, 3, 4, 5, 6], [7, 8, 9, 10], [], [11, 3, 3, 2, 0, 1, 5]]
FIRST_BLOCKS = ("clean", "repaint", "left_pad", "right_pad")
CLEAN_QUICK = [name if name == "clean" else pytest.param(name, marks=pytest.mark.slow) for name in FIRST_BLOCKS]
SMALL = {"dit__num_layers": 2, "vae__encoder_blocks": 1, "vae__decoder_blocks": 1, "sampling__max_new_tokens": 6}


@functools.cache
def setup(**changes):
    cfg = config(**SMALL, **changes)
    return cfg, parameters(cfg)


def write(prompts=PROMPTS, seed=0, fields=(), samples=None, prompt_tokens=0, **arguments):
    """The tokens of every row, and latents (blocks, B, S, C)."""
    cfg, params = setup(**{f"sampling__{name}": value for name, value in fields})
    rows, latents = [[] for _ in prompts], []
    options = RowOptions(12, seed, samples, prompt_tokens)
    for new, block in cola.generate(cfg, params, prompts, options, **arguments):
        rows = [row + more for row, more in zip(rows, new)]
        latents.append(np.asarray(block.latents))
    return rows, np.stack(latents)


@functools.cache
def written(*fields):
    return write(fields=fields)


DRAWN = ("temperature", 1.0)


@pytest.mark.parametrize("first_block", CLEAN_QUICK)
def test_a_row_depends_on_its_prompt_seed_and_number_and_not_on_the_batch(first_block):
    fields = (DRAWN, ("first_block", first_block))
    together, latents = written(*fields)
    for row in (0, 1):
        alone, latents_alone = write([PROMPTS[row]], fields=fields, samples=[row], prompt_tokens=8)
        close(latents_alone[:, 0], latents[: len(latents_alone), row], atol=1e-4)
        assert alone[0][:6] == together[row][:6]


def test_every_row_and_block_starts_from_noise_of_its_own():
    """Seen through a network whose velocity is 0, which leaves the noise as it is."""
    cfg, params = setup()
    still = params | {"dit": params["dit"] | {"output": jax.tree.map(jnp.zeros_like, params["dit"]["output"])}}
    prompts = [[1, 2, 3, 4]] * 4

    def noise(seed, samples):
        blocks = cola.generate(cfg, still, prompts, RowOptions(12, seed, samples))
        return np.stack([np.asarray(block.latents) for _, block in blocks])

    first, other = noise(0, [0, 1, 0, 5]), noise(1, [0, 1, 0, 5])
    np.testing.assert_array_equal(first[:, 0], first[:, 2])
    drawn = np.concatenate([x[:, [0, 1, 3]].reshape(-1, 16) for x in (first, other)])
    assert np.all(np.abs(np.corrcoef(drawn) - np.eye(len(drawn))) < 0.9)
    assert abs(drawn.std() - 1.0) < 0.2


def test_given_noise_takes_the_place_of_the_seed():
    _, latents = written()
    draw = lambda row, block: jax.random.fold_in(jax.random.fold_in(jax.random.PRNGKey(0), row), block)
    noise = jnp.stack(
        [jnp.stack([jax.random.normal(draw(row, block), (4, 4)) for row in range(4)]) for block in range(3)]
    )
    close(write(seed=5, noise=noise)[1], latents, atol=1e-5)
    assert np.abs(write(seed=0, noise=-noise)[1] - latents).max() > 0.1


@pytest.mark.parametrize("first_block", ["clean", "repaint"])
def test_known_latents_of_the_first_block_stay_those_of_the_prompt(first_block):
    _, latents = written(DRAWN, ("first_block", first_block))
    cfg, params = setup()
    for row, start in ((0, 4), (3, 4)):
        prompt = jnp.asarray([PROMPTS[row]])
        place = jnp.arange(prompt.shape[1])[None]
        mean = build.encoder(cfg).apply({"params": params["encoder"]}, prompt, place, None).mean
        known = len(PROMPTS[row]) - start
        close(latents[0, row, :known], np.asarray(to_prior(cfg.vae, mean))[0, start:], atol=1e-4)


@pytest.mark.parametrize("first_block", FIRST_BLOCKS)
def test_a_row_has_at_least_the_tokens_asked_for_and_none_of_its_prompt(first_block):
    tokens, latents = written(DRAWN, ("first_block", first_block))
    trims = [2, 0, 0, 3] if first_block in ("clean", "repaint") else [0] * 4
    assert len(latents) == -(-(6 + max(trims)) // 4)
    assert [len(row) for row in tokens] == [4 * len(latents) - trim for trim in trims]
    assert all(0 <= token < 13 for row in tokens for token in row)


def test_ways_to_start_inside_a_block_differ_there_and_nowhere_else():
    first = {way: written(DRAWN, ("first_block", way))[1][0] for way in FIRST_BLOCKS}
    for way in FIRST_BLOCKS:
        for other in FIRST_BLOCKS[: FIRST_BLOCKS.index(way)]:
            assert np.abs(first[way][0] - first[other][0]).max() > 1e-3
            close(first[way][1:3], first[other][1:3], atol=1e-4)


@pytest.mark.slow
def test_repainting_more_often_or_longer_changes_the_block():
    often = written(DRAWN, ("first_block", "repaint"))[1][0]
    once = written(DRAWN, ("first_block", "repaint"), ("repaint_rounds", 1))[1][0]
    brief = written(DRAWN, ("first_block", "repaint"), ("repaint_time", 1.0))[1][0]
    assert np.abs(often - once)[0, 2:].max() > 1e-3 and np.abs(often - brief)[0, 2:].max() > 1e-3
    close(often[1:3], once[1:3], atol=1e-4)


@pytest.mark.slow
def test_solvers_and_steps_differ():
    latents = [
        written()[1],
        *(written(("solver", solver))[1] for solver in ("midpoint", "heun")),
        written(("steps", 3))[1],
    ]
    for i, one in enumerate(latents):
        assert np.all(np.isfinite(one))
        for other in latents[:i]:
            assert np.abs(one - other)[0].max() > 1e-3


def test_guidance_of_1_is_no_guidance_and_other_scales_differ():
    unguided, barely = written(("guidance", 1.0))[1], written(("guidance", 1.000001))[1]
    close(unguided, barely, atol=1e-3)
    assert np.abs(unguided - written()[1])[0, [0, 1, 3]].min(axis=(1, 2)).max() > 1e-4


def test_guidance_does_nothing_where_nothing_stands_before_the_block():
    unguided, guided = written(("guidance", 1.0))[1], written()[1]
    close(unguided[0, 2], guided[0, 2], atol=1e-5)
    assert np.abs(unguided[1, 2] - guided[1, 2]).max() > 1e-3


def test_tokens_are_decoded_from_the_latents_behind_those_of_the_prompt():
    cfg, params = setup()
    prompt = [7, 8, 9, 10]
    [(new, block)] = cola.generate(cfg, params, [prompt], RowOptions(12), blocks=1)
    place = jnp.arange(8)[None]
    mean = build.encoder(cfg).apply({"params": params["encoder"]}, jnp.asarray([prompt]), place[:, :4], None).mean
    row = jnp.concatenate([mean, from_prior(cfg.vae, block.latents)], axis=1)
    logits = build.decoder(cfg).apply({"params": params["decoder"]}, row, place, None)[:, 4:]
    close(block.logits, logits, atol=1e-4)
    assert new == np.asarray(logits.argmax(-1)).tolist()


def test_a_decoder_block_that_does_not_fit_the_priors_is_refused():
    cfg, params = setup(vae__block_size=8)
    with pytest.raises(ConfigError, match=r"vae\.block_size=8 to divide dit\.block_size=4"):
        next(cola.generate(cfg, params, [[1]], RowOptions(12)))


@pytest.mark.slow
def test_unrolled_layers_write_what_looped_ones_do():
    cfg, params = setup(compute__scan_layers=False)
    latents = [np.asarray(block.latents) for _, block in cola.generate(cfg, params, PROMPTS, RowOptions(12))]
    close(np.stack(latents), written()[1])


def test_layers_cut_beforehand_have_the_shapes_of_those_that_are_compiled_for():
    cfg, params = setup(compute__scan_layers=False)
    _, (program, shapes, *_) = blocks.abstract_step(cfg, params, 2, 4)
    cut = blocks.cut_layers(program.networks, params)
    assert jax.tree.map(jnp.shape, shapes) == jax.tree.map(jnp.shape, cut)
    assert len(cut["dit"]["blocks"]) == 2 and len(cut["decoder"]["blocks"]) == 1


@pytest.mark.parametrize("scan", [True, False])
def test_parameters_of_another_number_of_layers_are_refused(scan):
    _, params = setup()
    cfg = config(**SMALL | {"dit__num_layers": 1}, compute__scan_layers=scan)
    with pytest.raises(ScopeParamShapeError, match="blocks"):
        next(cola.generate(cfg, params, [[1]], RowOptions(12)))
