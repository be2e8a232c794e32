"""Muon: what it does to a matrix, how large its updates are, and where its state lies."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny

from cola_jax.config.fields import OptimizerConfig
from cola_jax.families import FAMILIES
from cola_jax.parallel.hosts import batch_putter
from cola_jax.parallel.mesh import make_mesh
from cola_jax.train import optimizer
from cola_jax.train.muon import ADAM_RMS, labels, orthogonalize
from cola_jax.train.state import abstract_state, init_state
from cola_jax.train.step import train_step

MUON = OptimizerConfig(name="muon")


@pytest.mark.parametrize("shape", [(2, 24, 40), (2, 40, 24), (3, 16, 16)])
def test_singular_values_go_near_one_and_singular_vectors_stay(shape):
    stack = tiny.normal(0, *shape)
    left, before, right = np.linalg.svd(stack, full_matrices=False)
    assert before.max() / before.min() > 3
    kept = np.einsum("lik,lij,lkj->lk", left, orthogonalize(stack, 5), right)  # singular values in the old vectors
    assert kept.min() > 0.6 and kept.max() < 1.3
    np.testing.assert_allclose(orthogonalize(stack, 5), np.einsum("lik,lk,lkj->lij", left, kept, right), atol=1e-4)


def test_each_layer_of_a_stack_is_a_matrix_of_its_own():
    stack = tiny.normal(0, 3, 8, 12)
    changed = stack.at[1].multiply(jnp.linspace(0.1, 9.0, 12))
    differs = tiny.moved(orthogonalize(stack, 5), orthogonalize(changed, 5), axis=(1, 2)) > 0
    assert differs.tolist() == [False, True, False]


def group():
    """Parameters of one group: a stack of matrices and of biases, and a matrix outside of the blocks."""
    kernels = {"qkv": {"kernel": tiny.normal(1, 2, 16, 48), "bias": tiny.normal(2, 2, 48)}}
    return {"blocks": kernels, "output": {"kernel": tiny.normal(3, 16, 4)}}


def test_only_the_matrices_of_blocks_are_orthogonalised():
    found = labels(group())
    assert found == {"blocks": {"qkv": {"kernel": "muon", "bias": "adam"}}, "output": {"kernel": "adam"}}
    transform, adam = optimizer.directions(MUON), optax.scale_by_adam(MUON.b1, MUON.b2, MUON.eps)
    grads = jax.tree.map(lambda x: 0.1 * x, group())
    ours, _ = transform.update(grads, transform.init(group()))
    theirs, _ = adam.update(grads, adam.init(group()))
    tiny.close(ours["output"], theirs["output"])
    tiny.close(ours["blocks"]["qkv"]["bias"], theirs["blocks"]["qkv"]["bias"])
    assert np.abs(ours["blocks"]["qkv"]["kernel"] - theirs["blocks"]["qkv"]["kernel"]).max() > 0.1


@pytest.mark.parametrize("size", [1e-6, 1.0, 1e3])
def test_the_update_has_adams_size_whatever_the_gradients(size):
    transform = optimizer.directions(MUON)
    grads = jax.tree.map(lambda x: size * x, group())
    update, _ = transform.update(grads, transform.init(group()))
    rms = float(jnp.sqrt(jnp.mean(update["blocks"]["qkv"]["kernel"] ** 2)))
    assert 0.7 * ADAM_RMS < rms < 1.2 * ADAM_RMS


def test_momentum_is_nesterovs():
    cfg = dataclasses.replace(MUON, muon_momentum=0.5)
    transform = optimizer.directions(cfg)
    first, second = group(), jax.tree.map(lambda x: jnp.roll(x, 1, -1), group())
    _, state = transform.update(first, transform.init(group()))
    update, _ = transform.update(second, state)
    kernel = lambda tree: tree["blocks"]["qkv"]["kernel"]
    summed = kernel(second) + 0.5 * (kernel(second) + 0.5 * kernel(first))  # g_2 + b m_2, m_2 = g_2 + b m_1
    np.testing.assert_allclose(kernel(update), ADAM_RMS * 48**0.5 * orthogonalize(summed, 5), rtol=1e-4, atol=1e-5)


def test_moments_lie_with_their_parameters_and_a_matrix_has_one():
    state = optimizer.directions(MUON).init(group())
    places = jax.tree.map(lambda x: f"place of {x.shape}", group())
    placed = jax.tree.leaves(optimizer.place_state(MUON, state, places, "everywhere"))
    shapes = jax.tree.leaves(state)
    assert len(placed) == len(shapes)
    assert all(place == (f"place of {x.shape}" if x.ndim else "everywhere") for place, x in zip(placed, shapes))
    assert placed.count("place of (2, 16, 48)") == 1 and placed.count("place of (2, 48)") == 2


@pytest.mark.slow
def test_a_model_trains_with_it():
    cfg = tiny.config(
        optimizer__name="muon", optimizer__learning_rate=2e-2, optimizer__warmup_steps=1, optimizer__decay_steps=100,
        optimizer__initial_learning_rate=1e-2, mesh__data=1, mesh__fsdp=1,
    )  # fmt: skip
    family, mesh = FAMILIES["cola"], make_mesh(cfg.mesh, jax.devices()[:1])
    abstract = abstract_state(cfg, family, mesh)
    state = init_state(cfg, family, abstract, tiny.parameters(cfg))
    update = train_step(cfg, family, family.groups, mesh, abstract)
    batch, losses = batch_putter(mesh, cfg.train.batch_size)(tiny.batch_of(cfg)), []
    for _ in range(12):
        state, metrics = update(state, batch)
        losses.append(float(metrics["loss"]))
    assert losses[-1] < 0.8 * losses[0]
