"""The terms of the Text VAE's objective, from posteriors made by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from tiny import batch_of, config, normal, packed, parameters, replace

from cola_jax.families import FAMILIES, vae_terms
from cola_jax.models.text_vae import Posterior

B, N, C = 2, 6, 4


def where(weights=None):
    return vae_terms.LatentPositions(
        jnp.zeros((B, N), jnp.int32), None, jnp.ones((B, N)) if weights is None else weights
    )


def posterior(seed):
    return Posterior(normal(seed, B, N, C), 0.5 * normal(seed + 1, B, N, C))


def kl(q, p):
    """KL of diagonal Gaussians, added up, by numerical integration of one channel after the other."""
    total, grid = 0.0, np.linspace(-12, 12, 4001)
    for mu, logvar, mu_p, logvar_p in zip(*(np.asarray(x, np.float64).ravel() for x in (*q, *p))):
        one, other = stats.norm(mu, np.exp(logvar / 2)), stats.norm(mu_p, np.exp(logvar_p / 2))
        total += np.trapezoid(one.pdf(grid) * (one.logpdf(grid) - other.logpdf(grid)), grid)
    return total


def test_the_kl_terms_are_kullback_leibler_divergences():
    q, p = posterior(0), posterior(2)
    standard = Posterior(jnp.zeros((B, N, C)), jnp.zeros((B, N, C)))
    np.testing.assert_allclose(vae_terms.posterior_sums(q, where())["kl"], kl(q, standard), rtol=1e-4)
    np.testing.assert_allclose(vae_terms.kl_between(q, p, where()), kl(q, p), rtol=1e-4)
    np.testing.assert_allclose(vae_terms.kl_between(q, q, where()), 0.0, atol=1e-4)
    np.testing.assert_allclose(vae_terms.kl_between(q, standard, where()), kl(q, standard), rtol=1e-4)


def test_log_q_is_minus_the_entropy():
    q = posterior(0)
    entropy = stats.norm(0, np.exp(np.asarray(q.logvar, np.float64) / 2)).entropy().sum()
    np.testing.assert_allclose(vae_terms.posterior_sums(q, where())["log_q"], -entropy, rtol=1e-5)


def test_latents_outside_a_document_do_not_count():
    q = posterior(0)
    weights = jnp.ones((B, N)).at[:, 4:].set(0.0)
    wild = jax.tree.map(lambda leaf: leaf.at[:, 4:].set(9.0), q)
    one, other = (vae_terms.posterior_sums(p, where(weights)) for p in (q, wild))
    for name in one:
        np.testing.assert_allclose(one[name], other[name], rtol=1e-6)
        assert float(one[name]) != float(vae_terms.posterior_sums(q, where())[name])


def test_a_posterior_without_variance_has_its_mean_square_alone():
    assert set(vae_terms.posterior_sums(Posterior(normal(0, B, N, C), None), where())) == {"mean_square"}


@pytest.fixture(scope="module", params=[1.5, -2.0])
def fixed(request):
    cfg = config(family="text_vae", vae__fixed_logsnr=request.param, data__packing="best_fit")
    return cfg, parameters(cfg)


@pytest.mark.parametrize("last_ln", [True, False])
@pytest.mark.parametrize("mask_weight", [0.0, 0.1])
def test_a_fixed_logsnr_is_the_logsnr(fixed, last_ln, mask_weight):
    cfg, params = fixed
    cfg = replace(cfg, vae__encoder_last_ln=last_ln, objective__mask_weight=mask_weight, objective__mask_rate=0.5)
    family, batch = FAMILIES["text_vae"], packed(cfg, (8, 4))
    noise, counts = family.objective.draw(cfg, batch, jax.random.PRNGKey(0), 0)
    sums = jax.jit(lambda p: family.objective.loss(cfg, p, {}, batch, noise, counts, 0)[1])(params)
    np.testing.assert_allclose(family.objective.summarize(cfg, sums)["logsnr"], cfg.vae.fixed_logsnr, atol=1e-4)


@pytest.mark.parametrize("fields", [{}, {"vae__fixed_logsnr": 1.5}])
def test_rows_without_a_document_are_finite_and_add_nothing(fields):
    cfg = config(family="text_vae", data__packing="best_fit", **fields)
    family, batch = FAMILIES["text_vae"], packed(cfg, ())
    noise, counts = family.objective.draw(cfg, batch, jax.random.PRNGKey(0), 0)
    value, sums = jax.jit(lambda p: family.objective.loss(cfg, p, {}, batch, noise, counts, 0))(parameters(cfg))
    assert float(value) == 0.0
    assert all(float(total) == 0.0 for total in sums.values())


def test_a_learnt_logsnr_is_that_of_the_posteriors():
    cfg = config(family="text_vae")
    q = posterior(0)
    sums = vae_terms.posterior_sums(q, where()) | {"correct": jnp.ones(())}
    counts = {"tokens": jnp.float32(B * N), "latents": jnp.float32(B * N)}
    expected = np.log(np.mean(np.square(q.mean)) / np.mean(np.exp(q.logvar)))
    found = vae_terms.summarize(vae_terms.per_token(cfg, sums, counts))["logsnr"]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_without_variation_the_latent_is_the_mean_and_the_kl_is_gone():
    cfg = config(family="text_vae", vae__use_variation=False)
    family, params, batch = FAMILIES["text_vae"], parameters(cfg), batch_of(cfg)
    noise, counts = family.objective.draw(cfg, batch, jax.random.PRNGKey(0), 0)
    louder = noise | {"posterior": 100.0 * noise["posterior"]}
    run = jax.jit(lambda noise: family.objective.loss(cfg, params, {}, batch, noise, counts, 0))
    assert float(run(noise)[0]) == float(run(louder)[0])
    assert {"kl", "logsnr"}.isdisjoint(family.objective.summarize(cfg, run(noise)[1]))


def test_positions_and_documents_of_latents_are_those_of_their_tokens():
    cfg = config(vae__patch_size=2, data__packing="best_fit")
    found = vae_terms.layout(cfg, packed(cfg, (8, 4)))
    np.testing.assert_array_equal(found.positions[0], [0, 1, 2, 3, 0, 1, 0, 1])
    np.testing.assert_array_equal(found.segments[0], [1, 1, 1, 1, 2, 2, 0, 0])
    np.testing.assert_array_equal(found.weights[0], [1, 1, 1, 1, 1, 1, 0, 0])
    assert vae_terms.layout(replace(cfg, data__packing="concat"), packed(cfg, (8, 4))).segments is None
