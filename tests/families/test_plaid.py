"""Plaid: sizes, its bound and gradients written out plainly, its schedule, its sampler, and a likelihood that is known.

Axes: B rows, L tokens, E channels, V vocabulary.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import batch_of, close, config, packed, parameters

from cola_jax import config as settings
from cola_jax.config import ConfigError, RunConfig
from cola_jax.diffusion import noise_schedule
from cola_jax.families import FAMILIES, plaid
from cola_jax.families.likelihood import MonteCarlo
from cola_jax.families.rows import RowOptions
from cola_jax.generate.prompts import PromptError
from cola_jax.models import build

FAMILY = FAMILIES["plaid"]


@functools.cache
def setup(**changes):
    cfg = config(
        family="plaid", backbone__num_layers=1, compute__cross_entropy_chunk=5, plaid__schedule_width=8, **changes
    )
    params = parameters(cfg)
    params["schedule"] |= {"lowest": jnp.float32(-2.0), "highest": jnp.float32(4.0)}
    return cfg, params


def test_the_published_sizes_have_the_matched_core():
    cfg = RunConfig(family="plaid")
    shapes = jax.eval_shape(lambda: FAMILY.objective.init(cfg, jax.random.PRNGKey(0)))
    sizes = {name: sum(x.size for x in jax.tree.leaves(tree)) for name, tree in shapes.items()}
    matrices = sum(x.size for x in jax.tree.leaves(shapes["backbone"]["blocks"]) if x.ndim == 3)
    assert matrices == 1_811_939_328
    assert sizes["embedding"] == 100_278 * 16 and sizes["schedule"] == 3 * 1024 + 2
    ends = (16 + 16 + 64) * 2048 + 2048 * 100_278
    assert sizes["backbone"] == 1_812_051_968 + ends


def test_the_experiment_differs_from_its_neighbours_in_the_family_alone():
    own = settings.to_dict(settings.resolve(settings.load("plaid_2b:somewhere")))
    ar = settings.to_dict(settings.resolve(settings.load("ar_2b:somewhere")))
    assert settings.differences(ar, own) == ["family: 'ar' -> 'plaid'"]
    with pytest.raises(ConfigError, match="give the prepared corpus"):
        settings.load("plaid_2b")


def test_the_schedule_rises_from_gamma_0_to_gamma_1_and_knows_its_slope():
    params = noise_schedule.init(jax.random.PRNGKey(0), -3.0, 6.0, 1024)
    t = jnp.linspace(0.0, 1.0, 201)
    gamma, slope = noise_schedule.gamma_of(params, noise_schedule.shape_of(params, t))
    close(gamma[jnp.array([0, -1])], jnp.array([-3.0, 6.0]), atol=1e-4)
    assert np.all(np.diff(gamma) > 0)
    close(slope[1:-1], (gamma[2:] - gamma[:-2]) / 0.01, atol=0.05)
    alpha, sigma = noise_schedule.scales(gamma)
    close(alpha**2 + sigma**2, jnp.ones(201), atol=1e-5)
    close(jnp.log(sigma**2 / alpha**2), gamma, atol=1e-3)


def plain_rows(cfg, params, shape, batch, noise, bias):
    """Diffusion, reconstruction and prior of every row, nats per token, straight from BASELINES 3."""
    low, high = params["schedule"]["lowest"], params["schedule"]["highest"]
    gamma, slope = low + (high - low) * shape[:, 0], (high - low) * shape[:, 1]
    table = params["embedding"]["table"]
    table = table / jnp.linalg.norm(table, axis=-1, keepdims=True)
    e = table[batch["tokens"]]
    a2, s2 = 1 / (1 + jnp.exp(gamma)), 1 / (1 + jnp.exp(-gamma))
    z = jnp.sqrt(a2)[:, None, None] * e + jnp.sqrt(s2)[:, None, None] * noise["eps"]

    def read(p, table, z, earlier, gamma, a2, s2):
        net = build.denoiser(cfg)
        h = net.apply({"params": p}, z, earlier, gamma, batch["positions"], batch["segments"], method="hidden")
        logits = h @ p["logits"]["kernel"] + bias * (jnp.sqrt(a2) / s2)[:, None, None] * (z @ table.T)
        return jax.nn.softmax(logits) @ table, jax.nn.log_softmax(logits)

    fixed = jax.lax.stop_gradient((params["backbone"], table, z, jnp.zeros_like(z), gamma, a2, s2))
    earlier = read(*fixed)[0] * noise["conditions"][:, None, None]
    x, log_p = read(params["backbone"], table, z, earlier, gamma, a2, s2)
    weights = batch["weights"] / batch["weights"].sum(1, keepdims=True)
    mean = lambda values: (values * weights).sum(1)
    reconstruction = mean(-jnp.take_along_axis(log_p, batch["tokens"][..., None], -1)[..., 0])
    diffusion = 0.5 * jnp.exp(-gamma) * slope * mean(((e - x) ** 2).sum(-1))
    a1, s1 = 1 / (1 + jnp.exp(high)), 1 / (1 + jnp.exp(-high))
    prior = mean(0.5 * (a1 * e**2 + s1 - 1 - jnp.log(s1)).sum(-1))
    return diffusion, reconstruction, prior


def test_loss_and_gradients_are_the_bound_and_for_the_schedules_shape_the_mean_square():
    cfg, params = setup(data__packing="best_fit")
    batch = packed(cfg, (8, 4))
    noise, counts = FAMILY.objective.draw(cfg, batch, jax.random.PRNGKey(1), 0)
    noise |= {
        "reconstructs": jnp.array([True, False, False, False]),
        "conditions": jnp.array([True, True, False, True]),
    }
    tokens, share, step = batch["weights"].sum(1), cfg.plaid.reconstruction_share, 2500
    part = jnp.array([True, False, False, False])

    def plain(params, squared):
        shape = noise_schedule.shape_of(params["schedule"], noise["t"])
        shape = jnp.where(part[:, None], jnp.array([0.0, 1.0]), shape)
        diffusion, reconstruction, prior = plain_rows(cfg, params, shape, batch, noise, step / 5000)
        if squared:
            return jnp.sum(diffusion**2 * ~part * tokens) / (1 - share) / tokens.sum()
        rows = reconstruction * part / share + diffusion * ~part / (1 - share) + prior
        return jnp.sum(rows * tokens) / tokens.sum()

    value = lambda params: plaid.loss(cfg, params, {}, batch, noise, counts, step)
    (found, sums), gradient = jax.jit(jax.value_and_grad(value, has_aux=True))(params)
    bound, expected = jax.jit(jax.value_and_grad(lambda p: plain(p, False)))(params)
    square = jax.jit(jax.grad(lambda p: plain(p, True)))(params)["schedule"]
    close(found, bound, atol=1e-4)
    for name in ("inner", "bias", "outer"):
        expected["schedule"][name] = square[name]
    close(gradient, expected, atol=1e-4, rtol=2e-3)
    assert float(jnp.abs(square["outer"]).max()) > 1e-5
    metrics = plaid.summarize(cfg, sums)
    assert metrics["bound"] == pytest.approx(float(found), rel=1e-4)
    assert metrics["bound"] == pytest.approx(
        float(sum(metrics[n] for n in ("reconstruction", "diffusion", "prior"))), rel=1e-5
    )


def test_parts_and_times_lie_on_a_grid_over_the_global_batch():
    cfg, _ = setup()
    noise, _ = FAMILY.objective.draw(cfg, batch_of(cfg, rows=800), jax.random.PRNGKey(0), 0)
    reconstructs, t = np.asarray(noise["reconstructs"]), np.sort(np.asarray(noise["t"]))
    assert abs(reconstructs.sum() - 100) <= 1 and np.all(np.asarray(noise["t"])[reconstructs] == 0)
    gaps = np.diff(t[101:])
    assert gaps.max() < 0.003 and t[-1] > 0.99
    assert abs(np.asarray(noise["conditions"]).mean() - 0.25) < 0.06


# --- writing and likelihood ---------------------------------------------------------------------------------------------


def written(cfg, params, prompts, **options):
    [(rows, array)] = plaid.generate(cfg, params, prompts, RowOptions(0, **options))
    assert np.asarray(array).tolist() == rows
    return rows


def plain_sampling(cfg, params, prompt, key, length):
    """BASELINES 3 for one row of `length` positions, step by step."""
    steps, temperature, schedule = cfg.sampling.plaid.steps, cfg.sampling.plaid.score_temperature, params["schedule"]
    table = params["embedding"]["table"] / jnp.linalg.norm(params["embedding"]["table"], axis=-1, keepdims=True)
    end, place = len(prompt) + cfg.sampling.max_new_tokens, jnp.arange(length)
    segments = jnp.asarray(place < end, jnp.int32)[None]
    drawn = lambda step: jnp.stack([
        jax.random.normal(jax.random.fold_in(jax.random.fold_in(key, step), i), (table.shape[1],)) for i in range(length)
    ])  # fmt: skip

    @jax.jit
    def logits_of(z, earlier, gamma):
        h = build.denoiser(cfg).apply(
            {"params": params["backbone"]}, z[None], earlier[None], gamma[None], place[None], segments, method="hidden"
        )[0]
        a, s2 = jnp.sqrt(1 / (1 + jnp.exp(gamma))), 1 / (1 + jnp.exp(-gamma))
        return h @ params["backbone"]["logits"]["kernel"] + a / s2 * z @ table.T

    at = lambda t: noise_schedule.gamma_of(schedule, noise_schedule.shape_of(schedule, jnp.array([t])))[0][0]
    hold = lambda x: x.at[: len(prompt)].set(table[jnp.array(prompt, int)])
    z, earlier = drawn(0), hold(jnp.zeros((length, table.shape[1])))
    for step in range(steps):
        gamma_t, gamma_s = at(1 - step / steps), at(1 - (step + 1) / steps)
        a_t, s_t = jnp.sqrt(1 / (1 + jnp.exp(gamma_t))), jnp.sqrt(1 / (1 + jnp.exp(-gamma_t)))
        a_s = jnp.sqrt(1 / (1 + jnp.exp(gamma_s)))
        earlier = hold(jax.nn.softmax(logits_of(z, earlier, gamma_t)) @ table)
        eps = (z - a_t * earlier) / s_t / temperature
        clean = hold((z - s_t * eps) / a_t)
        c = 1 - jnp.exp(gamma_s - gamma_t)
        z = z * (1 - c) * a_s / a_t + c * a_s * clean + jnp.sqrt(c * (1 - a_s**2)) * drawn(step + 1)
    return jnp.argmax(logits_of(z, earlier, at(0.0)), axis=-1)[len(prompt) : end].tolist()


def test_embeddings_come_out_of_noise_as_the_sampler_written_out_plainly_does():
    cfg, params = setup(sampling__plaid__steps=3)
    prompts = [[1, 2, 3], []]
    keys = [jax.random.fold_in(jax.random.PRNGKey(7), row) for row in range(2)]
    expected = [plain_sampling(cfg, params, prompt, key, 24) for prompt, key in zip(prompts, keys)]
    assert written(cfg, params, prompts, seed=7) == expected


@pytest.mark.slow
def test_steps_and_score_temperature_change_what_is_written():
    cfg, params = setup(sampling__plaid__steps=3)
    prompts = [[1, 2, 3], [4]] * 8
    rows = written(cfg, params, prompts)
    assert written(setup(sampling__plaid__steps=6)[0], params, prompts) != rows
    assert written(setup(sampling__plaid__steps=3, sampling__plaid__score_temperature=0.5)[0], params, prompts) != rows
    assert written(cfg, params, prompts, prompt_tokens=32) == rows


def uniform(vocabulary=13):
    """Parameters under which every token is as likely as every other: no read-out, orthonormal embeddings, evidence alone."""
    cfg = config(family="plaid", backbone__num_layers=1, backbone__vocab_size=vocabulary, plaid__schedule_width=8)
    params = jax.tree.map(jnp.zeros_like, parameters(cfg))
    params["embedding"]["table"] = jnp.eye(vocabulary, cfg.plaid.embedding_dim)
    params["schedule"] = noise_schedule.init(jax.random.PRNGKey(0), -3.0, 6.0, 8)
    return cfg, params


def test_the_bound_of_independent_uniform_tokens_is_their_exact_likelihood():
    cfg, params = uniform()
    answers = np.random.default_rng(0).integers(0, 13, (64, 16)).tolist()
    settings = MonteCarlo(256, 1, "euler", "exact", "elbo")
    found = plaid.log_likelihood(cfg, params, [[]] * 64, answers, RowOptions(0), settings)
    exact = -16 * np.log(13)
    error = float(np.std(found.log_p)) / 8
    assert found.kind == "bound" and float(found.log_p.mean()) == pytest.approx(exact, abs=4 * error + 0.1)
    assert error < 0.3
    close(found.log_p, sum(found.terms.values()), atol=1e-3)
    assert all(np.all(term <= 0) for term in found.terms.values())


def test_a_likelihood_depends_on_seed_and_sample_alone_and_a_conditional_is_a_difference():
    cfg, params = setup()
    settings = MonteCarlo(4, 1, "euler", "exact", "elbo")
    tell = lambda prompts, answers, **options: plaid.log_likelihood(
        cfg, params, prompts, answers, RowOptions(0, prompt_tokens=16, **options), settings
    )
    prompts, answers = [[1, 2], [3, 4, 5]], [[6, 7, 8], [9]]
    both = tell(prompts, answers)
    assert both.kind == "difference"
    close(tell(prompts[1:], answers[1:], samples=[1]).log_p, both.log_p[1:], atol=1e-3)
    whole, before = tell([[], []], [p + a for p, a in zip(prompts, answers)]), tell([[], []], prompts)
    close(both.log_p, whole.log_p - before.log_p, atol=1e-3)
    with pytest.raises(PromptError, match="answer 0 is empty"):
        tell([[1]], [[]])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"plaid__reconstruction_share": 0.0}, "plaid.reconstruction_share=0.0 must be more than 0 and less than 1"),
        ({"plaid__gamma_0": 7.0}, "plaid.gamma_0=7.0 must be below gamma_1=6.0"),
        ({"sampling__plaid__steps": 0}, "sampling.plaid.steps=0 must be at least 1"),
        ({"sampling__plaid__score_temperature": 0.0}, "score_temperature=0.0 must be more than 0"),
        ({"sampling__temperature": 1.0}, "sampling.temperature=1.0 is not read by family 'plaid'"),
        ({"sampling__guidance": 2.0}, "sampling.guidance=2.0 is not read by family 'plaid'"),
        ({"family": "ar", "sampling__plaid__steps": 3}, "is not read by family 'ar'"),
    ],
)  # fmt: skip
def test_settings_that_cannot_be_are_refused(changes, message):
    with pytest.raises(ConfigError) as error:
        config(**({"family": "plaid"} | changes))
    assert message in str(error.value)
