"""Training step and generation of Cola's shapes in bf16 on the accelerators of this process: rates, memory, largest costs.

python -m benchmarks.accelerator [--shape 2B] [--rows 8] [--accumulate 1] [--remat minimal] [--attention auto]
python -m benchmarks.accelerator --tiny          the same code on a small model, on any device

One shape per command, since the peak of memory is the process's. The step is stage 2 from scratch, rows of 512 tokens,
parameters split over all devices. 2B has the published sizes; 1B and 0.3B are chosen here, narrower and with fewer
layers. MFU is by the convention of scaling.accounting, over the data sheet's bf16 peak; the other share is over a large
matmul's measured rate.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import measure, trace
from cola_jax import config
from cola_jax.aot.compile import program_of
from cola_jax.config import RunConfig, for_platform, without_kernels
from cola_jax.families import FAMILIES
from cola_jax.families.rows import RowOptions
from cola_jax.parallel.chips import GiB, chip_of
from cola_jax.parallel.mesh import batch_sharding, make_mesh
from cola_jax.scaling import accounting
from cola_jax.train.state import abstract_state, init_state

SHAPES = {
    "2B": {},
    "1B": {"vae": dict(dim=1024, ffn_dim=4096, num_heads=8), "dit": dict(dim=1536, num_layers=16, num_heads=12)},
    "0.3B": {"vae": dict(dim=512, ffn_dim=2048, num_heads=4), "dit": dict(dim=1024, num_layers=10, num_heads=8)},
}
TINY = {
    "vae": dict(dim=32, ffn_dim=64, num_heads=2, encoder_blocks=1, decoder_blocks=1, vocab_size=64),
    "dit": dict(dim=32, num_layers=2, num_heads=2, head_dim=16, rope_dim=12),
    "train": dict(sequence_length=64),
    "sampling": dict(steps=2, max_new_tokens=16),
    "compute": dict(attention_chunks=2),
}
NAMED = 3  # largest costs


def shaped(changes: dict[str, dict], rows: int, accumulate: int, compute: dict[str, str]) -> RunConfig:
    """Returns the config of stage 2 from scratch of the published recipe with other sizes, `rows` per device."""
    tree = config.load("cola_2b:joint,unread")
    for group, fields in changes.items():
        tree[group].update(fields)
    tree.train.update(batch_size=rows * jax.device_count(), accumulate=accumulate)
    tree.compute.update(compute, dtype="bfloat16")
    tree.sampling.update(stop_at_eos=False)
    return config.resolve(tree)


def random_batch(cfg: RunConfig, mesh: jax.sharding.Mesh) -> dict[str, jax.Array]:
    """A global batch of one document per row."""
    rows, length = shape = (cfg.train.batch_size, cfg.train.sequence_length)
    batch = {
        "tokens": np.random.default_rng(0).integers(0, cfg.vae.vocab_size, shape, np.int32),
        "segments": np.ones(shape, np.int32),
        "positions": np.tile(np.arange(length, dtype=np.int32), (rows, 1)),
        "weights": np.ones(shape, np.float32),
        "rows": np.arange(rows, dtype=np.int32),
    }
    return jax.device_put(batch, batch_sharding(mesh))


def train(cfg: RunConfig, mesh: jax.sharding.Mesh, repeats: int) -> dict:
    """Compiles the training step, times it and profiles one. Returns the state after it, and the measurements."""
    family = FAMILIES[cfg.family]
    program = program_of(cfg, mesh, "train", 0, 0)
    step = program.function.lower(*program.arguments).compile()
    carried, batch = [init_state(cfg, family, abstract_state(cfg, family, mesh))], random_batch(cfg, mesh)

    def run():
        carried[0], metrics = step(carried[0], batch)  # the old state is consumed
        return metrics

    seconds = measure.seconds(run, repeats)
    peak = measure.peak_device_memory(mesh.devices.flat[0])
    with tempfile.TemporaryDirectory() as folder:
        costs = trace.traced(run, folder, step.as_text())
    loss = float(run()["loss"])
    return {"state": carried[0], "seconds": seconds, "peak": peak, "costs": costs, "loss": loss}


def generation_rate(cfg: RunConfig, mesh: jax.sharding.Mesh, params, rows: int, prompt: int, repeats: int) -> float:
    """New tokens per second of block generation with caches, `rows` per device."""
    cfg, count = without_kernels(cfg), rows * mesh.size
    prompts = np.random.default_rng(1).integers(0, cfg.vae.vocab_size, (count, prompt)).tolist()
    place = lambda array: jax.device_put(jnp.asarray(array), batch_sharding(mesh))
    generate = FAMILIES[cfg.family].generator.generate
    write = lambda: [tokens for tokens, _ in generate(cfg, params, prompts, RowOptions(0, place=place))]
    written = sum(len(row) for block in write() for row in block)
    return written / measure.seconds(write, repeats)


def report(cfg: RunConfig, name: str, options: argparse.Namespace) -> None:
    """Measures one shape and prints it."""
    mesh = make_mesh(cfg.mesh)
    device, cost = mesh.devices.flat[0], FAMILIES[cfg.family].objective.cost(cfg)
    cfg, compute = for_platform(cfg, device.platform)
    print(f"{name}: {sum(cost.params.values()):,} parameters, {cost.useful / 1e9:.4g} useful GFLOPs per token")
    print(
        f"{compute}; {cfg.train.batch_size} rows of {cfg.train.sequence_length} in {cfg.train.accumulate} microbatches"
    )
    found, chip = train(cfg, mesh, options.repeats), chip_of(device)
    rate = accounting.tokens_of(cfg, 1) / found["seconds"]
    matmul = measure.matmul_rate(256 if options.tiny else 8192, options.repeats)
    share = partial(accounting.mfu, cost.useful, rate)
    mfu = "peak unknown" if chip is None else f"{share(chip.flops * mesh.size):.1%}"
    new = generation_rate(cfg, mesh, found["state"].params, options.prompts, options.prompt, options.repeats)
    print(
        "| shape | devices | tokens/s | MFU | matmul TFLOP/s/device | share of it | peak memory | new tokens/s | loss |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    print(
        f"| {name} | {mesh.size} | {rate:.0f} | {mfu} | {matmul / 1e12:.4g} | {share(matmul * mesh.size):.1%} | "
        f"{found['peak'] / GiB:.2f} GiB | {new:.1f} | {found['loss']:.4f} |"
    )
    for one in found["costs"][:NAMED]:
        print(f"{one.share:6.1%} of the traced step, {one.seconds * 1e3:.3f} ms: {one.name}")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="2B")
    parser.add_argument("--rows", type=int, default=8, help="rows of a training batch, per device")
    parser.add_argument("--accumulate", type=int, default=1, help="microbatches of a step")
    parser.add_argument("--remat", default="minimal", help="compute.remat")
    parser.add_argument("--attention", default="auto", help="compute.attention, as cudnn")
    parser.add_argument("--prompts", type=int, default=16, help="rows of generation, per device")
    parser.add_argument("--prompt", type=int, default=256, help="tokens of a prompt")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--tiny", action="store_true", help="a small model instead of --shape")
    options = parser.parse_args(arguments)
    if jax.default_backend() == "cpu" and not options.tiny:
        parser.error("no accelerator was found, and a CPU would take hours: --tiny runs a small model")
    print(measure.machine())
    name = "tiny" if options.tiny else options.shape
    changes = TINY if options.tiny else SHAPES[options.shape]
    compute = {"remat": options.remat, "attention": options.attention}
    report(shaped(changes, options.rows, options.accumulate, compute), name, options)


if __name__ == "__main__":
    main()
