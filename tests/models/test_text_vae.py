"""The Text VAE: its decoder's cache, its gradients however it is computed, and its variants."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import close, config, normal, parameters, replace

from cola_jax.models import build
from cola_jax.models.cache import append, grow
from cola_jax.models.text_vae import from_prior, to_prior

B, N = 3, 12
SEGMENTS = np.array([[1] * 4 + [2] * 8, [1] * 8 + [0] * 4, [1] * 12], np.int32)
PLACE = np.tile(np.arange(N, dtype=np.int32), (B, 1))


@pytest.fixture(scope="module")
def cfg():
    return config()


@pytest.fixture(scope="module")
def params(cfg):
    return parameters(cfg)


def tokens_of(cfg, length=N):
    tokens = np.random.default_rng(0).integers(0, cfg.vae.vocab_size, (B, length * cfg.vae.patch_size))
    return jnp.asarray(tokens, jnp.int32)


def there_and_back(cfg, params, tokens, place=PLACE, segments=None):
    """Encodes and decodes the posterior mean."""
    posterior = build.encoder(cfg).apply({"params": params["encoder"]}, tokens, place, segments)
    return posterior, build.decoder(cfg).apply({"params": params["decoder"]}, posterior.mean, place, segments)


def gradients(cfg, params):
    def functional(params):
        posterior, logits = there_and_back(cfg, params, tokens_of(cfg), segments=SEGMENTS)
        return jnp.sum(normal(5, *logits.shape) * logits) + jnp.sum(posterior.logvar), logits

    return jax.jit(jax.grad(functional, has_aux=True))(params)


@pytest.fixture(scope="module")
def whole(cfg, params):
    return gradients(replace(cfg, compute__attention_chunks=1), params)


WAYS = [
    {"attention_chunks": 4, "remat": "full"},
    {"attention_chunks": 3, "remat": "minimal"},
    {"attention_chunks": 2, "scan_layers": False, "remat": "full"},
]


@pytest.mark.parametrize(
    "way",
    [WAYS[2], *(pytest.param(way, marks=pytest.mark.slow) for way in WAYS[:2])],
    ids=lambda way: ", ".join(f"{name} {value}" for name, value in way.items()),
)
def test_chunks_remat_and_scan_change_neither_logits_nor_gradient(cfg, params, whole, way):
    changed = replace(cfg, **{f"compute__{name}": value for name, value in way.items()})
    close(gradients(changed, params), whole, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("patch_size", "block_size"), [(1, 1), (2, 4)])
def test_decoding_on_the_cache_gives_the_logits_of_whole_rows(patch_size, block_size):
    cfg = config(vae__patch_size=patch_size, vae__block_size=block_size, train__sequence_length=32)
    variables = {"params": parameters(cfg)["decoder"]}
    net, z, length = build.decoder(cfg), normal(1, B, N, 4), jnp.array([0, 4, 8])
    own = length[:, None] + jnp.arange(4)
    take = lambda x, places: jnp.take_along_axis(x, places[..., None], axis=1)

    @jax.jit
    def run(z):
        _, cache = net.apply(variables, z[:, :8], PLACE[:, :8], None, method="hidden")
        cache = grow(cache, N)
        logits, fresh = net.apply(variables, take(z, own), cache, length, method="extend")
        cache = append(cache, fresh, length)
        next_place = jnp.minimum(own + 4, N - 4 + jnp.arange(4))
        again, _ = net.apply(variables, take(z, next_place), cache, length + 4, method="extend")
        return logits, again, net.apply(variables, z, PLACE, None)

    logits, again, whole = run(z)
    tokens = lambda row, start: np.asarray(whole)[row, start * patch_size : (start + 4) * patch_size]
    for row, start in enumerate((0, 4, 8)):
        np.testing.assert_allclose(logits[row], tokens(row, start), atol=2e-5)
    for row, start in enumerate((4, 8)):
        np.testing.assert_allclose(again[row], tokens(row, start), atol=2e-5)


def test_the_posterior_mean_has_unit_norm_and_its_logvar_is_clipped(cfg, params):
    wild = jax.tree.map(lambda leaf: 100.0 * leaf, params["encoder"]["head"])
    posterior, _ = there_and_back(cfg, params | {"encoder": params["encoder"] | {"head": wild}}, tokens_of(cfg))
    np.testing.assert_allclose(np.mean(posterior.mean, axis=-1), 0.0, atol=1e-5)
    np.testing.assert_allclose(np.var(posterior.mean, axis=-1), 1.0, atol=1e-3)
    assert (posterior.logvar.min(), posterior.logvar.max()) == (-30.0, 20.0)
    free, _ = there_and_back(replace(cfg, vae__encoder_last_ln=False), params, tokens_of(cfg))
    assert np.abs(np.mean(free.mean, axis=-1)).max() > 0.1


def test_without_variation_there_is_no_logvar_and_half_the_head():
    cfg = config(vae__use_variation=False)
    params = parameters(cfg)
    posterior, _ = there_and_back(cfg, params, tokens_of(cfg))
    assert posterior.logvar is None
    assert params["encoder"]["head"]["kernel"].shape == (16, 4)


def test_the_mask_token_has_a_row_of_its_own(cfg, params):
    assert params["encoder"]["embedding"].shape == (14, 16)
    tokens = tokens_of(cfg)
    plain, _ = there_and_back(cfg, params, tokens)
    masked, _ = there_and_back(cfg, params, tokens.at[1, 5].set(13))
    assert np.all(np.isfinite(masked.mean)) and np.abs(plain.mean - masked.mean)[1, 5].max() > 1e-3


VARIANTS = [
    {"vae__block__activation": "silu"},
    {"vae__block__activation": "gelu"},
    {"vae__block__post_norm": False},
    {"vae__block__qk_norm": False},
    {"vae__block__clip_qkv": 0.2},
    {"vae__block__shared_heads_kv": 2},
]


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: next(iter(variant)).split("__")[-1])
def test_every_variant_of_the_block_computes_something_else(cfg, whole, variant):
    changed = config(**variant)
    _, logits = there_and_back(changed, parameters(changed), tokens_of(changed), segments=SEGMENTS)
    assert logits.shape == (B, N, 13) and np.all(np.isfinite(logits))
    assert np.abs(logits - whole[1]).max() > 1e-2


def test_norms_and_projections_have_the_parameters_that_the_config_asks_for():
    plain = parameters(config(vae__block__norm_affine=False, vae__block__qk_norm_affine=False, vae__block__bias=False))
    blocks = plain["decoder"]["blocks"]
    assert set(blocks) == {"qkv", "attn_out", "ffn_in", "ffn_out", "norm_ffn"}
    assert set(blocks.pop("norm_ffn")) == set(plain["decoder"]["final_norm"]) == {"scale", "bias"}
    dense = [*blocks.values(), plain["decoder"]["input"], plain["decoder"]["logits"], plain["encoder"]["head"]]
    assert all(set(p) == {"kernel"} for p in dense)
    assert all(set(p) == {"kernel", "bias"} for p in (plain["encoder"]["patch"], plain["decoder"]["unpatch"]))
    assert set(parameters(config(vae__block__qk_bias=True))["encoder"]["blocks"]["qkv"]) == {"kernel", "bias"}


def test_shared_heads_are_full_heads_with_repeated_keys_and_values():
    shared, full = config(vae__block__shared_heads_kv=2, vae__block__qk_norm=False), config(vae__block__qk_norm=False)
    params = parameters(shared)
    kernel = params["decoder"]["blocks"]["qkv"]["kernel"]
    q, k, v = jnp.split(kernel, [16, 24], axis=-1)
    repeated = jnp.concatenate([q, k, k, v, v], axis=-1)  # one head of keys for two of queries
    blocks = params["decoder"]["blocks"] | {"qkv": {"kernel": repeated}}
    z = normal(1, B, N, 4)
    one = build.decoder(shared).apply({"params": params["decoder"]}, z, PLACE, None)
    close(one, build.decoder(full).apply({"params": params["decoder"] | {"blocks": blocks}}, z, PLACE, None), atol=1e-4)


def test_latents_cross_to_the_prior_and_back(cfg):
    z = normal(0, 2, 3, 4)
    assert (cfg.vae.latent_shift, cfg.vae.latent_scale) == (0.25, 1.5)
    close(to_prior(cfg.vae, z), (z - 0.25) * 1.5)
    close(from_prior(cfg.vae, to_prior(cfg.vae, z)), z)


def test_tokens_of_a_patch_make_one_latent_and_come_back_in_their_order():
    cfg = config(vae__patch_size=2, train__sequence_length=16)
    params, tokens = parameters(cfg), tokens_of(cfg)
    before, logits = there_and_back(cfg, params, tokens)
    assert before.mean.shape == (B, N, 4) and logits.shape == (B, 2 * N, 13)
    swapped = tokens.at[0, 6].set(tokens[0, 7]).at[0, 7].set((tokens[0, 6] + 1) % 13)
    after, _ = there_and_back(cfg, params, swapped)
    change = np.abs(before.mean - after.mean).max(-1)[0]
    assert change[:3].max() == 0.0 and change[3] > 1e-3
    kernel = params["decoder"]["unpatch"]["kernel"].reshape(16, 16, 2)
    second = params | {"decoder": params["decoder"] | {"unpatch": {
        "kernel": kernel.at[..., 1].multiply(2.0).reshape(16, 32), "bias": params["decoder"]["unpatch"]["bias"]}}}  # fmt: skip
    _, other = there_and_back(cfg, second, tokens)
    difference = np.abs(logits - other).max((0, 2))
    assert difference[0::2].max() == 0.0 and difference[1::2].min() > 1e-3
