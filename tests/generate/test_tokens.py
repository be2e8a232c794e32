"""Logits to tokens: penalty, temperature, top-k and top-p."""

import jax
import jax.numpy as jnp
import numpy as np
from tiny import normal

from cola_jax.config import SamplingConfig
from cola_jax.generate import tokens

B, T, V = 3, 4, 11
LOGITS = 2.0 * normal(0, B, T, V)
UNSEEN = jnp.zeros((B, V), bool)
KEYS = jax.random.split(jax.random.PRNGKey(0), B)


def choose(logits_BTV, seen_BV, keys_B, sampling):
    rows = len(logits_BTV)
    return tokens.choose(tokens.choice_of(sampling), tokens.values_of(sampling, rows), logits_BTV, seen_BV, keys_B)


def row(value):
    """The same value for each row."""
    return jnp.full(B, value)


def many(logits_V, draws=4000, **sampling):
    """The share of every token among many draws from one distribution."""
    fields = {"temperature": 1.0, "repetition_penalty": 1.0} | sampling
    chosen = choose(jnp.tile(logits_V, (1, draws, 1)), jnp.zeros((1, V), bool), KEYS[:1], SamplingConfig(**fields))
    return np.bincount(chosen[0], minlength=V) / draws


def test_greedy_takes_the_likeliest_token_and_no_key():
    sampling = SamplingConfig(repetition_penalty=1.0)
    chosen = choose(LOGITS, UNSEEN, KEYS, sampling)
    np.testing.assert_array_equal(chosen, LOGITS.argmax(-1))
    np.testing.assert_array_equal(chosen, choose(LOGITS, UNSEEN, KEYS[::-1], sampling))
    assert chosen.dtype == jnp.int32


def test_the_penalty_makes_seen_tokens_less_likely_whatever_their_sign():
    seen = UNSEEN.at[1, :6].set(True)
    after = tokens.penalize(LOGITS, seen, row(1.3))
    np.testing.assert_array_equal(after[0], LOGITS[0])
    np.testing.assert_array_equal(after[1, :, 6:], LOGITS[1, :, 6:])
    assert np.all(after[1, :, :6] < LOGITS[1, :, :6])
    up, down = LOGITS[1, :, :6] > 0, LOGITS[1, :, :6] < 0
    np.testing.assert_allclose(np.where(up, after[1, :, :6] * 1.3, LOGITS[1, :, :6]), LOGITS[1, :, :6], rtol=1e-6)
    np.testing.assert_allclose(np.where(down, after[1, :, :6] / 1.3, LOGITS[1, :, :6]), LOGITS[1, :, :6], rtol=1e-6)
    assert up.any() and down.any()


def test_a_penalty_of_1_changes_nothing():
    np.testing.assert_array_equal(tokens.penalize(LOGITS, jnp.ones((B, V), bool), row(1.0)), LOGITS)


def test_a_strong_penalty_turns_greedy_away_from_what_was_seen():
    best = LOGITS.argmax(-1)
    seen = UNSEEN.at[jnp.arange(B)[:, None], best].set(True)
    chosen = choose(jnp.abs(LOGITS), seen, KEYS, SamplingConfig(repetition_penalty=1e6))
    assert not np.any(np.take_along_axis(np.asarray(seen), np.asarray(chosen), axis=1))


def test_top_k_keeps_the_k_largest():
    kept = np.isfinite(tokens.keep_top_k(LOGITS, row(3)))
    assert np.all(kept.sum(-1) == 3)
    assert np.all(np.where(kept, LOGITS, np.inf).min(-1) > np.where(kept, -np.inf, LOGITS).max(-1))
    for all_of_them in (0, V, V + 5):
        np.testing.assert_array_equal(tokens.keep_top_k(LOGITS, row(all_of_them)), LOGITS)


def test_top_p_keeps_the_smallest_set_that_reaches_p():
    probabilities = np.asarray(jax.nn.softmax(LOGITS))
    for p in (0.2, 0.5, 0.9):
        kept = np.isfinite(tokens.keep_top_p(LOGITS, row(p)))
        mass = np.where(kept, probabilities, 0.0).sum(-1)
        least = np.where(kept, probabilities, np.inf).min(-1)
        assert np.all(mass >= p) and np.all(mass - least < p)
        assert np.all(least > np.where(kept, 0.0, probabilities).max(-1))
    np.testing.assert_array_equal(tokens.keep_top_p(LOGITS, row(1.0)), LOGITS)
    assert np.all(np.isfinite(tokens.keep_top_p(LOGITS, row(0.0))).sum(-1) == 1)


def test_draws_follow_the_softmax_at_the_temperature():
    for temperature in (0.7, 1.5):
        expected = jax.nn.softmax(LOGITS[0, 0] / temperature)
        np.testing.assert_allclose(many(LOGITS[0, 0], temperature=temperature), expected, atol=0.04)


def test_draws_stay_inside_top_k_and_top_p():
    order = np.argsort(-LOGITS[0, 0])
    assert set(np.flatnonzero(many(LOGITS[0, 0], top_k=2, temperature=5.0))) == set(order[:2].tolist())
    kept = np.flatnonzero(np.isfinite(tokens.keep_top_p(LOGITS[:1, :1], row(0.6)[:1]))[0, 0])
    assert set(np.flatnonzero(many(LOGITS[0, 0], top_p=0.6))) == set(kept.tolist())
    assert many(LOGITS[0, 0], top_k=1)[order[0]] == 1.0


def test_rows_draw_with_their_own_keys():
    same = jnp.tile(jnp.zeros((1, 1, V)), (2, 50, 1))
    sampling = SamplingConfig(temperature=1.0)
    apart = choose(same, UNSEEN[:2], KEYS[:2], sampling)
    assert np.any(apart[0] != apart[1])
    alone = choose(same[1:], UNSEEN[:1], KEYS[1:2], sampling)
    np.testing.assert_array_equal(alone[0], apart[1])


def test_rows_of_one_batch_may_have_values_of_their_own_and_none_compiles_anew():
    """A row is chosen as it would be in a batch of its own values."""
    fields = [
        {"temperature": 0.0, "repetition_penalty": 1.0}, {"temperature": 0.7, "top_k": 3, "repetition_penalty": 1.2},
        {"temperature": 1.5, "top_p": 0.6, "repetition_penalty": 1.0},
    ]  # fmt: skip
    seen = UNSEEN.at[:, :6].set(True)
    own = [SamplingConfig(**given) for given in fields]
    values = jax.tree.map(lambda *rows: jnp.concatenate(rows), *(tokens.values_of(sampling, 1) for sampling in own))
    compiled = jax.jit(tokens.choose, static_argnums=0)
    all_of_them = tokens.Choice(penalized=True, sampled=True, top_k=True, top_p=True)
    together = compiled(all_of_them, values, LOGITS, seen, KEYS)
    for index, sampling in enumerate(own):
        at = slice(index, index + 1)
        np.testing.assert_array_equal(together[at], choose(LOGITS[at], seen[at], KEYS[at], sampling))
    assert len({tuple(row) for row in np.asarray(together).tolist()}) == B
    compiled(all_of_them, jax.tree.map(lambda x: x[::-1], values), LOGITS, seen, KEYS)
    assert compiled._cache_size() == 1
