"""The path, the solvers, the law of t, known prefixes and guidance, without a network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from tiny import close, normal

from cola_jax.config import FlowConfig
from cola_jax.diffusion import guidance, known_prefix, path, solvers, timesteps

DRAWS = 20_000
NOISE = 4.0 / np.sqrt(DRAWS)  # four standard errors of a mean of unit variance


def test_the_path_goes_from_data_to_noise_along_its_target():
    z0, z1 = normal(0, 5), normal(1, 5)
    close(path.interpolate(z0, z1, 0.0), z0)
    close(path.interpolate(z0, z1, 1.0), z1)
    close(path.interpolate(z0, z1, 0.7) - path.interpolate(z0, z1, 0.2), 0.5 * path.velocity_target(z0, z1))


def test_the_target_is_the_derivative_of_the_path():
    z0, z1 = normal(0, 5), normal(1, 5)
    _, slope = jax.jvp(lambda t: path.interpolate(z0, z1, t), (0.3,), (1.0,))
    close(slope, path.velocity_target(z0, z1))


@pytest.mark.parametrize(("s", "t"), [(0.0, 0.4), (0.3, 0.5), (0.5, 1.0), (0.2, 0.25)])
def test_renoising_gives_the_marginal_of_the_path(s, t):
    z0 = 3.0
    z_s = path.interpolate(z0, normal(0, DRAWS), s)
    z_t = path.renoise(z_s, s, t, normal(1, DRAWS))
    assert abs(z_t.mean() - (1 - t) * z0) < NOISE
    assert abs(z_t.std() - t) < NOISE


def test_renoising_depends_on_what_was_there():
    z_s, noise = normal(0, 5), normal(1, 5)
    close(path.renoise(z_s, 0.3, 0.3, noise), z_s, atol=1e-4)
    a = (1 - 0.5) / (1 - 0.3)
    close(path.renoise(z_s + 1.0, 0.3, 0.5, noise) - path.renoise(z_s, 0.3, 0.5, noise), jnp.full(5, a))


def solve(solver, steps, velocity, z1):
    """From t = 1 down to 0; velocity: (z, t) -> v."""
    for times in solvers.evaluation_times(solver, steps):
        z1 = solvers.step(solver, velocity, z1, times, 1.0 / steps)
    return z1


@pytest.mark.parametrize("solver", solvers.EVALUATIONS)
@pytest.mark.parametrize("steps", [1, 3])
def test_every_solver_is_exact_where_paths_are_straight(solver, steps):
    z0, z1 = normal(0, 5), normal(1, 5)
    close(solve(solver, steps, lambda z, t: path.velocity_target(z0, z1), z1), z0)


@pytest.mark.parametrize("solver", ["midpoint", "heun"])
def test_second_order_solvers_are_exact_where_velocity_is_linear_in_time(solver):
    z1 = normal(1, 5)
    found = solve(solver, 3, lambda z, t: jnp.full(5, 1.0 + 4.0 * t), z1)
    close(found, z1 - 3.0)  # the integral of 1 + 4 t
    assert np.abs(solve("euler", 3, lambda z, t: jnp.full(5, 1.0 + 4.0 * t), z1) - (z1 - 3.0)).min() > 0.1


@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("midpoint", 2), ("heun", 2)])
def test_the_error_of_a_solver_falls_with_its_order(solver, order):
    velocity = lambda z, t: jnp.sin(3.0 * t) * z
    exact = np.exp(-(1.0 - np.cos(3.0)) / 3.0)  # dz/dt = sin(3 t) z from z(1) = 1 back to 0
    errors = [abs(float(solve(solver, steps, velocity, jnp.ones(()))) - exact) for steps in (8, 16, 32)]
    slopes = np.log2(errors[:-1]) - np.log2(errors[1:])
    np.testing.assert_allclose(slopes, order, atol=0.25)


@pytest.mark.parametrize("solver", solvers.EVALUATIONS)
def test_a_solver_asks_for_the_velocity_at_the_times_it_says(solver):
    asked = []

    def velocity(z, t):
        asked.append(float(t))
        return jnp.zeros_like(z)

    solve(solver, 4, velocity, jnp.ones(2))
    expected = {"euler": [1.0, 0.75, 0.5, 0.25], "midpoint": [1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125],
                "heun": [1.0, 0.75, 0.75, 0.5, 0.5, 0.25, 0.25, 0.0]}[solver]  # fmt: skip
    np.testing.assert_allclose(asked, expected, atol=1e-6)


def test_an_unknown_solver_is_refused_by_name():
    with pytest.raises(ValueError, match="'rk4' is not one of euler, midpoint, heun"):
        solvers.step("rk4", lambda z, t: z, jnp.ones(2), jnp.zeros(1), 0.1)


def test_a_step_is_fp32_whatever_the_velocity():
    z = solvers.step("heun", lambda z, t: z.astype(jnp.bfloat16), jnp.ones(2), jnp.zeros(2), 0.1)
    assert z.dtype == jnp.float32


@pytest.mark.parametrize(("loc", "scale"), [(1.0, 1.0), (-0.5, 0.5), (2.3, 1.5)])
def test_times_follow_the_logit_normal_law(loc, scale):
    flow = FlowConfig(timestep_loc=loc, timestep_scale=scale)
    t = np.asarray(timesteps.sample_times(flow, jax.random.PRNGKey(0), (DRAWS,)), np.float64)
    assert np.all((t > 0) & (t < 1))
    logits = np.log(t) - np.log1p(-t)
    assert abs(logits.mean() - loc) < NOISE * scale
    assert abs(logits.std() - scale) < NOISE * scale
    assert stats.kstest(logits, stats.norm(loc, scale).cdf).pvalue > 1e-3


def test_uniform_times_are_uniform():
    t = timesteps.sample_times(FlowConfig(timestep_law="uniform"), jax.random.PRNGKey(0), (DRAWS,))
    assert stats.kstest(np.asarray(t, np.float64), stats.uniform().cdf).pvalue > 1e-3


@pytest.mark.parametrize("rate", [0.05, 0.6])
def test_known_prefixes_have_the_rate_of_the_config_and_every_length_alike(rate):
    blocks, size = DRAWS, 5
    known = np.asarray(
        known_prefix.sample_known(FlowConfig(known_prefix_probability=rate), jax.random.PRNGKey(0), blocks, size)
    )
    lengths = known.sum(1)
    assert np.all(known == (np.arange(size) < lengths[:, None])), "known latents lead their block"
    assert lengths.max() == size - 1
    assert abs((lengths > 0).mean() - rate) < NOISE
    shares = np.bincount(lengths[lengths > 0], minlength=size)[1:] / (lengths > 0).sum()
    np.testing.assert_allclose(shares, 1 / (size - 1), atol=4 / np.sqrt(rate * DRAWS))


def test_a_block_of_two_may_know_its_first_latent_only():
    known = known_prefix.sample_known(FlowConfig(known_prefix_probability=1.0), jax.random.PRNGKey(0), 50, 2)
    np.testing.assert_array_equal(known, np.tile([True, False], (50, 1)))


def test_guidance_is_a_line_through_both_velocities():
    v_c, v_u = normal(0, 2, 3), normal(1, 2, 3)
    close(guidance.guide(v_c, v_u, 1.0), v_c)
    close(guidance.guide(v_c, v_u, 0.0), v_u)
    close(guidance.guide(v_c, v_u, 7.0), v_u + 7.0 * (v_c - v_u))
    close(guidance.guide(v_c, v_c, 7.0), v_c)


def test_guidance_takes_a_scale_for_each_row_and_is_fp32():
    v_c, v_u = normal(0, 2, 3).astype(jnp.bfloat16), normal(1, 2, 3).astype(jnp.bfloat16)
    guided = guidance.guide(v_c, v_u, jnp.array([[1.0], [3.0]]))
    assert guided.dtype == jnp.float32
    close(guided[0], guidance.guide(v_c, v_u, 1.0)[0])
    close(guided[1], guidance.guide(v_c, v_u, 3.0)[1])
