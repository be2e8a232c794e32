"""Norms, rotations, time features, masks and the chunked cross-entropy, each against its formula."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import close, normal

from cola_jax.models import attention, layers, visibility
from cola_jax.models.cache import KVCache, append, grow
from cola_jax.models.chunks import chunk_bounds
from cola_jax.models.cross_entropy import chunked_cross_entropy


def test_normalize_gives_mean_0_and_variance_1():
    y = np.asarray(layers.normalize(3.0 * normal(0, 5, 64) + 2.0, 1e-6))
    np.testing.assert_allclose(y.mean(-1), 0.0, atol=1e-5)
    np.testing.assert_allclose(y.var(-1), 1.0, atol=1e-4)


def test_a_layer_norm_has_gain_and_bias_only_if_affine_and_keeps_the_dtype():
    x = normal(0, 3, 8).astype(jnp.bfloat16)
    norm = layers.LayerNorm(1e-6)
    variables = norm.init(jax.random.PRNGKey(0), x)
    assert set(variables["params"]) == {"scale", "bias"}
    y = norm.apply({"params": {"scale": jnp.full(8, 2.0), "bias": jnp.full(8, 1.0)}}, x)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(y, 2.0 * layers.normalize(x, 1e-6) + 1.0, atol=0.02)
    assert layers.LayerNorm(1e-6, affine=False).init(jax.random.PRNGKey(0), x) == {}


def test_modulation_scales_by_one_more_than_scale_and_then_shifts():
    x = normal(0, 2, 8)
    plain = layers.modulate(x, 0.0, 0.0, 1e-5)
    close(plain, layers.normalize(x, 1e-5))
    close(layers.modulate(x, 3.0, 1.0, 1e-5), 2.0 * plain + 3.0)


@pytest.mark.parametrize("rotated", [6, 8])
def test_rotation_keeps_lengths_makes_scores_relative_and_passes_the_rest(rotated):
    q, k = normal(0, 1, 1, 1, 8), normal(1, 1, 1, 1, 8)
    at = lambda x, place: layers.rope_half(x, layers.rope_table(jnp.array([[place]]), rotated, 100.0))
    score = lambda m, n: float(jnp.sum(at(q, m) * at(k, n)))
    np.testing.assert_allclose(score(7, 4), score(13, 10), rtol=1e-4)
    assert abs(score(7, 4) - score(7, 5)) > 1e-3
    close(at(q, 0), q)
    close(jnp.linalg.norm(at(q, 9)), jnp.linalg.norm(q))
    np.testing.assert_array_equal(at(q, 9)[..., rotated:], q[..., rotated:])
    assert np.all(np.abs(at(q, 1) - q)[..., : rotated // 2] > 0.0)


def test_rotation_pairs_channels_half_of_the_rotated_ones_apart():
    angle = layers.rope_table(jnp.array([[3]]), 6, 100.0)
    turned = layers.rope_half(jnp.eye(8)[:, None, None, :], jnp.tile(angle, (8, 1, 1, 1)))[:, 0, 0]
    for i in range(3):
        theta = 3.0 * 100.0 ** (-i / 3)
        expected = [[np.cos(theta), np.sin(theta)], [-np.sin(theta), np.cos(theta)]]
        np.testing.assert_allclose(turned[np.ix_([i, i + 3], [i, i + 3])], expected, atol=1e-6)


def test_time_features_are_sines_then_cosines_of_the_scaled_time():
    found = layers.time_features(jnp.array([0.0, 0.3]), 4, 1000.0)
    angles = 300.0 * np.exp(-np.log(10_000.0) * np.arange(4) / 4)
    np.testing.assert_allclose(found[0], [0] * 4 + [1] * 4, atol=1e-6)
    np.testing.assert_allclose(found[1], [*np.sin(angles), *np.cos(angles)], atol=1e-4)


def test_attention_is_the_softmax_mean_of_what_the_mask_lets_through():
    q, k, v = normal(0, 2, 3, 2, 8), normal(1, 2, 5, 2, 8), normal(2, 2, 5, 2, 8)
    mask = np.random.default_rng(0).random((2, 1, 3, 5)) < 0.6
    mask[..., 0] = True
    scores = np.einsum("bqhk,bmhk->bhqm", q, k) / np.sqrt(8.0)
    weights = np.where(mask, np.exp(scores), 0.0)
    expected = np.einsum("bhqm,bmhk->bqhk", weights / weights.sum(-1, keepdims=True), v)
    close(np.asarray(attention.attend(q, k, v, jnp.asarray(mask))), expected)


def test_shared_key_heads_serve_neighbouring_query_heads():
    q, k, v = normal(0, 1, 3, 4, 8), normal(1, 1, 3, 2, 8), normal(2, 1, 3, 2, 8)
    twice = lambda x: jnp.repeat(x, 2, axis=2)
    close(attention.attend(q, k, v, None), attention.attend(q, twice(k), twice(v), None))


def test_the_predicates_are_those_of_the_specification():
    q, k = np.arange(3)[:, None], np.arange(3)[None, :]
    np.testing.assert_array_equal(visibility.block_causal(q, k), np.tri(3, dtype=bool))
    np.testing.assert_array_equal(visibility.earlier_block(q, k), np.tri(3, k=-1, dtype=bool))
    np.testing.assert_array_equal(visibility.same_block(q, k), np.eye(3, dtype=bool))
    np.testing.assert_array_equal(visibility.same_segment(q, k), np.eye(3, dtype=bool))
    np.testing.assert_array_equal(visibility.cached(np.arange(3), 2), [True, True, False])


def test_a_cache_grows_with_zeros_and_takes_new_entries_behind_each_rows_own():
    cache = KVCache(normal(0, 2, 3, 4, 1, 2), normal(1, 2, 3, 4, 1, 2))
    fresh = KVCache(normal(2, 2, 3, 2, 1, 2), normal(3, 2, 3, 2, 1, 2))
    grown = grow(cache, 7)
    close(jax.tree.map(lambda x: x[:, :, :4], grown), cache)
    assert grown.k.shape[2] == 7 and not np.asarray(grown.k)[:, :, 4:].any()
    filled = append(grown, fresh, jnp.array([0, 3, 5]))
    for row, start in enumerate((0, 3, 5)):
        untouched = [place for place in range(7) if not start <= place < start + 2]
        for new, added, old in zip(filled, fresh, grown):
            close(new[:, row, start : start + 2], added[:, row])
            close(new[:, row, untouched], old[:, row, untouched])


@pytest.mark.parametrize("chunk", [1, 3, 6, 7, 100])
def test_cross_entropy_in_chunks_is_the_plain_one_and_so_are_its_gradients(chunk):
    h, kernel = normal(0, 2, 7, 5), normal(1, 5, 11)
    targets = jnp.asarray(np.random.default_rng(2).integers(0, 11, (2, 7)), jnp.int32)
    weights = normal(3, 2, 7)

    def chunked(h, kernel):
        losses, correct = chunked_cross_entropy(lambda x: x @ kernel, h, targets, chunk)
        return jnp.sum(losses * weights), (losses, correct)

    def plain(h, kernel):
        logits = h @ kernel
        losses = -jnp.take_along_axis(nn.log_softmax(logits), targets[..., None], axis=-1)[..., 0]
        return jnp.sum(losses * weights), (losses, (logits.argmax(-1) == targets).astype(jnp.float32))

    found, expected = (jax.value_and_grad(f, argnums=(0, 1), has_aux=True)(h, kernel) for f in (chunked, plain))
    close(found, expected)


def test_cross_entropy_holds_the_logits_of_one_chunk_at_a_time():
    h, kernel, targets = jnp.zeros((2, 64, 4)), jnp.zeros((4, 1000)), jnp.zeros((2, 64), jnp.int32)

    def memory(chunk):
        loss = lambda h, kernel: chunked_cross_entropy(lambda x: x @ kernel, h, targets, chunk)[0].sum()
        return jax.jit(jax.grad(loss, argnums=(0, 1))).lower(h, kernel).compile().memory_analysis().temp_size_in_bytes

    assert memory(8) < 2 * 64 * 1000 * 4 / 2 < memory(64)


def test_chunk_bounds_cut_whole_blocks_and_cover_everything():
    for length, size, chunks in [(16, 4, 1), (16, 4, 3), (16, 4, 9), (18, 4, 2), (7, 1, 7), (5, 8, 2)]:
        bounds = chunk_bounds(length, size, chunks)
        assert bounds[0][0] == 0 and bounds[-1][1] == length and len(bounds) <= chunks
        assert all(a[1] == b[0] for a, b in zip(bounds, bounds[1:]))
        assert all(start % size == 0 and start < end for start, end in bounds)
