import jax
import numpy as np
import pytest
from jax.sharding import AxisType

from cola_jax.config.fields import MeshConfig, TrainConfig
from cola_jax.parallel.hosts import any_process, batch_putter, host_share, process_rows
from cola_jax.parallel.mesh import AXES, MeshError, axis_sizes, check_batch, make_mesh


class SizesOnly:
    """A mesh as far as sizes go."""

    def __init__(self, **shape):
        self.shape = shape


def test_minus_one_takes_what_is_left():
    assert axis_sizes(MeshConfig(data=-1, fsdp=2, tensor=2), 8) == (1, 2, 2, 1, 2)
    assert axis_sizes(MeshConfig(data=2, fsdp=-1, tensor=1), 8) == (1, 2, 4, 1, 1)
    assert axis_sizes(MeshConfig(data=1, replica=-1, sequence=4), 8) == (2, 1, 1, 4, 1)


@pytest.mark.parametrize("sizes", [dict(data=-1, fsdp=3), dict(data=2, fsdp=2), dict(data=16)])
def test_sizes_that_do_not_fit_the_devices_are_named(sizes):
    with pytest.raises(MeshError) as error:
        axis_sizes(MeshConfig(**sizes), 8)
    assert "8" in str(error.value)
    assert all(f"mesh.{axis}={size}" in str(error.value) for axis, size in sizes.items())


def test_axis_types_are_auto():
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    assert mesh.axis_names == AXES
    assert set(mesh.axis_types) == {AxisType.Auto}


def test_a_microbatch_that_does_not_divide_is_refused_with_the_multiple_it_needs():
    mesh = SizesOnly(replica=1, data=2, fsdp=2, sequence=1, tensor=2)
    check_batch(TrainConfig(batch_size=16, accumulate=4), mesh)
    with pytest.raises(MeshError, match="multiple of 16"):
        check_batch(TrainConfig(batch_size=24, accumulate=4), mesh)


def test_one_process_supplies_every_row_and_gets_them_back():
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    assert process_rows(mesh, 6).tolist() == list(range(6))
    assert host_share(mesh, 6) == (0, 1)
    batch = {"tokens": np.arange(12).reshape(6, 2)}
    np.testing.assert_array_equal(batch_putter(mesh, 6)(batch)["tokens"], batch["tokens"])
    with pytest.raises(MeshError, match="tokens has 6 rows"):
        batch_putter(mesh, 8)(batch)


def test_one_process_answers_for_itself():
    agree = any_process(make_mesh(MeshConfig(), jax.devices()[:1]))
    assert agree(True) is True
    assert agree(False) is False
