"""Splash attention in interpret mode against the dense reference, and compiled for TPUs that are not here."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from tiny import close, config

from cola_jax.aot.topology import devices_of
from cola_jax.config import ComputeConfig, ConfigError, MeshConfig, RunConfig, for_platform
from cola_jax.config.axes import BATCH_AXES
from cola_jax.models import attention, pairs, splash
from cola_jax.parallel.mesh import make_mesh

B, N, H, K, S = 2, 256, 2, 128, 16
SEGMENTS = np.repeat([[1, 2, 0], [1, 2, 3]], [96, 128, 32], axis=1)
XLA = ComputeConfig(attention="xla", attention_chunks=1)


def heads(seed, length=N):
    random = np.random.default_rng(seed)
    return tuple(jnp.asarray(random.standard_normal((B, length, H, K)), jnp.float32) for _ in range(3))


def outputs_and_gradients(attend, *streams):
    """Outputs, and the gradient of a functional that weighs them all differently."""

    def functional(*streams):
        out = attend(*streams)
        return sum(jnp.sum(jnp.sin(x + index)) for index, x in enumerate(jax.tree.leaves(out))), out

    return jax.jit(jax.value_and_grad(functional, argnums=tuple(range(len(streams))), has_aux=True))(*streams)


@pytest.mark.parametrize(
    "segments", [pytest.param(None, marks=pytest.mark.slow), SEGMENTS], ids=["one document", "packed"]
)
def test_the_training_pass_is_that_of_the_dense_mask_forward_and_backward(segments):
    segments = None if segments is None else jnp.asarray(segments)
    how = dict(block_size=S, segments_BN=segments)
    ours = outputs_and_gradients(partial(splash.clean_noisy, interpret=True, **how), heads(0, N - S), heads(1))
    dense = outputs_and_gradients(
        partial(attention.clean_noisy_attention, compute=XLA, **how), heads(0, N - S), heads(1)
    )
    close(ours, dense, atol=2e-5, rtol=1e-4)


def test_the_last_layer_needs_no_clean_queries():
    clean = (None, *heads(0, N - S)[1:])
    ours = splash.clean_noisy(clean, heads(1), block_size=S, segments_BN=None, interpret=True)
    dense = attention.clean_noisy_attention(clean, heads(1), block_size=S, segments_BN=None, compute=XLA)
    assert ours[0] is None
    close(ours[1], dense[1], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("block_size", [1, 16])
def test_a_block_causal_stream_is_that_of_the_dense_mask(block_size):
    how = dict(block_size=block_size, segments_BN=jnp.asarray(SEGMENTS))
    ours = outputs_and_gradients(lambda *qkv: splash.block_causal(*qkv, interpret=True, **how), *heads(2))
    dense = outputs_and_gradients(lambda *qkv: attention.block_causal_attention(*qkv, compute=XLA, **how), *heads(2))
    close(ours, dense, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("length", [512, 768, 4096])
def test_tiles_that_nobody_sees_are_not_multiplied(length):
    compute = ComputeConfig(attention="splash")
    noisy, clean = pairs.noisy(length, S, compute), pairs.block_causal(length, S, compute)
    assert noisy.live == pairs.noisy(length, S, XLA).live and clean.live == pairs.block_causal(length, S, XLA).live
    assert noisy.live < noisy.computed < 0.5 * length * 2 * length
    assert clean.live < clean.computed < 0.7 * length * length


@pytest.mark.slow
@pytest.mark.parametrize("axes", [dict(fsdp=2, tensor=2), dict(fsdp=2, sequence=2)], ids=str)
def test_the_kernel_compiles_for_a_mesh_of_tpus_with_its_gradient(axes, tpu_compiler):
    mesh = make_mesh(MeshConfig(data=1, **axes), devices_of("v5e:2x2"))
    place = NamedSharding(mesh, P(BATCH_AXES, "sequence", "tensor", None))
    x = jax.ShapeDtypeStruct((B, 2 * N, H, K), jnp.bfloat16, sharding=place)

    def functional(clean, noisy):
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            out = splash.clean_noisy(clean, noisy, block_size=S, segments_BN=None)
            return sum(jnp.sum(jnp.square(x.astype(jnp.float32))) for x in out)

    with jax.default_matmul_precision("default"):  # the session's "highest" is for fp32
        text = jax.jit(jax.grad(functional, argnums=(0, 1))).lower((x, x, x), (x, x, x)).compile().as_text()
    assert text.count('custom_call_target="tpu_custom_call"') == 6  # forward, dq and dkv of either stream
    travels = "all-gather" in text
    assert travels == ("sequence" in axes)


FULL = RunConfig(family="cola")


def test_the_kernel_is_chosen_by_platform_and_said():
    assert for_platform(FULL, "cpu")[0].compute == dataclasses.replace(FULL.compute, dtype="float32", attention="xla")
    on_tpu, said = for_platform(FULL, "tpu")
    assert on_tpu.compute.attention == "splash" and on_tpu.compute.dtype == "bfloat16" and "attention by splash" in said
    small, said = for_platform(config(), "tpu")
    assert small.compute.attention == "xla" and "not a multiple of 128" in said


@pytest.mark.parametrize(
    "changes,platform,message",
    [
        ({"compute__attention": "splash"}, "cpu", "runs on TPUs, not on cpu"),
        ({"compute__attention": "splash", "train__sequence_length": 192}, "tpu", "192 positions"),
        (
            {
                "compute__attention": "splash",
                "train__sequence_length": 384,
                "dit__block_size": 24,
                "vae__num_heads": 1,
                "vae__dim": 128,
            },
            "tpu",
            "blocks of 24",
        ),
        ({"compute__attention": "splash", "train__sequence_length": 128}, "tpu", "8 channels"),
        ({"compute__attention": "splash", "family": "llada"}, "tpu", "without a mask"),
        ({"compute__attention": "splash", "family": "plaid"}, "tpu", "without a mask"),
    ],
)
def test_a_kernel_that_cannot_do_what_is_asked_is_refused(changes, platform, message):
    with pytest.raises(ConfigError, match=f"compute.attention=.*{message}"):
        for_platform(config(**changes), platform)
