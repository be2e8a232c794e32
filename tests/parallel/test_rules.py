import functools

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AbstractMesh
from jax.sharding import PartitionSpec as P

from cola_jax.config import RunConfig
from cola_jax.families import cola
from cola_jax.parallel.mesh import AXES, MeshError
from cola_jax.parallel.rules import RULES, describe, shardings, spec_of

MESH = AbstractMesh((1, 2, 4, 1, 2), AXES)


def tree_of(**shapes):
    return {"encoder": {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}}


def test_every_parameter_of_the_full_sized_model_has_a_sharding():
    params = jax.eval_shape(functools.partial(cola.FAMILY.objective.init, RunConfig()), jax.random.PRNGKey(0))
    placed = shardings(params, MESH)
    large = [
        sharding.spec
        for leaf, sharding in zip(jax.tree.leaves(params), jax.tree.leaves(placed))
        if leaf.size > 1_000_000
    ]
    assert large
    assert all(any(axes for axes in spec) for spec in large)


def test_a_parameter_without_a_rule_is_an_error():
    with pytest.raises(MeshError, match="encoder/strange .*no sharding rule"):
        shardings(tree_of(strange=(4, 4)), MESH)


def test_a_parameter_with_two_rules_is_an_error():
    with pytest.raises(MeshError, match="encoder/embedding .*all match"):
        shardings(tree_of(embedding=(4, 64)), MESH, (*RULES, ("encoder/emb.*", P())))


def test_an_axis_that_does_not_divide_names_parameter_dimension_and_axis():
    with pytest.raises(MeshError, match=r"encoder/embedding .*dimension 1 of size 60 .*mesh.fsdp=4 and mesh.tensor=2"):
        shardings(tree_of(embedding=(7, 60)), MESH)


def test_a_rule_for_other_dimensions_is_an_error():
    with pytest.raises(MeshError, match="for 3 dimensions, not 2"):
        spec_of("dit/blocks/qkv/kernel", (64, 192), MESH)


def test_stacked_layers_are_never_split_over_the_layer_axis():
    assert spec_of("dit/blocks/qkv/kernel", (3, 64, 192), MESH) == P(None, "fsdp", "tensor")
    assert spec_of("decoder/blocks/ffn_out/kernel", (3, 64, 64), MESH) == P(None, "tensor", "fsdp")


def test_the_table_says_what_lies_on_one_device():
    tree = {**tree_of(embedding=(7, 64)), "dit": {"input": {"bias": jax.ShapeDtypeStruct((16,), jnp.float32)}}}
    lines = describe(tree, shardings(tree, MESH)).splitlines()
    assert lines[1].split() == ["dit/input/bias", "16", "replicated", "64", "64"]
    assert lines[2].split() == ["encoder/embedding", "7x64", "-,fsdp+tensor", "1,792", "224"]
    assert lines[-1].split() == ["total", "1,856", "288"]
