"""The losses and one step's gradients of both families against SPEC 2 written out plainly."""

import jax
import jax.numpy as jnp
import numpy as np
import plain_dit
import plain_vae
import pytest
from tiny import close, config, packed, parameters

from cola_jax.families import FAMILIES

STAGE_1 = {
    "family": "text_vae",
    "objective__kl_weight": 0.7,
    "objective__mask_weight": 0.4,
    "objective__mask_rate": 0.3,
}
STAGE_2 = STAGE_1 | {
    "family": "cola", "objective__reference_weight": 0.3, "objective__vae_from": "'somewhere'", "flow__time_per": "block",
    "objective__vae_weight": 0.8, "objective__flow_weight": 1.7, "flow__known_prefix_probability": 0.5,
}  # fmt: skip


def setup(**changes):
    cfg = config(data__packing="best_fit", compute__cross_entropy_chunk=5, **changes)
    params, frozen = parameters(cfg), {"encoder": parameters(cfg, seed=1)["encoder"]}
    batch = packed(cfg, (8, 4))
    noise, counts = FAMILIES[cfg.family].objective.draw(cfg, batch, jax.random.PRNGKey(3), 0)
    return cfg, params, frozen, batch, noise, counts


def cross_entropy(logits, tokens):
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), tokens[..., None], axis=-1)[..., 0]


def mean(values, weights):
    return jnp.sum(values * weights) / jnp.sum(weights)


def vae_parts(cfg, params, batch, noise):
    """z0, mean, logvar, and the cross-entropies of plain and of masked tokens in nats per token."""
    vae, place = cfg.vae, batch["positions"]
    see = jnp.asarray(plain_vae.mask_of(place.shape[1], vae.block_size, batch["segments"]))

    def through(tokens, eps):
        mu, logvar = plain_vae.encode(vae, params["encoder"], tokens, place, see)
        z0 = mu + jnp.exp(logvar / 2) * eps
        return mu, logvar, z0, cross_entropy(plain_vae.decode(vae, params["decoder"], z0, place, see), batch["tokens"])

    mu, logvar, z0, losses = through(batch["tokens"], noise["posterior"])
    hidden = jnp.where(noise["masked"], vae.vocab_size, batch["tokens"])
    masked = through(hidden, noise["posterior_masked"])[3]
    return z0, mu, logvar, mean(losses, batch["weights"]), mean(masked, noise["masked"])


def plain_stage_1(cfg, params, frozen, batch, noise):
    _, mu, logvar, reconstruction, mask = vae_parts(cfg, params, batch, noise)
    kl = mean(0.5 * jnp.sum(mu**2 + jnp.exp(logvar) - 1 - logvar, -1), batch["weights"])
    return reconstruction + cfg.objective.kl_weight * kl + cfg.objective.mask_weight * mask


def plain_stage_2(cfg, params, frozen, batch, noise):
    z0, mu, logvar, reconstruction, mask = vae_parts(cfg, params, batch, noise)
    objective, place, segments = cfg.objective, batch["positions"], batch["segments"]
    log_q = mean(jnp.sum(-0.5 * (jnp.log(2 * jnp.pi) + logvar + 1), -1), batch["weights"])
    vae = reconstruction + objective.kl_weight * log_q + objective.mask_weight * mask
    see = jnp.asarray(plain_vae.mask_of(place.shape[1], cfg.vae.block_size, segments))
    mu_ref, logvar_ref = plain_vae.encode(cfg.vae, frozen["encoder"], batch["tokens"], place, see)
    ratio = jnp.exp(logvar - logvar_ref) + (mu - mu_ref) ** 2 / jnp.exp(logvar_ref)
    reference = mean(0.5 * jnp.sum(ratio - 1 + logvar_ref - logvar, -1), batch["weights"])
    return (
        objective.vae_weight * vae
        + objective.flow_weight * plain_flow(cfg, params, batch, noise, z0)
        + (objective.reference_weight * reference)
    )


def plain_flow(cfg, params, batch, noise, z0):
    z = (z0 - cfg.vae.latent_shift) * cfg.vae.latent_scale
    history, known = jax.lax.stop_gradient(z), noise["known"]
    t = jnp.where(known, 0.0, jnp.repeat(noise["t"], cfg.dit.block_size, axis=1))
    z_t = (1 - t)[..., None] * jnp.where(known[..., None], history, z) + t[..., None] * noise["z1"]
    see = jnp.asarray(plain_dit.mask_of(z.shape[1], cfg.dit.block_size, batch["segments"]))
    v = plain_dit.denoise_all(cfg, params["dit"], history, z_t, t, jnp.asarray(batch["positions"]), see)
    return mean(jnp.mean((v - (noise["z1"] - z)) ** 2, -1), batch["weights"] * ~known)


@pytest.mark.parametrize(("fields", "plain"), [(STAGE_1, plain_stage_1), (STAGE_2, plain_stage_2)])
def test_the_loss_and_its_gradients_are_those_of_the_specification(fields, plain):
    cfg, params, frozen, batch, noise, counts = setup(**fields)
    family = FAMILIES[cfg.family]
    assert noise["masked"].any() and ("known" not in noise or noise["known"].any())
    ours = lambda p: family.objective.loss(cfg, p, frozen, batch, noise, counts, 0)[0]
    theirs = lambda p: plain(cfg, p, frozen, batch, noise)
    found, expected = (jax.jit(jax.value_and_grad(loss))(params) for loss in (ours, theirs))
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-5)
    close(found[1], expected[1], atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("fields", [STAGE_1, STAGE_2], ids=["text_vae", "cola"])
def test_microbatches_add_up_to_the_whole_batch(fields):
    cfg, params, frozen, batch, noise, _ = setup(**fields)
    batch["weights"][0, 3:] = 0.0
    family = FAMILIES[cfg.family]
    counts = family.objective.draw(cfg, batch, jax.random.PRNGKey(3), 0)[1]
    noise["masked"] = noise["masked"] & (batch["weights"] > 0)
    loss = jax.jit(lambda batch, noise: family.objective.loss(cfg, params, frozen, batch, noise, counts, 0))
    whole = loss(batch, noise)
    halves = [loss(*jax.tree.map(lambda x, i=i: x[i::2], (batch, noise))) for i in range(2)]
    close(jax.tree.map(jnp.add, *halves), whole, atol=1e-4, rtol=1e-5)
    assert all(np.isfinite(float(metric)) for metric in family.objective.summarize(cfg, whole[1]).values())
    assert set(counts) <= set(whole[1])
    for name, count in counts.items():
        assert float(count) == float(whole[1][name])
