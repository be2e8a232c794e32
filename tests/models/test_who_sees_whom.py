"""Perturb one position, look which outputs move: for the VAE and every pass of the DiT, in every chunking.

Axes: N latents, P tokens a latent.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import config, moved, normal, parameters, replace

from cola_jax.models import build

N = 12
SEGMENTS = np.array([1] * 4 + [2] * 4 + [0] * 4, np.int32)
POSITIONS = {False: np.arange(N), True: np.arange(N) % 4}
STILL = 1e-5  # rounding; what is seen moves by more


@pytest.fixture(scope="module")
def cfg():
    return config(vae__encoder_blocks=2, dit__num_layers=2)


@pytest.fixture(scope="module")
def params(cfg):
    return parameters(cfg)


def influence(function, x_NC, change):
    """Booleans (input, output): which outputs move as one input changes. `function`: (1 + N, N, ...) -> (1 + N, N, ...)."""
    rows = jnp.concatenate([x_NC[None], *[x_NC.at[i].set(change(x_NC[i]))[None] for i in range(x_NC.shape[0])]])
    out = np.asarray(function(rows))
    assert np.all(np.isfinite(out))
    return moved(out[:1], out[1:]) > STILL


def seen(predicate, block_size, segments):
    """Booleans (key, query): what SPEC 1.3 allows."""
    block = np.arange(N) // block_size
    allowed = predicate(block[None, :], block[:, None])
    return allowed & (SEGMENTS[None, :] == SEGMENTS[:, None]) if segments else allowed


def layout(rows, segments):
    place = np.tile(POSITIONS[segments].astype(np.int32), (rows, 1))
    return place, (np.tile(SEGMENTS, (rows, 1)) if segments else None)


own_and_earlier = lambda query, key: query >= key
earlier = lambda query, key: query > key
own = lambda query, key: query == key
sizes_and_chunks = pytest.mark.parametrize(
    ("block_size", "chunks"),
    [(1, 1), pytest.param(1, 5, marks=pytest.mark.slow), (4, 1), pytest.param(4, 2, marks=pytest.mark.slow), (4, 3)],
)
with_segments = pytest.mark.parametrize("segments", [False, True], ids=["one document", "documents"])


@with_segments
@sizes_and_chunks
def test_the_encoder_is_block_causal_and_documents_do_not_leak(cfg, params, block_size, chunks, segments):
    cfg = replace(cfg, vae__block_size=block_size, compute__attention_chunks=chunks)
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 13, (N,)), jnp.int32)

    @jax.jit
    def encode(tokens_RN):
        posterior = build.encoder(cfg).apply(
            {"params": params["encoder"]}, tokens_RN, *layout(len(tokens_RN), segments)
        )
        return jnp.concatenate([posterior.mean, posterior.logvar], axis=-1)

    found = influence(encode, tokens, lambda token: (token + 1) % 13)
    np.testing.assert_array_equal(found, seen(own_and_earlier, block_size, segments))


@with_segments
@sizes_and_chunks
def test_the_decoder_is_block_causal_and_documents_do_not_leak(cfg, params, block_size, chunks, segments):
    cfg = replace(cfg, vae__block_size=block_size, compute__attention_chunks=chunks)
    decode = jax.jit(lambda z: build.decoder(cfg).apply({"params": params["decoder"]}, z, *layout(len(z), segments)))
    found = influence(decode, normal(1, N, 4), lambda z: -2.0 * z)
    np.testing.assert_array_equal(found, seen(own_and_earlier, block_size, segments))


dit_chunks = pytest.mark.parametrize("chunks", [1, pytest.param(2, marks=pytest.mark.slow), 3])


@with_segments
@dit_chunks
def test_a_plain_pass_of_the_dit_is_block_causal_and_documents_do_not_leak(cfg, params, chunks, segments):
    cfg = replace(cfg, compute__attention_chunks=chunks)

    @jax.jit
    def velocity(z):
        t = jnp.full(z.shape[:2], 0.4)
        return build.dit(cfg).apply({"params": params["dit"]}, z, t, *layout(len(z), segments))

    found = influence(velocity, normal(1, N, 4), lambda z: -2.0 * z)
    np.testing.assert_array_equal(found, seen(own_and_earlier, 4, segments))


@with_segments
@dit_chunks
def test_training_sees_clean_earlier_blocks_and_the_noisy_own_one(cfg, params, chunks, segments):
    cfg = replace(cfg, compute__attention_chunks=chunks)
    clean, noisy = normal(1, N, 4), normal(2, N, 4)

    @jax.jit
    def velocity(clean_R, noisy_R):
        rows = len(clean_R)
        return build.dit(cfg).apply(
            {"params": params["dit"]}, clean_R, noisy_R, jnp.full((rows, 1), 0.4), None, *layout(rows, segments),
            method="denoise_all",
        )  # fmt: skip

    still = lambda x: jnp.tile(x, (N + 1, 1, 1))
    by_clean = influence(lambda rows: velocity(rows, still(noisy)), clean, lambda z: -2.0 * z)
    by_noisy = influence(lambda rows: velocity(still(clean), rows), noisy, lambda z: -2.0 * z)
    np.testing.assert_array_equal(by_clean, seen(earlier, 4, segments))
    np.testing.assert_array_equal(by_noisy, seen(own, 4, segments))
    assert not by_clean[-4:].any()


def test_a_prefix_in_the_cache_is_block_causal(cfg, params):
    @jax.jit
    def keys_and_values(z):
        place = layout(len(z), False)[0]
        cache = build.dit(cfg).apply({"params": params["dit"]}, z, place, method="prefill")
        last = jax.tree.map(lambda leaf: leaf[-1], cache)  # of the last layer, which reads the one before it
        by_position = jnp.einsum("bhkm->bmhk", last.k), jnp.einsum("bhmk->bmhk", last.v)
        return jnp.concatenate([x.reshape(*z.shape[:2], -1) for x in by_position], axis=-1)

    found = influence(keys_and_values, normal(1, N, 4), lambda z: -2.0 * z)
    np.testing.assert_array_equal(found, seen(own_and_earlier, 4, False))


def test_samples_of_a_batch_never_see_each_other(cfg, params):
    rows = 3
    place, _ = layout(rows, False)
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 13, (rows, N)), jnp.int32)

    @jax.jit
    def everything(tokens, z, clean):
        mean = build.encoder(cfg).apply({"params": params["encoder"]}, tokens, place, None).mean
        logits = build.decoder(cfg).apply({"params": params["decoder"]}, z, place, None)
        net, variables = build.dit(cfg), {"params": params["dit"]}
        v = net.apply(variables, z, jnp.full((rows, N), 0.4), place, None)
        trained = net.apply(variables, clean, z, jnp.full((rows, 1), 0.4), None, place, None, method="denoise_all")
        return mean, logits, v, trained

    change = lambda x: x.at[1].set((x[1] + 1) % 13)
    arguments = (tokens, normal(1, rows, N, 4), normal(2, rows, N, 4))
    before, after = everything(*arguments), everything(*map(change, arguments))
    for one, other in zip(before, after):
        difference = moved(one, other, (1, 2))
        assert difference[1] > 1e-2 and difference[0] == difference[2] == 0.0


@pytest.mark.parametrize("part", ["encoder", "dit"])
def test_attention_knows_distances_and_not_places(cfg, params, part):
    def run(place):
        if part == "encoder":
            tokens = jnp.asarray(np.random.default_rng(0).integers(0, 13, (1, N)), jnp.int32)
            return build.encoder(cfg).apply({"params": params["encoder"]}, tokens, place, None).mean
        return build.dit(cfg).apply({"params": params["dit"]}, normal(1, 1, N, 4), jnp.full((1, N), 0.4), place, None)

    run = jax.jit(run)
    natural = jnp.arange(N)[None]
    np.testing.assert_allclose(run(natural), run(natural + 5), atol=2e-5)
    assert np.abs(run(natural) - run(3 * natural)).max() > 1e-3
