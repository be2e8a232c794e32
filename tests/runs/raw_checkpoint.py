"""A checkpoint's parameters read by Orbax alone, to compare what our reader gives with what was written."""

import jax
import numpy as np
import orbax.checkpoint as ocp

from cola_jax.train.integrity import leaves_by_path


def assert_params(given, workdir, step, groups):
    """Asserts that `given`, {group: parameters}, is exactly what the checkpoint of a step holds of these groups."""
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as orbax:
        there = orbax.restore(workdir / "checkpoints" / str(step) / "params")
    expected = {path: leaf for path, leaf in there.items() if path.split("/")[0] in groups}
    found = leaves_by_path(given)
    assert set(given) == set(groups) and found.keys() == expected.keys() and expected
    for path, leaf in expected.items():
        np.testing.assert_array_equal(jax.device_get(found[path]), leaf, err_msg=path)
