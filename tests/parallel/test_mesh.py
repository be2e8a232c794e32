import jax
import numpy as np
import pytest
from jax.sharding import AxisType

from cola_jax.config.fields import MeshConfig, RunConfig, TrainConfig
from cola_jax.parallel.hosts import any_process, batch_putter, host_share, process_rows
from cola_jax.parallel.mesh import AXES, MeshError, axis_sizes, check_batch, check_model, make_mesh
from cola_jax.parallel.topology import devices_of


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


@pytest.mark.parametrize(
    "family,axes,message",
    [
        ("cola", dict(tensor=32), "dit.num_heads=16 by mesh.tensor=32"),
        ("cola", dict(tensor=8), "vae.num_heads / vae.block.shared_heads_kv=12 by mesh.tensor=8"),
        ("cola", dict(sequence=64), "the 512 latents of a row by mesh.sequence=64 devices of whole blocks of 16"),
        ("ar", dict(sequence=3), "the 512 tokens of a row by mesh.sequence=3"),
        ("llada", dict(tensor=32), "backbone.kv_heads=16 by mesh.tensor=32"),
    ],
)
def test_a_mesh_that_does_not_divide_the_model_is_refused_with_axis_and_sizes(family, axes, message):
    with pytest.raises(MeshError, match=message):
        check_model(RunConfig(family=family), SizesOnly(**{"tensor": 1, "sequence": 1} | axes))
    check_model(RunConfig(family=family), SizesOnly(tensor=4, sequence=4))


class Slice:
    def __init__(self, index):
        self.slice_index = index


def test_slices_are_covered_by_the_replica_axis_alone():
    devices = [Slice(index // 2) for index in range(8)]
    with pytest.raises(MeshError, match="mesh.replica=2: the devices lie in 4 slices"):
        make_mesh(MeshConfig(replica=2, data=1, fsdp=4), devices)


def test_every_replica_lies_in_a_slice_of_its_own(tpu_compiler):
    mesh = make_mesh(MeshConfig(replica=2, data=1, fsdp=-1), devices_of("v5e:2x4*2"))
    assert dict(mesh.shape) == {"replica": 2, "data": 1, "fsdp": 8, "sequence": 1, "tensor": 1}
    slices = [{device.slice_index for device in part.flat} for part in mesh.devices]
    assert slices == [{0}, {1}]
