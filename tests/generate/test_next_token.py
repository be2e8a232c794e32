"""The token loop writes its caches in place, whether layers are unrolled or scanned."""

import re

import jax
import pytest
from tiny import config, parameters

from cola_jax.generate import next_token
from cola_jax.models.cache import append, append_layer, grow, to_cache_layout

ROWS, PROMPT, COUNT = 5, 16, 4


@pytest.fixture
def compiled_as_in_use():
    """Tests here compile in a hurry (see conftest.py), which leaves copies in that nobody's program has."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


@pytest.mark.parametrize("scan", [False, True], ids=["unrolled", "scanned"])
def test_no_token_copies_a_cache(scan, compiled_as_in_use):
    cfg = config(family="ar", compute__scan_layers=scan, sampling__max_new_tokens=COUNT)
    program, arguments = next_token.abstract_step(cfg, parameters(cfg), ROWS, PROMPT, COUNT)
    text = program.lower(*arguments).compile().as_text()
    heads, channels, slots = cfg.backbone.kv_heads, cfg.backbone.dim // cfg.backbone.num_heads, PROMPT + COUNT
    shapes = [f"{ROWS},{heads},{channels},{slots}", f"{ROWS},{heads},{slots},{channels}"]
    cache = rf"f32\[(?:{cfg.backbone.num_layers},)?(?:{'|'.join(shapes)})\]"
    assert re.search(cache, text), "the pattern knows a cache when it sees one"
    assert not re.findall(rf"= {cache}\S* copy\(", text)


@pytest.mark.parametrize("stacked", [False, True])
def test_a_layer_takes_new_entries_where_the_caches_of_all_layers_would(stacked):
    keys = jax.random.split(jax.random.PRNGKey(0), 8)
    draw = lambda key, size: jax.random.normal(key, (3, size, 2, 4))  # rows, positions, heads, channels
    caches = grow([to_cache_layout(draw(keys[2 * i], 5), draw(keys[2 * i + 1], 5)) for i in range(2)], 9)
    k, v = draw(keys[6], 2), draw(keys[7], 2)
    length = jax.numpy.array([0, 3, 7])
    whole = jax.tree.map(lambda *layers: jax.numpy.stack(layers), *caches) if stacked else caches
    found, layer = append_layer(whole, jax.numpy.int32(1) if stacked else 1, k, v, length)
    expected = append(caches[1], to_cache_layout(k, v), length)
    of = (lambda i: jax.tree.map(lambda x: x[i], found)) if stacked else (lambda i: found[i])
    for one, other in ((layer, expected), (of(1), expected), (of(0), caches[0])):
        assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), one, other))
