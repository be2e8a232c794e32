import pytest

from cola_jax.aot.topology import TOPOLOGIES, TopologyError, check, devices_of
from cola_jax.parallel.chips import TPU_CORES, chip_of


@pytest.mark.parametrize("name", ["v5p:3x3x3", "v9:2x2", "v5e", "", "cpu:0", "v5e:2x2*0", "v5e:2x2*x", "gpu:8"])
def test_a_topology_that_does_not_exist_lists_those_that_do(name):
    with pytest.raises(TopologyError) as error:
        check(name)
    assert "v5p: 2x2x1" in str(error.value) and "v6e:" in str(error.value) and repr(name) in str(error.value)


def test_more_cpu_devices_than_there_are_is_an_error():
    with pytest.raises(TopologyError, match="has 1 CPU devices"):
        devices_of("cpu:64")
    assert len(devices_of("cpu:1")) == 1


@pytest.mark.parametrize("generation", TOPOLOGIES)
def test_every_topology_that_is_listed_exists_and_its_chips_are_known(generation, tpu_compiler):
    for size in TOPOLOGIES[generation]:
        devices = devices_of(f"{generation}:{size}")
        assert chip_of(devices[0]) is not None and devices[0].device_kind in TPU_CORES
    small = f"{generation}:{TOPOLOGIES[generation][0]}"
    assert len(devices_of(f"{small}*3")) == 3 * len(devices_of(small))
