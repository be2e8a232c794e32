"""Norms, rotations, time features, masks and the chunked cross-entropy, each against its formula."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import close, normal

from cola_jax.config import ComputeConfig
from cola_jax.models import attention, layers, visibility
from cola_jax.models.cache import append, grow, slots, to_cache_layout
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


@pytest.mark.parametrize("heads", [2, 4])
def test_attention_behind_a_cache_is_the_softmax_mean_of_what_the_masks_let_through(heads):
    """Three rows of four positions, the first two behind up to five cached ones; two heads of keys serve `heads` of queries."""
    q, k, v = normal(0, 3, 4, heads, 8), normal(1, 3, 4, 2, 8), normal(2, 3, 4, 2, 8)
    k_past, v_past = normal(3, 2, 5, 2, 8), normal(4, 2, 5, 2, 8)
    length, own = np.array([5, 2]), np.tri(4, dtype=bool)
    past_mask = attention.past_mask(jnp.asarray(length), 5)
    by_head = map(attention.by_head, (q, k, v))
    found = attention.attend_with_cache(*by_head, to_cache_layout(k_past, v_past), past_mask, jnp.asarray(own))
    for row in range(3):
        seen = length[row] if row < 2 else 0
        keys, values = (
            np.concatenate([p[row, :seen] if row < 2 else x[row, :0], x[row]]) for p, x in ((k_past, k), (v_past, v))
        )
        mask = np.concatenate([np.ones((4, seen), bool), own], axis=1)
        for head in range(heads):
            of = head * 2 // heads
            weights = np.where(mask, np.exp(np.asarray(q[row, :, head]) @ keys[:, of].T / np.sqrt(8.0)), 0.0)
            close(found[row, :, head], weights / weights.sum(-1, keepdims=True) @ values[:, of])


def test_shared_key_heads_serve_neighbouring_query_heads():
    q, k, v = normal(0, 1, 3, 4, 8), normal(1, 1, 3, 2, 8), normal(2, 1, 3, 2, 8)
    twice = lambda x: jnp.repeat(x, 2, axis=2)
    full = lambda *qkv: attention.full_attention(*qkv, segments_BN=None, compute=ComputeConfig(attention="xla"))
    close(full(q, k, v), full(q, twice(k), twice(v)))


def test_the_predicates_are_those_of_the_specification():
    q, k = np.arange(3)[:, None], np.arange(3)[None, :]
    np.testing.assert_array_equal(visibility.block_causal(q, k), np.tri(3, dtype=bool))
    np.testing.assert_array_equal(visibility.earlier_block(q, k), np.tri(3, k=-1, dtype=bool))
    np.testing.assert_array_equal(visibility.same_block(q, k), np.eye(3, dtype=bool))
    np.testing.assert_array_equal(visibility.same_segment(q, k), np.eye(3, dtype=bool))
    np.testing.assert_array_equal(visibility.cached(np.arange(3), 2), [True, True, False])


def test_a_cache_grows_with_zeros_and_takes_new_entries_behind_each_rows_own():
    layer = lambda seed, size: to_cache_layout(normal(seed, 3, size, 1, 2), normal(seed + 1, 3, size, 1, 2))
    caches, fresh = [layer(0, 4), layer(2, 4)], [layer(4, 2), layer(6, 2)]
    grown = grow(caches, 7)
    filled = append(grown, fresh, jnp.array([0, 3, 5]))
    assert slots(caches) == 4 and slots(grown) == slots(filled) == 7
    positions = lambda cache: (np.asarray(cache.k).swapaxes(2, 3), np.asarray(cache.v))  # each (B, H, M, K)
    for cache, wide, added, new in zip(caches, grown, fresh, filled):
        for old, padded, entry, found in zip(*map(positions, (cache, wide, added, new))):
            close(padded[:, :, :4], old)
            assert not padded[:, :, 4:].any()
            for row, start in enumerate((0, 3, 5)):
                untouched = [place for place in range(7) if not start <= place < start + 2]
                close(found[row, :, start : start + 2], entry[row])
                close(found[row, :, untouched], padded[row, :, untouched])
    stack = lambda layers: jax.tree.map(lambda *leaves: jnp.stack(leaves), *layers)
    close(append(grow(stack(caches), 7), stack(fresh), jnp.array([0, 3, 5])), stack(filled))


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
