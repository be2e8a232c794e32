import math

import jax
import numpy as np
import pytest
from jax.sharding import AxisType

from cola_jax import config
from cola_jax.aot.topology import devices_of
from cola_jax.config.fields import DCNConfig, MeshConfig, RunConfig, TrainConfig
from cola_jax.parallel.hosts import batch_putter, highest_vote, host_share, process_rows
from cola_jax.parallel.mesh import AXES, MeshError, axis_sizes, check_batch, check_model, make_mesh, sizes_across
from experiments._machines import MACHINES


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
    agree = highest_vote(make_mesh(MeshConfig(), jax.devices()[:1]))
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


@pytest.mark.parametrize("machine", MACHINES)
def test_a_machines_preset_divides_its_devices_the_batch_and_the_model(machine):
    cfg = config.resolve(config.load(f"cola_2b:joint,P,W,{machine}"))
    sizes = machine.split(":")[1].split("x") if ":" in machine else [machine.split("x")[1]]
    mesh = SizesOnly(**dict(zip(AXES, axis_sizes(cfg.mesh, math.prod(map(int, sizes))))))
    check_batch(cfg.train, mesh)
    check_model(cfg, mesh)


class Slice:
    def __init__(self, index):
        self.slice_index = index


def test_an_axis_lies_across_slices_only_as_far_as_it_divides():
    devices = [Slice(index // 2) for index in range(8)]
    with pytest.raises(MeshError, match=r"mesh.replica=2: the devices are in 4 slices.*mesh.dcn.replica=-1"):
        make_mesh(MeshConfig(replica=2, data=1, fsdp=4), devices)
    with pytest.raises(MeshError, match=r"mesh.fsdp=2: .* 4 parts .*mesh.dcn.fsdp=4"):
        make_mesh(MeshConfig(replica=1, data=4, fsdp=2, dcn=DCNConfig(replica=1, fsdp=4)), devices)


@pytest.mark.parametrize("slices,there", [(1, "there is one slice"), (4, "there are 4 slices")])
def test_what_lies_across_slices_multiplies_to_the_slices_there_are(slices, there):
    devices = [Slice(index % slices) for index in range(8)]
    dcn = DCNConfig(replica=1, fsdp=2)
    with pytest.raises(MeshError, match=f"mesh.dcn.fsdp=2.* multiply to 2, but {there}"):
        make_mesh(MeshConfig(data=1, fsdp=-1, dcn=dcn), devices)
    assert sizes_across(DCNConfig(replica=1, fsdp=-1), (1, 1, 8, 1, 1), slices) == (1, 1, slices, 1, 1)


def slices_of(devices):
    return {device.slice_index for device in devices.flat}


def test_every_replica_lies_in_a_slice_of_its_own(tpu_compiler):
    mesh = make_mesh(MeshConfig(replica=2, data=1, fsdp=-1), devices_of("v5e:2x4*2"))
    assert dict(mesh.shape) == {"replica": 2, "data": 1, "fsdp": 8, "sequence": 1, "tensor": 1}
    assert [slices_of(part) for part in mesh.devices] == [{0}, {1}]


def test_parts_of_several_axes_lie_across_slices_and_the_rest_within_one(tpu_compiler):
    dcn = DCNConfig(replica=1, data=2, fsdp=2)
    mesh = make_mesh(MeshConfig(data=2, fsdp=8, tensor=2, dcn=dcn), devices_of("v5e:2x4*4"))
    assert mesh.devices.shape == (1, 2, 8, 1, 2)
    blocks = [mesh.devices[0, data, fsdp : fsdp + 4] for data in (0, 1) for fsdp in (0, 4)]
    assert [slices_of(block) for block in blocks] == [{0}, {1}, {2}, {3}]


def test_an_axis_may_take_a_part_of_a_side_of_the_torus(tpu_compiler):
    devices = devices_of("v5p:8x8x16")
    for tensor, reach in ((4, 3), (8, 7)):  # half a side and a whole one
        mesh = make_mesh(MeshConfig(data=1, fsdp=-1, tensor=tensor), devices)
        assert mesh.shape["fsdp"] == 1024 // tensor and len(set(mesh.devices.flat)) == 1024
        for neighbours in mesh.devices.reshape(-1, tensor):
            corners = np.array([device.coords for device in neighbours])
            assert np.ptp(corners, axis=0).sum() <= reach, "devices of one tensor group lie in a line or a small box"
