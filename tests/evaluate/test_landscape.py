"""Density landscapes: the known one of a Gaussian prior, along the directions in which neighbours lie; pictures of latents.

Axes: G points a side, M blocks, S latents per block, C channels.
"""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.stats import multivariate_normal
from tiny import config, parameters

from cola_jax import cli
from cola_jax.data.errors import DataError
from cola_jax.diffusion import change_of_variables as flow
from cola_jax.evaluate import embedding, landscape
from cola_jax.evaluate.landscape import Place
from cola_jax.families.cola_likelihood import block_log_density
from cola_jax.families.likelihood import PriorOde
from cola_jax.models import build

S, C = 2, 2
SPREAD = np.array([[4.0, 1.0, 0.0, 0.2], [1.0, 2.0, 0.1, 0.0], [0.0, 0.1, 0.5, 0.1], [0.2, 0.0, 0.1, 0.3]])
MEAN = np.array([0.5, -1.0, 0.2, 0.0])


def gaussian_flow(z_MSC, t):
    """E[z1 - z0 | z_t] of the straight path between N(MEAN, SPREAD) of a block and N(0, I)."""
    z = z_MSC.reshape(-1, S * C)
    spread_t = (1 - t) ** 2 * SPREAD + t**2 * jnp.eye(S * C)
    gain = (t * jnp.eye(S * C) - (1 - t) * SPREAD) @ jnp.linalg.inv(spread_t)
    return (-MEAN + (z - (1 - t) * MEAN) @ gain.T).reshape(z_MSC.shape)


@pytest.fixture(scope="module")
def seen():
    """A block and the landscape of a Gaussian prior around it, whose neighbours are draws of that prior."""
    draws = np.random.default_rng(0).multivariate_normal(MEAN, SPREAD, 60).reshape(-1, S, C)
    density = jax.jit(lambda z: jnp.sum(flow.log_density(gaussian_flow, z, flow.exact(S, C, S), 48, "heun"), axis=-1))
    place = Place(np.zeros((0, C)), np.array([[0.3, -0.8], [0.1, 0.2]]), 0, "a block")
    return place, draws, landscape.around(place, draws, density, 5, 2.0)


def test_a_gaussian_prior_has_its_own_landscape(seen):
    place, _, found = seen
    for row, up in enumerate(found.offsets_2G[1]):
        for column, across in enumerate(found.offsets_2G[0]):
            z = place.block_SC + across * found.directions_2SC[0] + up * found.directions_2SC[1]
            true = multivariate_normal.logpdf(z.reshape(-1), MEAN, SPREAD)
            assert float(found.log_p_GG[row, column]) == pytest.approx(float(true), abs=0.05)


def test_directions_are_those_in_which_the_neighbours_lie_and_offsets_are_in_their_deviations(seen):
    _, draws, found = seen
    d = found.directions_2SC.reshape(2, -1)
    np.testing.assert_allclose(d @ d.T, np.eye(2), atol=1e-8)
    values, vectors = np.linalg.eigh(np.cov(draws.reshape(len(draws), -1).T))
    assert abs(d[0] @ vectors[:, -1]) > 0.999 and abs(d[1] @ vectors[:, -2]) > 0.999
    np.testing.assert_allclose(found.deviations_2**2, values[[-1, -2]], rtol=1e-6)
    np.testing.assert_allclose(found.offsets_2G[:, -1], 2 * found.deviations_2)
    np.testing.assert_allclose(found.neighbours_K2.std(axis=0, ddof=1), found.deviations_2, rtol=1e-6)


def test_far_blocks_turn_no_direction():
    near = np.random.default_rng(1).standard_normal((landscape.NEIGHBOURS, S, C))
    far = 100.0 + np.random.default_rng(2).standard_normal((500, S, C)) * 9.0
    own = np.zeros((S, C))
    alone = landscape.directions_of(own, near)
    together = landscape.directions_of(own, np.concatenate([far, near]))
    np.testing.assert_allclose(np.abs(alone[0]), np.abs(together[0]), atol=1e-8)
    with pytest.raises(DataError, match="are collinear"):
        landscape.directions_of(own, np.arange(9.0)[:, None, None] * np.ones((S, C)))
    with pytest.raises(DataError, match="needs three blocks"):
        landscape.directions_of(own, near[:2])


def test_the_prior_of_a_dit_that_moves_nothing_is_standard_normal():
    cfg = config(dit__num_layers=1, dit__zero_init=True)
    params = parameters(cfg)
    params["dit"]["output"] = jax.tree.map(jnp.zeros_like, params["dit"]["output"])
    z = jax.random.normal(jax.random.PRNGKey(0), (3, cfg.dit.block_size, cfg.vae.latent_dim))
    past = jax.random.normal(jax.random.PRNGKey(1), (4, cfg.vae.latent_dim))
    keys = jnp.zeros((3, 2), jnp.uint32)
    found = block_log_density(build.of_cola(cfg), params, past, z, keys, PriorOde(2, "euler", "exact"))
    true = jnp.sum(jax.scipy.stats.norm.logpdf(z), axis=(1, 2))
    np.testing.assert_allclose(found, true, rtol=1e-5)


def test_neighbours_stay_neighbours_in_the_embedding():
    pytest.importorskip("sklearn", reason="pip install -e '.[latents]'")
    centres = 8.0 * np.eye(3, 6)
    which = np.repeat(np.arange(3), 20)
    x = centres[which] + np.random.default_rng(0).standard_normal((60, 6))
    points = embedding.tsne(x, 0)
    distance = np.linalg.norm(points[:, None] - points[None], axis=-1) + 1e9 * np.eye(60)
    assert np.mean(which[np.argmin(distance, axis=1)] == which) > 0.95
    np.testing.assert_array_equal(points, embedding.tsne(x, 0))


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "sklearn.manifold", None)
    with pytest.raises(ImportError, match=r"pip install -e '.\[latents\]', or give --embedding pca"):
        embedding.tsne(np.zeros((4, 2)), 0)


@pytest.mark.slow
def test_the_command_draws_latents_and_landscapes(trained, tmp_path, capsys):
    command = ["latents", "--workdir", str(trained["joint"]), "--batches", "1", "--levels", "2"]
    drawn = ["--pictures", str(tmp_path), "--embedding", "pca", "--landscapes", "2", "--points", "3", "--steps", "1"]
    assert cli.main([*command, *drawn]) == 0
    said = capsys.readouterr().out.splitlines()
    names = ["pca.png", "embedding.json", "landscapes.png", "landscapes.json"]
    assert said[-4:] == [str(tmp_path / name) for name in names]
    assert all((tmp_path / name).read_bytes()[:4] == b"\x89PNG" for name in names if name.endswith("png"))
    told = json.loads((tmp_path / "landscapes.json").read_text())
    assert (told["count"], told["divergence"]) == (2, "exact")
    for one in told["landscapes"]:
        assert np.isfinite(one["log_p"]).all() and np.shape(one["log_p"]) == (3, 3)
        assert "nearest held-out blocks" in one["directions"]
    points = json.loads((tmp_path / "embedding.json").read_text())
    assert len(points["pca"]) == len(points["labels"]) > 20


@pytest.mark.parametrize(
    ("stage", "more", "part"),
    [
        ("vae", ["--pictures", "P", "--embedding", "pca", "--landscapes", "1"], "landscapes need cola"),
        ("joint", ["--landscapes", "1"], "--landscapes needs --pictures"),
        ("joint", ["--pictures", "P", "--points", "3"], "--points needs --landscapes"),
        ("joint", ["--pictures", "P", "--landscapes", "1", "--extent", "-1"], "--extent -1.0 must be positive"),
    ],
)
def test_what_cannot_be_drawn_is_one_line(trained, tmp_path, capsys, stage, more, part):
    command = ["latents", "--workdir", str(trained[stage]), "--batches", "1", "--levels", "2", *more]
    assert (
        cli.main([argument.replace("P", str(tmp_path)) if argument == "P" else argument for argument in command]) == 2
    )
    assert part in capsys.readouterr().err
