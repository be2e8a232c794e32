"""Generation on caches against generation written out plainly, which runs the whole row anew for every solver step.

Axes: B rows, N latents, S = 4 latents a block, C latent channels.
"""

import jax
import jax.numpy as jnp
import numpy as np
import plain_dit
import plain_vae
from tiny import close, config, normal, parameters

from cola_jax.families import cola
from cola_jax.families.rows import RowOptions
from cola_jax.models.text_vae import from_prior, to_prior

N, S, BLOCKS, STEPS, GUIDANCE = 16, 4, 3, 2, 2.0
PROMPTS = [[1, 2, 3, 4], []]
SMALL = {"dit__num_layers": 2, "vae__encoder_blocks": 1, "vae__decoder_blocks": 1, "sampling__max_new_tokens": 6}


def plain_generation(cfg, params, prompt, noise):
    """Latents (BLOCKS, S, C) and logits (BLOCKS S, V) of one row."""
    place, causal = np.arange(N)[None], plain_dit.mask_of(N, S)
    velocity = jax.jit(
        lambda clean, noisy, t: plain_dit.denoise_all(cfg, params["dit"], clean, noisy, t, place, causal)
    )
    clean, start = jnp.zeros((1, N, 4)), len(prompt)
    if prompt:
        see = plain_vae.mask_of(start, cfg.vae.block_size)
        mean, _ = plain_vae.encode(cfg.vae, params["encoder"], jnp.array([prompt]), place[:, :start], see)
        clean = clean.at[:, :start].set(to_prior(cfg.vae, mean))
    for number in range(BLOCKS):
        own = slice(start + number * S, start + (number + 1) * S)
        z = noise[number][None]
        for step in range(STEPS):
            t = jnp.full((1, N), 1.0 - step / STEPS)
            conditional = velocity(clean, clean.at[:, own].set(z), t)[:, own]
            alone = velocity(jnp.zeros_like(clean), jnp.zeros_like(clean).at[:, :S].set(z), t)[:, :S]
            scale = GUIDANCE if own.start else 1.0
            z = z - (alone + scale * (conditional - alone)) / STEPS
        clean = clean.at[:, own].set(z)
    see = plain_vae.mask_of(N, cfg.vae.block_size)
    logits = plain_vae.decode(cfg.vae, params["decoder"], from_prior(cfg.vae, clean), place, see)
    new = slice(start, start + BLOCKS * S)
    return clean[0, new].reshape(BLOCKS, S, -1), logits[0, new]


def test_blocks_written_on_caches_are_those_of_whole_rows_computed_anew():
    """Every written block must be in both caches: the DiT's, for the latents after it, and the decoder's, for the logits."""
    cfg = config(**SMALL)
    params, noise = parameters(cfg), normal(4, BLOCKS, len(PROMPTS), S, 4)
    written = [block for _, block in cola.generate(cfg, params, PROMPTS, RowOptions(12), noise=noise, blocks=BLOCKS)]
    for row, prompt in enumerate(PROMPTS):
        latents, logits = plain_generation(cfg, params, prompt, noise[:, row])
        close(np.stack([block.latents[row] for block in written]), np.asarray(latents), atol=1e-4, rtol=1e-4)
        close(np.concatenate([block.logits[row] for block in written]), np.asarray(logits), atol=5e-4, rtol=1e-4)
