"""Latents of held-out text, what noise does to them, and blocks coming out of noise."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny
from small_world import writer

from cola_jax.config import ConfigError
from cola_jax.evaluate import latents, trace
from cola_jax.families import FAMILIES, vae_terms
from cola_jax.families.rows import RowOptions
from cola_jax.models import build

STEPS = 250


@pytest.fixture(scope="module")
def trained():
    """A Text VAE that has learnt to reproduce random tokens."""
    cfg = tiny.config(objective__mask_weight=0.0, family="text_vae", vae__latent_shift=0.0, vae__latent_scale=1.0)
    family, params = FAMILIES["text_vae"], tiny.parameters(cfg)
    optimizer = optax.adam(
        optax.cosine_decay_schedule(1e-2, STEPS)
    )  # a rate that stays leaves accuracy to swing at the end

    @jax.jit
    def step(params, state, number):
        tokens = jax.random.randint(jax.random.PRNGKey(number), (16, 16), 0, cfg.vae.vocab_size)
        batch = {**tiny.batch_of(cfg, rows=16), "tokens": tokens}
        noise, counts = family.objective.draw(cfg, batch, jax.random.PRNGKey(number), number)
        loss = lambda params: family.objective.loss(cfg, params, {}, batch, noise, counts, number)[0]
        changes, state = optimizer.update(jax.grad(loss)(params), state)
        return optax.apply_updates(params, changes), state

    state = optimizer.init(params)
    for number in range(STEPS):
        params, state = step(params, state, number)
    return cfg, params


def test_principal_components_find_the_directions_of_spread():
    random = np.random.default_rng(0)
    hidden = random.standard_normal((500, 2)) * [5.0, 2.0]
    basis = np.linalg.qr(random.standard_normal((6, 6)))[0][:2]
    coordinates, shares = latents.pca(hidden @ basis + 3.0, 2)
    assert shares.sum() == pytest.approx(1.0) and shares[0] > shares[1]
    np.testing.assert_allclose(coordinates.mean(0), 0.0, atol=1e-9)
    for ours, theirs in zip(coordinates.T, hidden.T):
        assert abs(np.corrcoef(ours, theirs)[0, 1]) > 0.99
    with pytest.raises(ConfigError, match="components=7"):
        latents.pca(hidden @ basis, 7)


def test_principal_components_of_equal_points_are_zero():
    coordinates, shares = latents.pca(np.ones((4, 3)), 2)
    assert not coordinates.any() and not shares.any()


@pytest.mark.slow
def test_without_noise_accuracy_is_that_of_reconstruction(trained):
    cfg, params = trained
    batches = [tiny.batch_of(cfg, seed=seed) for seed in (0, 1)]
    right = []
    for batch in batches:
        where = vae_terms.layout(cfg, batch)
        mean = vae_terms.posterior_of(cfg, params, batch["tokens"], where).mean
        logits = build.decoder(cfg).apply({"params": params["decoder"]}, mean, where.positions, where.segments)
        right.append(np.argmax(logits, -1) == batch["tokens"])
    assert latents.accuracy_under_noise(cfg, params, batches, [0.0], 0)[0] == pytest.approx(np.mean(right))
    assert np.mean(right) > 0.8


@pytest.mark.slow
def test_accuracy_falls_with_noise_to_chance(trained):
    cfg, params = trained
    batches = [tiny.batch_of(cfg, seed=seed) for seed in range(4)]
    accuracy = latents.accuracy_under_noise(cfg, params, batches, [0.0, 0.5, 0.8, 1.0], 0)
    assert accuracy == sorted(accuracy, reverse=True) and accuracy[0] > accuracy[2] + 0.2
    assert accuracy[-1] == pytest.approx(1 / cfg.vae.vocab_size, abs=0.08)
    assert accuracy == latents.accuracy_under_noise(cfg, params, batches, [0.0, 0.5, 0.8, 1.0], 0)


@pytest.mark.slow
def test_accuracy_leaves_padding_out(trained):
    cfg, params = trained
    batch = tiny.batch_of(cfg)
    half = {**batch, "weights": batch["weights"] * (np.arange(16) < 8)}
    garbled = {**half, "tokens": np.where(half["weights"] > 0, half["tokens"], 0)}
    one, other = (latents.accuracy_under_noise(cfg, params, [b], [0.0, 0.6], 0) for b in (half, garbled))
    assert one == other  # the tokens behind are read by nobody before them


@pytest.mark.slow
def test_times_outside_the_path_are_refused(trained):
    with pytest.raises(ConfigError, match=r"times=\[1.5\]"):
        latents.accuracy_under_noise(*trained, [], [0.0, 1.5], 0)


def test_every_latent_of_heldout_text_has_its_word_class():
    small = writer()
    batches = latents.heldout_rows(small.cfg, small.tokenizer, 8)
    found = latents.collect(small.cfg, small.params, small.tokenizer, batches)
    real = sum(int(batch["weights"].sum()) for batch in batches)
    assert found.means.shape == (real, small.cfg.vae.latent_dim) and len(found.labels) == real
    ends = sum(int(((batch["tokens"] == small.tokenizer.eos_id) * batch["weights"]).sum()) for batch in batches)
    assert found.labels.count("end") == ends > 0


def test_word_classes_read_pieces_and_frequency_bands_rank_tokens():
    class Words:
        eos_id = 0

        def decode(self, ids):
            return ["", "Anna", " kitchen", " red", " took", "."][ids[0]]

    classes = latents.word_classes(np.array([1, 2, 3, 4, 5, 0, 1]), Words())
    assert classes == ["person", "place", "colour", "verb", "other", "end", "person"]
    ids = np.repeat(np.arange(100), np.arange(200, 100, -1))
    bands = np.array(latents.frequency_bands(ids))
    assert set(bands[ids == 0]) == {latents.BANDS[0]} and set(bands[ids == 9]) == {latents.BANDS[1]}
    assert set(bands[ids == 10]) == {latents.BANDS[2]}


def test_a_trace_ends_where_the_writer_does():
    cfg = tiny.config(sampling__steps=3, dit__num_layers=1, vae__encoder_blocks=1, vae__decoder_blocks=1)
    params = tiny.parameters(cfg)
    prompt = np.random.default_rng(0).integers(0, cfg.vae.vocab_size, 11).tolist()
    traced = trace.denoising_trace(cfg, params, prompt, 2, seed=4, pad_id=0)
    blocks = [b for _, b in FAMILIES["cola"].generator.generate(cfg, params, [prompt], RowOptions(0, 4), blocks=2)]
    assert traced.states.shape == (2, 4, 4, 4) and traced.tokens.shape == (2, 3, 4)
    for index, block in enumerate(blocks):
        np.testing.assert_allclose(traced.states[index, -1], block.latents[0], atol=1e-5)
        np.testing.assert_array_equal(traced.tokens[index, -1], block.tokens[0])
    assert (np.abs(np.diff(traced.states[1], axis=0)).max(axis=(1, 2)) > 0).all()
    assert jnp.abs(traced.states[1, 0]).max() > 0


def test_what_cannot_be_traced_is_refused():
    for change, message in (({"sampling__first_block": "repaint"}, "repaint"), ({"family": "text_vae"}, "text_vae")):
        with pytest.raises(ConfigError, match=message):
            trace.denoising_trace(tiny.config(**change), {}, [1], 1, seed=0, pad_id=0)
