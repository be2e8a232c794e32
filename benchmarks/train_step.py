"""The training step of the DiT against the plain reference: tokens/s, memory, FLOPs, ratio.

python -m benchmarks.train_step [--batch 4] [--length 512] [--repeats 5]
python -m benchmarks.train_step --sweep          batch 1, 4, 16 and length 128, 512, 2048

D 256, 6 layers, 4 heads, S 16, C 16, fp32: gradient of the flow matching loss and an AdamW update. Both programs start
from the same parameters; their losses are printed beside each other and must agree.
"""

from __future__ import annotations

import argparse
from functools import partial

import jax
import jax.numpy as jnp
import optax

from benchmarks import measure, reference
from cola_jax.config import ComputeConfig, DiTConfig
from cola_jax.models.dit import DiT

SIZES = DiTConfig(dim=256, num_layers=6, num_heads=4, head_dim=64, block_size=16, rope_dim=64, zero_init=False)
CHANNELS = 16


def inputs(batch: int, length: int):
    """Random latents, noise, times and positions of one batch."""
    keys = jax.random.split(jax.random.PRNGKey(0), 3)
    z0 = jax.random.normal(keys[0], (batch, length, CHANNELS))
    z1 = jax.random.normal(keys[1], (batch, length, CHANNELS))
    t = jax.nn.sigmoid(1.0 + jax.random.normal(keys[2], (batch,)))
    return z0, z1, t, jnp.broadcast_to(jnp.arange(length), (batch, length))


def losses(length: int, chunks: int):
    """Returns the two loss functions (params, z0, z1, t, positions) -> scalar, and the model."""
    compute = ComputeConfig(dtype="float32", scan_layers=False, attention_chunks=chunks)
    net = DiT(SIZES, CHANNELS, compute, jnp.float32)

    def ours(params, z0, z1, t, positions):
        z_t = (1 - t)[:, None, None] * z0 + t[:, None, None] * z1
        v = net.apply({"params": params}, z0, z_t, t[:, None], None, positions, None, method="denoise_all")
        return jnp.mean((v - (z1 - z0)) ** 2)

    def plain(params, z0, z1, t, positions):
        z_t = (1 - t)[:, None, None] * z0 + t[:, None, None] * z1
        v = reference.denoise_all(params, SIZES, z0, z_t, t, positions)
        return jnp.mean((v - (z1 - z0)) ** 2)

    return ours, plain, net


def step_of(loss):
    optimizer = optax.adamw(1e-4)

    def step(params, state, *batch):
        value, gradient = jax.value_and_grad(loss)(params, *batch)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, value

    return step, optimizer.init


def compare(batch: int, length: int, repeats: int, plain_too: bool = True) -> None:
    """Times both programs on one shape and prints a line for each."""
    ours, plain, net = losses(length, chunks=max(1, min(8, length // 64)))
    data = inputs(batch, length)
    params = net.init(jax.random.PRNGKey(1), data[0][:1, :1], jnp.zeros((1, 1)), data[3][:1, :1], None)["params"]
    rates = {}
    for name, loss in [("ours", ours)] + ([("plain", plain)] if plain_too else []):
        step, init = step_of(loss)
        state = init(params)
        run, gflops, temporary = measure.compiled(step, params, state, *data)
        value = float(run(params, state, *data)[2])
        rates[name] = batch * length / measure.seconds(partial(run, params, state, *data), repeats)
        print(
            f"batch {batch:3d}  length {length:5d}  {name:5s}  {rates[name]:8.0f} tokens/s  "
            f"{gflops * 1e3 / (batch * length):7.1f} MFLOPs/token  {temporary:7.0f} MiB  loss {value:.6f}",
            flush=True,
        )
    if plain_too:
        print(f"ratio ours / plain: {rates['ours'] / rates['plain']:.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--sweep", action="store_true")
    options = parser.parse_args()
    print(measure.machine())
    if options.sweep:
        for batch, length in [(1, 512), (4, 512), (16, 512), (4, 128), (4, 2048)]:
            compare(batch, length, options.repeats, plain_too=False)
    else:
        compare(options.batch, options.length, options.repeats)
    print(f"peak memory of the process: {measure.peak_memory()}")


if __name__ == "__main__":
    main()
