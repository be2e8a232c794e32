"""Models small enough to compile in a second, with every parameter away from the value it starts at.

Axes: B batch, L tokens, N latents, S latents per block, C latent channels.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from cola_jax import config as settings
from cola_jax.config import RunConfig
from cola_jax.config.families import FACTS
from cola_jax.families import FAMILIES

SMALL = {
    "data": {"packing": "concat"},
    "vae": {
        "vocab_size": 13, "dim": 16, "ffn_dim": 24, "num_heads": 2, "encoder_blocks": 2, "decoder_blocks": 2,
        "latent_dim": 4, "block_size": 1, "latent_shift": 0.25, "latent_scale": 1.5,
    },
    "vae.block": {"init_std": 0.3},
    "dit": {
        "dim": 16, "num_layers": 3, "num_heads": 2, "head_dim": 8, "expand_ratio": 2, "block_size": 4, "rope_dim": 6,
        "time_frequencies": 8, "zero_init": False,
    },
    "backbone": {
        "vocab_size": 13, "dim": 16, "ffn_dim": 24, "num_layers": 2, "num_heads": 4, "kv_heads": 2, "init_std": 0.3,
    },
    "train": {"batch_size": 4, "sequence_length": 16},
    "compute": {"dtype": "float32", "attention_chunks": 2},
}  # fmt: skip
MODELS = {
    "text_vae": ("vae",), "cola": ("vae", "dit"), "ar": ("backbone",), "llada": ("backbone", "llada"),
    "plaid": ("backbone", "plaid"), "bigram": ("backbone",),
}  # fmt: skip
PLAIN = {"repetition_penalty": 1.0, "max_new_tokens": 8}
SAMPLING = {
    "cola": PLAIN | {"steps": 2, "guidance": 2.0}, "ar": PLAIN, "llada": PLAIN, "plaid": {"max_new_tokens": 8},
    "bigram": {"max_new_tokens": 8},
}  # fmt: skip


def config(**changes: Any) -> RunConfig:
    """A checked tiny config. `changes`: path with two underscores for a dot, e.g. dit__num_layers=1; those that the family
    does not read are left out."""
    tree = settings.base()
    family = changes.get("family", "cola")
    models = MODELS[family]
    for group, fields in SMALL.items():
        if group.split(".")[0] in ("vae", "dit", "backbone") and group.split(".")[0] not in models:
            continue
        fields = read_by(family, {f"{group}__{name}".replace(".", "__"): value for name, value in fields.items()})
        fields = {name.split("__")[-1]: value for name, value in fields.items()}
        node = tree
        for name in group.split("."):
            node = node[name]
        node.update(fields)
    if family in SAMPLING:
        tree.sampling.update(SAMPLING[family])
    changes = read_by(family, changes)
    return settings.resolve(settings.override(tree, [(k.replace("__", "."), str(v)) for k, v in changes.items()]))


def read_by(family: str, changes: dict[str, Any]) -> dict[str, Any]:
    """Returns the changes whose fields a family reads; sizes of other models are left out."""
    facts = FACTS[family]

    def is_read(path: str) -> bool:
        of_a_model = path.split(".")[0] in ("vae", "dit", "backbone", "llada", "plaid")
        return path not in facts.ignores and (not of_a_model or path.startswith(facts.reads))

    return {name: value for name, value in changes.items() if is_read(name.replace("__", "."))}


def parameters(cfg: RunConfig, seed: int = 0) -> Any:
    """Parameters of the family of `cfg`, drawn here: kernels that keep the size of what they multiply, gains near 1."""
    shapes = jax.eval_shape(lambda: FAMILIES[cfg.family].objective.init(cfg, jax.random.PRNGKey(0)))
    random = np.random.default_rng(seed)

    def draw(path: Any, leaf: Any) -> jax.Array:
        name, noise = path[-1].key, random.standard_normal(leaf.shape)
        scale = {"kernel": leaf.shape[-2] ** -0.5 if leaf.ndim > 1 else 1.0, "embedding": 1.0}.get(name, 0.2)
        return jnp.asarray(noise * scale + (name == "scale"), jnp.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def replace(cfg: RunConfig, **changes: Any) -> RunConfig:
    """`cfg` with other fields, unchecked; paths as in `config`."""
    for path, value in changes.items():
        group, name = path.split("__")
        cfg = dataclasses.replace(cfg, **{group: dataclasses.replace(getattr(cfg, group), **{name: value})})
    return cfg


def batch_of(cfg: RunConfig, seed: int = 0, rows: int | None = None) -> dict[str, np.ndarray]:
    """A batch of one document a row."""
    rows, length = rows or cfg.train.batch_size, cfg.train.sequence_length
    tokens = np.random.default_rng(seed).integers(0, settings.vocabulary(cfg).of_text, (rows, length))
    return {
        "tokens": tokens.astype(np.int32),
        "segments": np.ones((rows, length), np.int32),
        "positions": np.tile(np.arange(length, dtype=np.int32), (rows, 1)),
        "weights": np.ones((rows, length), np.float32),
        "rows": np.arange(rows, dtype=np.int32),
    }


def packed(cfg: RunConfig, lengths: tuple[int, ...], seed: int = 0) -> dict[str, np.ndarray]:
    """A batch whose rows hold documents of these lengths in tokens, one after the other, and padding behind them."""
    batch = batch_of(cfg, seed)
    length = cfg.train.sequence_length
    empty = length - sum(lengths)
    segments = np.repeat([*range(1, len(lengths) + 1), 0], [*lengths, empty])
    positions = np.concatenate([np.arange(n) for n in (*lengths, empty)])
    rows = batch["tokens"].shape[0]
    return batch | {
        "segments": np.tile(segments.astype(np.int32), (rows, 1)),
        "positions": np.tile(positions.astype(np.int32), (rows, 1)),
        "weights": np.tile((segments > 0).astype(np.float32), (rows, 1)),
    }


def normal(seed: int, *shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def close(one: Any, other: Any, atol: float = 1e-5, rtol: float = 1e-5) -> None:
    """Asserts that two trees agree leaf by leaf."""
    chex.assert_trees_all_close(one, other, atol=atol, rtol=rtol)


def moved(before: Any, after: Any, axis: int | tuple[int, ...] = -1) -> np.ndarray:
    """The largest change over `axis`: which entries of the other axes moved, and how far."""
    return np.max(np.abs(np.asarray(before) - np.asarray(after)), axis=axis)
