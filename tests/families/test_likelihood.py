"""Likelihoods where the answer is known: a linear-Gaussian latent model, a Gaussian's flow, and Cola's terms written plainly.

Axes: K draws, B rows, N positions, C channels, D observed.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.stats import multivariate_normal
from tiny import close, config, parameters

from cola_jax.config import ConfigError
from cola_jax.diffusion import change_of_variables as flow
from cola_jax.families import cola_likelihood
from cola_jax.families.cola_likelihood import log_likelihood, log_weights
from cola_jax.families.likelihood import MonteCarlo, PriorOde, elbo, iwae
from cola_jax.families.rows import RowOptions
from cola_jax.generate.prompts import PromptError
from cola_jax.models import build

pytestmark = pytest.mark.slow

C, D = 3, 2
MEAN = jnp.array([0.5, -1.0, 0.2])
SPREAD = jnp.array([[1.0, 0.4, 0.0], [0.4, 0.8, -0.3], [0.0, -0.3, 0.6]])  # of the prior
WEIGHT = jnp.array([[1.0, 0.3, -0.5], [0.2, -0.7, 0.9]])
NOISE = 0.3  # variance of x given z


def velocity(z_BNC, t):
    """E[z1 - z0 | z_t] of the straight path between N(MEAN, SPREAD) and N(0, I): the flow of the prior itself."""
    spread_t = (1 - t) ** 2 * SPREAD + t**2 * jnp.eye(C)
    gain = (t * jnp.eye(C) - (1 - t) * SPREAD) @ jnp.linalg.inv(spread_t)
    return -MEAN + (z_BNC - (1 - t) * MEAN) @ gain.T


@functools.partial(jax.jit, static_argnums=(1, 2))
def prior_log_density(z_BC, steps, solver="heun"):
    return flow.log_density(velocity, z_BC[:, None], flow.exact(1, C, 1), steps, solver)[:, 0]


def test_the_flow_of_a_gaussian_has_the_gaussians_density_and_more_steps_come_closer():
    z = jax.random.multivariate_normal(jax.random.PRNGKey(0), MEAN, SPREAD, (64,))
    true = multivariate_normal.logpdf(z, MEAN, SPREAD)
    errors = {
        solver: [float(jnp.max(jnp.abs(prior_log_density(z, steps, solver) - true))) for steps in (8, 16, 32)]
        for solver in ("euler", "midpoint", "heun")
    }
    assert errors["heun"][-1] < 0.02 and errors["midpoint"][-1] < 0.02
    for solver, order in (("euler", 1.6), ("midpoint", 3.0), ("heun", 3.0)):
        assert errors[solver][0] / errors[solver][1] > order and errors[solver][1] / errors[solver][2] > order


def test_random_directions_give_the_density_in_the_mean_and_the_same_one_for_a_key():
    z = jax.random.multivariate_normal(jax.random.PRNGKey(1), MEAN, SPREAD, (1,))
    many = jnp.broadcast_to(z, (4096, C))
    keys = jax.random.split(jax.random.PRNGKey(2), 4096)
    found = flow.log_density(velocity, many[:, None], flow.hutchinson(keys, 1, C), 16, "heun")[:, 0]
    exact = float(prior_log_density(z, 16)[0])
    assert float(jnp.std(found)) > 0.05
    assert float(jnp.mean(found)) == pytest.approx(exact, abs=4 * float(jnp.std(found)) / 64)
    again = flow.log_density(velocity, many[:8, None], flow.hutchinson(keys[:8], 1, C), 16, "heun")[:, 0]
    close(again, found[:8], atol=1e-5)


def latent_model(draws, steps, widened):
    """log w (K, B) of rows x drawn from the model, and their exact log p. widened: variance of q over that of the posterior."""
    x = jax.random.multivariate_normal(
        jax.random.PRNGKey(3), WEIGHT @ MEAN, WEIGHT @ SPREAD @ WEIGHT.T + NOISE * jnp.eye(D), (16,)
    )
    precision = jnp.linalg.inv(SPREAD) + WEIGHT.T @ WEIGHT / NOISE
    cover = jnp.linalg.inv(precision)
    centre = (x @ WEIGHT / NOISE + jnp.linalg.inv(SPREAD) @ MEAN) @ cover
    true = multivariate_normal.logpdf(x, WEIGHT @ MEAN, WEIGHT @ SPREAD @ WEIGHT.T + NOISE * jnp.eye(D))

    def once(key):
        z = centre + jax.random.multivariate_normal(key, jnp.zeros(C), widened * cover, (16,))
        log_q = jax.vmap(lambda z, m: multivariate_normal.logpdf(z, m, widened * cover))(z, centre)
        log_x = jax.vmap(lambda x, z: multivariate_normal.logpdf(x, WEIGHT @ z, NOISE * jnp.eye(D)))(x, z)
        return log_x + prior_log_density(z, steps) - log_q

    return jax.jit(jax.vmap(once))(jax.random.split(jax.random.PRNGKey(4), draws)), true


def test_the_bounds_of_a_linear_gaussian_model_rise_to_its_exact_likelihood():
    log_w, true = latent_model(2048, 32, widened=1.6)
    mean = lambda bound: float(jnp.mean(bound - true))
    bounds = {k: np.mean([mean(iwae(part)) for part in log_w.reshape(-1, k, 16)]) for k in (1, 4, 16, 64)}
    assert bounds[1] == pytest.approx(mean(elbo(log_w)), abs=1e-4), "of one draw both are the same"
    assert bounds[1] < -0.15, "another posterior than the true one leaves a gap"
    gaps = [-bounds[k] for k in (1, 4, 16, 64)]
    assert all(later < 0.6 * earlier for earlier, later in zip(gaps, gaps[1:])), gaps
    assert all(gap > -0.01 for gap in gaps), "a bound is not crossed beyond the solver's error"
    assert abs(mean(iwae(log_w))) < 0.01


def test_under_the_true_posterior_every_draw_is_exact_up_to_the_solver():
    errors = []
    for steps in (4, 8, 16, 32):
        log_w, true = latent_model(4, steps, widened=1.0)
        errors.append(float(jnp.max(jnp.abs(log_w - true))))
    assert errors[-1] < 0.02 and all(after < before / 2 for before, after in zip(errors, errors[1:])), errors


# --- cola ---------------------------------------------------------------------------------------------------------------

EFFORT = MonteCarlo(2, 2, "euler", "exact", "elbo")


@functools.cache
def setup():
    cfg = config(dit__num_layers=1, vae__encoder_blocks=1, vae__decoder_blocks=1, compute__attention_chunks=1)
    return cfg, parameters(cfg)


def whole_jacobian_density(cfg, params, z0, steps):
    """log p(z0) of one row by Euler steps with the trace of the Jacobian of all latents."""
    positions = jnp.arange(z0.shape[0])[None]

    def v(z, t):
        times = jnp.full((1, 1), t)
        return build.dit(cfg).apply(
            {"params": params["dit"]}, z0[None], z[None], times, None, positions, None, method="denoise_all"
        )[0]

    z, gained = z0, 0.0
    for step in range(steps):
        jacobian = jax.jacfwd(v)(z, step / steps).reshape(z.size, z.size)
        z, gained = z + v(z, step / steps) / steps, gained + jnp.trace(jacobian) / steps
    return gained - 0.5 * jnp.sum(z**2 + np.log(2 * np.pi))


def test_the_prior_of_a_text_is_that_of_the_whole_jacobian():
    cfg, params = setup()
    z0 = jax.random.normal(jax.random.PRNGKey(0), (2, 8, 4))
    keys = jax.random.split(jax.random.PRNGKey(1), 2)
    run = jax.jit(lambda z0: cola_likelihood.prior_log_density(build.of_cola(cfg), params, z0, keys, EFFORT.ode))
    plain = jax.jit(lambda row: whole_jacobian_density(cfg, params, row, 2))
    close(run(z0).sum(axis=1), jnp.stack([plain(row) for row in z0]), atol=1e-3, rtol=1e-4)
    shifted = z0.at[:, 4:].add(1.0)
    moved = run(shifted) - run(z0)
    assert float(jnp.abs(moved[:, :4]).max()) < 1e-4 < float(jnp.abs(moved[:, 4:]).max()), "blocks look back only"


def test_decoder_and_posterior_terms_are_those_of_the_vae():
    cfg, params = setup()
    tokens, length = np.array([[1, 2, 3, 4, 5, 6, 7, 8], [3, 1, 4, 1, 5, 9, 2, 6]]), np.array([8, 5])
    keys = jax.random.split(jax.random.PRNGKey(1), 2)
    terms = log_weights(build.of_cola(cfg), params, tokens, length, keys, EFFORT.draws, EFFORT.ode)
    assert all(term.shape == (2, 2) for term in terms)
    place = jnp.broadcast_to(jnp.arange(8), (2, 8))
    posterior = build.encoder(cfg).apply({"params": params["encoder"]}, tokens, place, None)
    entropy = 0.5 * jnp.sum(jnp.log(2 * jnp.pi * jnp.e) + posterior.logvar, axis=(1, 2))  # -E log q
    many = log_weights(build.of_cola(cfg), params, tokens, length, keys, 512, PriorOde(1, "euler", "hutchinson"))
    spread = np.std(many.log_posterior, axis=0) / np.sqrt(512)
    assert np.all(np.abs(np.mean(many.log_posterior, axis=0) + entropy) < 5 * spread)
    tighter = params | {"encoder": jax.tree.map(lambda x: x, params["encoder"])}
    head = tighter["encoder"]["head"]
    tighter["encoder"]["head"] = {"kernel": head["kernel"].at[:, 4:].set(0.0), "bias": head["bias"].at[4:].set(-29.0)}
    z0 = build.encoder(cfg).apply({"params": tighter["encoder"]}, tokens, place, None).mean  # no noise to speak of
    log_p = jax.nn.log_softmax(build.decoder(cfg).apply({"params": params["decoder"]}, z0, place, None))
    own = jnp.take_along_axis(log_p, tokens[..., None], axis=-1)[..., 0] * (np.arange(8) < length[:, None])
    again = log_weights(build.of_cola(cfg), tighter, tokens, length, keys, EFFORT.draws, EFFORT.ode)
    close(again.log_decoder[0], own.sum(axis=1), atol=1e-3)


def found(prompts, answers, settings=EFFORT, **options):
    return log_likelihood(*setup(), prompts, answers, RowOptions(0, prompt_tokens=8, **options), settings)


PROMPTS, ANSWERS = [[1, 2, 3, 4], [5]], [[5, 6, 7], [6, 7, 8, 9, 1]]


def test_a_conditional_is_the_difference_of_two_bounds_and_of_nothing_it_is_one():
    conditional = found(PROMPTS, ANSWERS)
    whole = found([[], []], [prompt + answer for prompt, answer in zip(PROMPTS, ANSWERS)])
    before = found([[], []], PROMPTS)
    assert (conditional.kind, whole.kind) == ("difference", "bound")
    close(conditional.log_p, whole.log_p - before.log_p, atol=1e-3)
    total = whole.terms["log_decoder"] + whole.terms["log_prior"] - whole.terms["log_posterior"]
    close(total, whole.log_p, atol=1e-3)


def test_a_likelihood_depends_on_seed_and_sample_alone():
    together = found(PROMPTS, ANSWERS).log_p
    close(found(PROMPTS[1:], ANSWERS[1:], samples=[1]).log_p, together[1:], atol=1e-3)
    assert abs(found(PROMPTS[1:], ANSWERS[1:], samples=[0]).log_p[0] - together[1]) > 1e-2
    assert abs(found(PROMPTS[1:], ANSWERS[1:], samples=[1], seed=1).log_p[0] - together[1]) > 1e-2


def test_more_draws_of_the_tighter_bound_are_at_least_the_looser():
    efforts = [MonteCarlo(4, 2, "euler", "exact", estimator) for estimator in ("elbo", "iwae")]
    loose, tight = (found([[], []], ANSWERS, settings).log_p for settings in efforts)
    assert np.all(tight > loose + 1e-3)


def test_what_has_no_likelihood_is_refused():
    with pytest.raises(PromptError, match="answer 1 is empty"):
        found(PROMPTS, [[1], []])
    cfg, params = setup()
    plain = config(vae__use_variation=False)
    with pytest.raises(ConfigError, match="without a posterior"):
        log_likelihood(plain, params, PROMPTS, ANSWERS, RowOptions(0), EFFORT)


@pytest.mark.parametrize("number", [0, 1, 2])
@pytest.mark.parametrize("divergence", ["exact", "hutchinson"])
def test_a_block_behind_its_past_is_as_likely_as_in_the_whole_text(number, divergence):
    cfg, params = setup()
    size = cfg.dit.block_size
    z0 = jax.random.normal(jax.random.PRNGKey(5), (3 * size, cfg.vae.latent_dim))
    whole = cola_likelihood.prior_log_density(
        build.of_cola(cfg), params, z0[None], jax.random.split(jax.random.PRNGKey(0), 1), PriorOde(3, "heun", "exact")
    )
    start = number * size
    keys = jax.random.split(jax.random.PRNGKey(1), 256 if divergence == "hutchinson" else 2)
    blocks = jnp.broadcast_to(z0[start : start + size], (len(keys), size, z0.shape[1]))
    ode = PriorOde(3, "heun", divergence)
    found = cola_likelihood.block_log_density(build.of_cola(cfg), params, z0[:start], blocks, keys, ode)
    near = 1e-4 if divergence == "exact" else 4 * float(jnp.std(found)) / 16
    assert float(jnp.mean(found)) == pytest.approx(float(jnp.sum(whole[0, start : start + size])), abs=near)
    assert (float(jnp.std(found)) > 1e-3) == (divergence == "hutchinson")
