"""The LLaMA form: its exact sizes, its arithmetic, its cache, and its gradients however it is computed."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import plain_backbone
import pytest
from tiny import close, config, normal, parameters, replace

from cola_jax.config import RunConfig
from cola_jax.families import FAMILIES
from cola_jax.models import build
from cola_jax.models.backbone import bidirectional, causal
from cola_jax.models.cache import grow

B, L = 3, 12
SEGMENTS = np.array([[1] * 4 + [2] * 8, [1] * 8 + [0] * 4, [1] * 12], np.int32)
PLACE = np.tile(np.arange(L, dtype=np.int32), (B, 1))
PATTERNS = {"causal": causal, "bidirectional": bidirectional}


@functools.cache
def setup(**changes):
    cfg = config(family="ar", **changes)
    return cfg, parameters(cfg)["backbone"]


def tokens_of(cfg, seed=0):
    return jnp.asarray(np.random.default_rng(seed).integers(0, cfg.backbone.vocab_size, (B, L)), jnp.int32)


def logits_of(cfg, params, tokens, pattern, segments=SEGMENTS):
    return build.backbone(cfg).apply({"params": params}, tokens, PLACE, segments, PATTERNS[pattern])


@pytest.mark.parametrize("family", ["ar", "llada"])
def test_the_matched_sizes_have_the_exact_counts(family):
    cfg = RunConfig(family=family)
    shapes = jax.eval_shape(lambda: FAMILIES[family].objective.init(cfg, jax.random.PRNGKey(0)))["backbone"]
    size = lambda tree: sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))
    matrices = {name: leaf for name, leaf in shapes["blocks"].items() if "norm" not in name}
    assert size(matrices) == 1_811_939_328
    assert size(shapes["blocks"]) + size(shapes["final_norm"]) == 1_812_051_968
    assert size(shapes) == 2_222_790_656


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("changes", [{}, {"backbone__kv_heads": 4}, {"backbone__tie_embeddings": True}], ids=str)
def test_logits_are_those_of_the_form_written_out_plainly(pattern, changes):
    cfg, params = setup(**changes)
    assert ("logits" in params) != cfg.backbone.tie_embeddings
    mask = plain_backbone.mask_of(SEGMENTS, pattern == "causal")
    plain = plain_backbone.logits(cfg.backbone, params, tokens_of(cfg), PLACE, mask)
    close(logits_of(cfg, params, tokens_of(cfg), pattern), plain, atol=2e-5, rtol=1e-4)


def test_rows_without_segments_are_one_document():
    cfg, params = setup()
    for pattern in PATTERNS:
        one = logits_of(cfg, params, tokens_of(cfg), pattern, None)
        close(one, logits_of(cfg, params, tokens_of(cfg), pattern, np.ones_like(SEGMENTS)))


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_token_moves_what_may_see_it_and_nothing_else(pattern):
    cfg, params = setup()
    tokens, allowed = tokens_of(cfg)[:1], plain_backbone.mask_of(SEGMENTS[:1], pattern == "causal")[0]
    rows = jnp.concatenate([tokens, *[tokens.at[0, i].set((tokens[0, i] + 1) % 13) for i in range(L)]])
    place, segments = np.tile(PLACE[:1], (L + 1, 1)), np.tile(SEGMENTS[:1], (L + 1, 1))
    out = build.backbone(cfg).apply({"params": params}, rows, place, segments, PATTERNS[pattern])
    moved = np.abs(out[1:] - out[:1]).max(-1) > 1e-5
    np.testing.assert_array_equal(moved, allowed.T)


def gradients(cfg, params, pattern):
    def functional(params):
        logits = logits_of(cfg, params, tokens_of(cfg), pattern)
        return jnp.sum(normal(5, *logits.shape) * logits), logits

    return jax.jit(jax.grad(functional, has_aux=True))(params)


def test_chunks_remat_and_scan_change_neither_logits_nor_gradient():
    cfg, params = setup()
    whole = gradients(replace(cfg, compute__attention_chunks=1), params, "causal")
    for way in ({"attention_chunks": 4, "remat": "full"}, {"scan_layers": False, "remat": "minimal"}):
        changed = replace(cfg, **{f"compute__{name}": value for name, value in way.items()})
        close(gradients(changed, params, "causal"), whole, atol=1e-4, rtol=1e-4)


def test_decoding_on_the_cache_gives_the_logits_of_whole_rows():
    cfg, params = setup()
    net, variables, tokens = build.backbone(cfg), {"params": params}, tokens_of(cfg)
    length = jnp.array([3, 5, 8])
    take = lambda first, count: jnp.take_along_axis(tokens, first[:, None] + jnp.arange(count), axis=1)
    _, cache = net.apply(variables, tokens[:, :8], PLACE[:, :8], None, causal, method="hidden")
    assert cache.k.shape == (2, B, 2, 4, 8)  # layers, rows, key heads, channels, tokens
    cache = grow(cache, L)
    first, cache = net.apply(variables, take(length, 3), cache, length, method="extend")
    second, _ = net.apply(variables, take(length + 3, 1), cache, length + 3, method="extend")
    whole = logits_of(cfg, params, tokens, "causal", None)
    for row, start in enumerate((3, 5, 8)):
        close(jnp.concatenate([first[row], second[row]]), whole[row, start : start + 4], atol=2e-5, rtol=1e-4)
