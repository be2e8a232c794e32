"""A family of two groups small enough to train in a blink, and a way to run it in another process."""

from __future__ import annotations

import argparse
import dataclasses
import io
import json
import os
import signal
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cola_jax.config import RunConfig
from cola_jax.config.fields import CheckpointConfig, ObjectiveConfig, OptimizerConfig, TrainConfig
from cola_jax.families.cost import Cost
from cola_jax.families.family import BatchSpec, Family, Objective, Training, text_batch

LENGTH, WIDTH = 8, 16


def init(cfg: RunConfig, rng: jax.Array) -> Any:
    keys = jax.random.split(rng, 3)
    kernel = lambda key, *shape: {"kernel": jax.random.normal(key, shape) / 4, "bias": jnp.zeros(shape[-1])}
    return {
        "encoder": {"patch": kernel(keys[0], LENGTH, WIDTH)},
        "dit": {"input": kernel(keys[1], WIDTH, WIDTH), "output": kernel(keys[2], WIDTH, LENGTH)},
    }


def draw(cfg: RunConfig, batch: Any, rng: jax.Array, step: Any) -> Any:
    one = lambda row: jax.random.normal(jax.random.fold_in(rng, row), (LENGTH,))
    return {"z1": jax.vmap(one)(batch["rows"])}, {"tokens": jnp.sum(batch["weights"])}


def loss(cfg: RunConfig, params: Any, frozen: Any, batch: Any, noise: Any, counts: Any, step: Any) -> Any:
    x = batch["tokens"] / 10.0
    dense = lambda p, h: h @ p["kernel"] + p["bias"]
    hidden = jnp.tanh(dense(params["encoder"]["patch"], x + 0.1 * noise["z1"]))
    anchor = jnp.tanh(dense(frozen["encoder"]["patch"], x)) if frozen else hidden
    out = dense(params["dit"]["output"], jnp.tanh(dense(params["dit"]["input"], hidden)))
    square = jnp.sum(batch["weights"] * (out - x) ** 2)
    drift = jnp.sum(jnp.mean((hidden - anchor) ** 2, axis=-1))
    sums = {"square": square, "drift": drift, "tokens": jnp.sum(batch["weights"])}
    return (square + drift) / counts["tokens"], sums


def trained(cfg: RunConfig, step: int) -> tuple[str, ...]:
    if cfg.objective.latent_policy == "fixed":
        return ("dit",)
    alone = cfg.objective.latent_policy == "interval" and step % cfg.objective.interval_period >= 1
    return ("dit",) if alone else ("encoder", "dit")


def batch_spec(cfg: RunConfig) -> BatchSpec:
    """tokens, weights and rows: the toy has neither documents nor positions."""
    spec = text_batch(cfg)
    return {name: spec[name] for name in ("tokens", "weights", "rows")}


OBJECTIVE = Objective(
    init,
    batch_spec,
    draw,
    loss,
    summarize=lambda cfg, sums: {"square": sums["square"] / sums["tokens"]},
    cost=lambda cfg: Cost({"encoder": 144, "dit": 408}, {"dense": 64.0}, {"dense": 96.0}, 0.0, 0.0, 6624),
)
FAMILY = Family(
    name="toy",
    groups=("encoder", "dit"),
    objective=OBJECTIVE,
    training=lambda cfg, step: Training(trained(cfg, step), {"encoder": 0.5, "dit": 1.0}, frozen=("encoder",)),
)


def config(steps: int = 8, policy: str = "joint", **changes: Any) -> RunConfig:
    """A small run. `changes`: groups of fields to replace, e.g. train={"accumulate": 2}."""
    base = RunConfig(
        objective=ObjectiveConfig(latent_policy=policy, interval_period=2, interval_joint=1),
        optimizer=OptimizerConfig(learning_rate=1e-2, warmup_steps=2, decay_steps=100),
        train=TrainConfig(
            steps=steps, batch_size=16, sequence_length=LENGTH, log_every=1, eval_every=0, eval_batches=2, plot_every=0
        ),
        checkpoint=CheckpointConfig(every=2, keep_last=3),
    )
    grouped = {name: dataclasses.replace(getattr(base, name), **fields) for name, fields in changes.items()}
    return dataclasses.replace(base, **grouped)


def batch_of(index: int, size: int = 16, value: float = 1.0) -> dict[str, np.ndarray]:
    """Batch `index`, a pure function of it."""
    tokens = np.random.default_rng(index).integers(0, 20, (size, LENGTH)).astype(np.int32)
    weights = np.full((size, LENGTH), value, np.float32)
    return {"tokens": tokens, "weights": weights, "rows": np.arange(size, dtype=np.int32)}


def batches(start: int, signals: dict[int, int] | None = None) -> Any:
    """Batches from `start` on; sends this process signals[index] before it hands out batch `index`."""
    index = start
    while True:
        if signals and index in signals:
            os.kill(os.getpid(), signals[index])
        yield batch_of(index)
        index += 1


HELDOUT = [batch_of(1000), batch_of(1001)]


def main() -> None:
    """Runs the toy in a process of its own; prints the summary as JSON."""
    from cola_jax.train.loop import train

    parser = argparse.ArgumentParser()
    parser.add_argument("workdir")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--policy", default="joint")
    parser.add_argument("--mesh", default="{}")
    parser.add_argument("--checkpoint", default="{}")
    parser.add_argument("--train", default="{}")
    parser.add_argument("--kill-at", type=int, default=-1)
    parser.add_argument("--term-at", type=int, default=-1)
    args = parser.parse_args()
    groups = {name: json.loads(getattr(args, name)) for name in ("mesh", "checkpoint", "train")}
    signals = {args.kill_at: signal.SIGKILL, args.term_at: signal.SIGTERM}
    stream = io.StringIO()
    make = lambda start: batches(start, signals)
    summary = train(
        config(args.steps, args.policy, **groups),
        args.workdir,
        make_batches=make,
        heldout_batches=HELDOUT,
        family=FAMILY,
        stream=stream,
    )
    print(json.dumps({**dataclasses.asdict(summary), "said": stream.getvalue()}))


if __name__ == "__main__":
    main()
