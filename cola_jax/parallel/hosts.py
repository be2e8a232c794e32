"""Coordination of the processes of one run: the rows of each, when all save or stop, and values computed by one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from cola_jax.parallel.mesh import MeshError, batch_sharding, replicated

Batch = dict[str, Any]


def process_rows(mesh: Mesh, batch_size: int) -> np.ndarray:
    """Returns the sorted rows of the global batch that this process must supply: those on its own devices."""
    places = batch_sharding(mesh).addressable_devices_indices_map((batch_size,))
    rows = np.arange(batch_size)
    return np.unique(np.concatenate([rows[index] for index in places.values()]))


def host_share(mesh: Mesh, batch_size: int) -> tuple[int, int]:
    """Returns (share, shares): the rows of a batch are divided into `shares` equal parts, and this process supplies
    part `share`.

    Processes whose devices hold the same rows (a tensor axis across hosts) have the same share.

    Raises:
      MeshError: if the rows of two processes overlap without being the same.
    """
    rows = np.arange(batch_size)
    parts: dict[int, set[int]] = {}
    for device, index in batch_sharding(mesh).devices_indices_map((batch_size,)).items():
        parts.setdefault(device.process_index, set()).update(rows[index].ravel().tolist())
    shares = sorted({tuple(sorted(part)) for part in parts.values()})
    if sum(map(len, shares)) != batch_size or len({len(part) for part in shares}) != 1:
        raise MeshError(
            f"mesh {dict(mesh.shape)}: processes share some rows of train.batch_size={batch_size} but not all; expected "
            "mesh.tensor to fill whole processes, or to be a divisor of the devices of one"
        )
    return shares.index(tuple(sorted(parts[jax.process_index()]))), len(shares)


def batch_putter(mesh: Mesh, batch_size: int) -> Callable[[Batch], Batch]:
    """Returns a function from this process's rows (numpy, in the order of `process_rows`) to global arrays on the mesh.

    The function raises MeshError if an entry has another number of rows.
    """
    sharding, rows = batch_sharding(mesh), len(process_rows(mesh, batch_size))

    def put(batch: Batch) -> Batch:
        for name, value in batch.items():
            if len(value) != rows:
                raise MeshError(
                    f"batch entry {name} has {len(value)} rows; this process supplies {rows} of train.batch_size={batch_size}"
                )
        place = lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x), (batch_size, *x.shape[1:]))
        return {name: place(np.asarray(value)) for name, value in batch.items()}

    return put


def highest_vote(mesh: Mesh) -> Callable[[int], Any]:
    """Returns a function from this process's vote, 0 or more, to the highest of all processes, the same answer everywhere.

    The answer may be an array that is still being computed: fetching it later does not delay the devices.
    """
    if jax.process_count() == 1:
        return lambda vote: vote
    sharding = NamedSharding(mesh, P(mesh.axis_names))
    local, size = len(sharding.addressable_devices), mesh.size
    highest = jax.jit(jnp.max, out_shardings=replicated(mesh))

    def send(vote: int) -> Any:
        return highest(jax.make_array_from_process_local_data(sharding, np.full(local, vote, np.int32), (size,)))

    return send


def from_first(make: Callable[[], bytes]) -> bytes:
    """Returns the result of `make`, which runs in process 0 only, in every process."""
    if jax.process_count() == 1:
        return make()
    content = make() if jax.process_index() == 0 else b""
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(content))))
    if size == 0:
        return b""
    buffer = np.zeros(size, np.uint8)
    buffer[: len(content)] = np.frombuffer(content, np.uint8)
    return np.asarray(multihost_utils.broadcast_one_to_all(buffer)).astype(np.uint8).tobytes()
