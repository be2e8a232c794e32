"""The released Cola DLM form: `cola_vae/` and `cola_dit/`, each with config.json and safetensors, one file or shards.

Tensors are read one at a time. A parameter of stacked layers is filled layer by layer into an array that is on its devices
from the start, so the host holds one tensor, never the model.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, Sharding, SingleDeviceSharding
from jax.sharding import PartitionSpec as P

from cola_jax.config import DiTConfig, RunConfig, TextVAEConfig
from cola_jax.families import FAMILIES
from cola_jax.interop.errors import ReleasedFormatError as ReleasedFormatError
from cola_jax.interop.released_config import read_dit_config as read_dit_config
from cola_jax.interop.released_config import read_json
from cola_jax.interop.released_config import read_vae_config as read_vae_config
from cola_jax.interop.safetensors_file import Entry
from cola_jax.interop.tensor_names import GROUPS, Row, constants, rows
from cola_jax.interop.weight_files import read_files, refuse_types
from cola_jax.parallel.rules import path_of, spec_of

Tree = dict[str, Any]


def shapes(cfg: RunConfig, part: str) -> Tree:
    """Returns the shapes of the parameter groups of one part, cola_vae or cola_dit."""
    every = jax.eval_shape(lambda: FAMILIES["cola"].objective.init(cfg, jax.random.PRNGKey(0)))
    return {group: every[group] for group in GROUPS[part]}


def rows_of(part: str, cfg: RunConfig) -> list[Row]:
    """Returns the parameters of one part and the corresponding released tensors."""
    leaves = jax.tree_util.tree_leaves_with_path(shapes(cfg, part))
    return rows(part, cfg, {path_of(path): leaf for path, leaf in leaves})


def read_vae(folder: Path, config: TextVAEConfig, mesh: Mesh | None = None) -> Tree:
    """Reads the parameter groups {"encoder", "decoder"}, fp32, placement and errors as in `read_part`."""
    return read_part("cola_vae", folder, RunConfig(vae=config), mesh)


def read_dit(folder: Path, config: DiTConfig, mesh: Mesh | None = None) -> Tree:
    """Reads the parameter group {"dit"}; as `read_vae`."""
    channels = read_json(folder / "config.json")["txt_in_channels"]
    return read_part("cola_dit", folder, RunConfig(vae=TextVAEConfig(latent_dim=channels), dit=config), mesh)


def read_part(part: str, folder: Path, cfg: RunConfig, mesh: Mesh | None = None) -> Tree:
    """Reads the tensors of one part into parameter groups, fp32.

    Args:
      part: cola_vae | cola_dit.
      mesh: for the parameters, by the rules table; None: the first local device.

    Raises:
      ReleasedFormatError: naming every tensor that is missing, extra, misshapen or of a dtype that is not read, one
        that is not finite, and a constant that differs from the one computed here; and if a file is missing or truncated.
      MeshError: if a parameter does not fit the mesh.
    """
    entries = {entry.name: entry for _, _, found in read_files(folder) for entry in found}
    table = rows_of(part, cfg)
    expected = {name: row.shape for row in table for name in row.names}
    fixed = constants(part, cfg)
    _refuse_misfits(folder, entries, expected | {name: value.shape for name, value in fixed.items()})
    for name, value in fixed.items():
        exact = entries[name].dtype in ("F32", "F64")
        if not np.allclose(np.float32(entries[name].read()), value, rtol=1e-4 if exact else 1e-2):
            raise ReleasedFormatError(f"{folder}: {name} is not that of RoPE with theta {cfg.dit.rope_theta}")
    local = SingleDeviceSharding(jax.local_devices()[0])
    tree: Tree = {}
    for row in table:
        shape = ((len(row.names),) if row.stacked else ()) + row.layout.ours(_nothing(row.shape)).shape
        sharding = NamedSharding(mesh, spec_of(row.path, shape, mesh)) if mesh else local
        *parents, leaf = row.path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = _filled(row, [entries[name] for name in row.names], shape, sharding)
    return tree


def _refuse_misfits(folder: Path, entries: dict[str, Entry], expected: dict[str, tuple[int, ...]]) -> None:
    """Raises one error that names every tensor that does not fit."""
    refuse_types(folder, entries.values())
    missing = [f"tensor {name} {list(expected[name])} is missing" for name in expected if name not in entries]
    extra = [f"tensor {name} {list(entries[name].shape)} is not expected" for name in entries if name not in expected]
    both = [entries[name] for name in expected if name in entries]
    shaped = [
        f"tensor {entry.name} is {list(entry.shape)}, expected {list(expected[entry.name])}"
        for entry in both
        if entry.shape != expected[entry.name]
    ]
    if missing or extra or shaped:
        raise ReleasedFormatError(f"{folder}: {'; '.join([*missing, *extra, *shaped])}")


def _filled(row: Row, entries: list[Entry], shape: tuple[int, ...], sharding: Sharding) -> jax.Array:
    """Returns one parameter, its layers read one by one."""
    if not row.stacked:
        return _placed(row.layout.ours(entries[0].read_weights()), sharding)
    rest = P(*sharding.spec[1:]) if isinstance(sharding, NamedSharding) else None
    one_layer = sharding if rest is None else NamedSharding(sharding.mesh, rest)
    stacked = jnp.zeros(shape, jnp.float32, device=sharding)
    for layer, entry in enumerate(entries):
        values = row.layout.ours(entry.read_weights())
        stacked = _with_layer(stacked, _placed(values, one_layer), layer, sharding)
        stacked.block_until_ready()  # so that layers that are read faster than copied do not accumulate
    return stacked


def _placed(values: np.ndarray, sharding: Sharding) -> jax.Array:
    cut = lambda index: np.array(values[index], copy=True, order="C")
    return jax.make_array_from_callback(values.shape, sharding, cut)


@partial(jax.jit, donate_argnums=0, static_argnums=3)
def _with_layer(stacked: jax.Array, values: jax.Array, layer: jax.Array | int, sharding: Sharding) -> jax.Array:
    new = jax.lax.dynamic_update_index_in_dim(stacked, values, layer, 0)
    return jax.lax.with_sharding_constraint(new, sharding)


def _nothing(shape: tuple[int, ...]) -> np.ndarray:
    return np.broadcast_to(np.int8(0), shape)
