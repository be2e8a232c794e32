"""Block generation against plain recomputation without caches: new tokens/s, memory, ratio.

python -m benchmarks.generation [--batch 8] [--repeats 3]

DiT D 256, 6 layers, 4 heads, S 16, C 16; Text VAE 2 + 2 blocks, D 256, FFN 1024, 4 heads, V 1024, block size 1; prompt 64
tokens, 64 new ones, 16 Euler steps, guidance 7, greedy. Both programs start from the same noise; the share of tokens on
which they agree is printed, and the FLOPs of each per new token, whose ratio bounds the speedup at equal FLOPs per second.
"""

from __future__ import annotations

import argparse
import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import measure, reference
from benchmarks.train_step import SIZES
from cola_jax.aot import hlo
from cola_jax.config import ComputeConfig, RunConfig, SamplingConfig, TextVAEConfig
from cola_jax.families import cola
from cola_jax.families.rows import RowOptions
from cola_jax.generate import blocks
from cola_jax.models import build
from cola_jax.models.text_vae import from_prior, to_prior

PROMPT, NEW = 64, 64


def config() -> RunConfig:
    vae = TextVAEConfig(vocab_size=1024, dim=256, ffn_dim=1024, num_heads=4, encoder_blocks=2, decoder_blocks=2)
    sampling = SamplingConfig(max_new_tokens=NEW, steps=16, guidance=7.0, repetition_penalty=1.0, stop_at_eos=False)
    compute = ComputeConfig(dtype="float32", attention_chunks=4, scan_layers=False)
    return dataclasses.replace(RunConfig(), vae=vae, dit=SIZES, sampling=sampling, compute=compute)


def cached(cfg: RunConfig, params, prompts, noise) -> np.ndarray:
    """Cached generation. Returns tokens (B, NEW)."""
    written = [tokens for tokens, _ in cola.generate(cfg, params, prompts, RowOptions(0), noise=noise)]
    return np.concatenate([np.asarray(block) for block in written], axis=1)


@partial(jax.jit, static_argnums=0)
def recomputed(cfg: RunConfig, params, prompts, noise) -> jax.Array:
    """The same without caches: every step recomputes all earlier positions, and every block decodes the whole row."""
    batch, size = prompts.shape[0], cfg.dit.block_size
    positions = lambda n: jnp.broadcast_to(jnp.arange(n), (batch, n))
    mean = build.encoder(cfg).apply({"params": params["encoder"]}, prompts, positions(PROMPT), None).mean
    z, tokens = to_prior(cfg.vae, mean), []
    for z1 in noise:
        new = reference.next_block(params["dit"], cfg.dit, z, z1, cfg.sampling.steps, cfg.sampling.guidance)
        z = jnp.concatenate([z, new], axis=1)
        logits = build.decoder(cfg).apply(
            {"params": params["decoder"]}, from_prior(cfg.vae, z), positions(z.shape[1]), None
        )
        tokens.append(jnp.argmax(logits[:, -size:], axis=-1))
    return jnp.concatenate(tokens, axis=1)


def flops(cfg: RunConfig, params, prompts, noise) -> tuple[float, float]:
    """Matmul FLOPs of one generation, cached and recomputed, as compiled, loops multiplied out."""
    count = lambda function, *arguments: hlo.read(function.lower(*arguments).compile().as_text()).flops
    rows, new_blocks = prompts.shape[0], noise.shape[0]
    block, arguments = blocks.abstract_step(cfg, params, rows, PROMPT)
    known = np.full(rows, PROMPT, np.int32)
    program = blocks.program_of(cfg)
    ours = count(blocks.read_prompt, program.networks, params, prompts, known, new_blocks)
    ours += count(blocks.prepare, program, params) + new_blocks * count(block, *arguments)
    return ours, count(recomputed, cfg, params, prompts, noise)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    print(measure.machine())
    cfg = config()
    params = cola.init(cfg, jax.random.PRNGKey(0))
    prompts = np.random.default_rng(0).integers(0, 1024, (options.batch, PROMPT)).astype(np.int32)
    shape = (NEW // cfg.dit.block_size, options.batch, cfg.dit.block_size, cfg.vae.latent_dim)
    noise = jax.random.normal(jax.random.PRNGKey(1), shape)
    rows = prompts.tolist()
    runs = (lambda: cached(cfg, params, rows, noise)), (lambda: recomputed(cfg, params, prompts, noise))
    ours, plain = measure.interleave(runs, options.repeats)
    same = np.mean(cached(cfg, params, rows, noise) == np.asarray(recomputed(cfg, params, prompts, noise)))
    new = options.batch * NEW
    works = flops(cfg, params, prompts, noise)
    for name, time, work in zip(("cached", "recomputed"), (ours, plain), works):
        print(
            f"batch {options.batch}  {name:10s} {new / time:8.1f} new tokens/s  {work / new / 1e6:8.1f} MFLOPs/token  "
            f"{work / time / 1e9:6.1f} GFLOP/s"
        )
    print(f"at equal FLOPs per second the ratio would be {works[1] / works[0]:.2f}")
    print(f"ratio {plain / ours:.2f}, {100 * same:.1f} % of the tokens agree, peak memory {measure.peak_memory()}")


if __name__ == "__main__":
    main()
