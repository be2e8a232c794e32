"""cuDNN's attention: the same calls by its library's other implementation against XLA's, and lowered for GPUs."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import close, config

from cola_jax.config import ComputeConfig, ConfigError, for_platform
from cola_jax.models import attention, cudnn

pytestmark = pytest.mark.slow

B, N, H, K, S = 2, 48, 2, 16, 4
SEGMENTS = jnp.asarray(np.repeat([[1, 2, 0], [1, 2, 3]], [16, 28, 4], axis=1))
XLA, CUDNN = (ComputeConfig(attention=name, attention_chunks=5) for name in ("xla", "cudnn"))


def heads(seed, length=N, count=H):
    random = np.random.default_rng(seed)
    return tuple(jnp.asarray(random.standard_normal((B, length, h, K)), jnp.float32) for h in (H, count, count))


def clean_noisy(*streams, **how):
    return attention.clean_noisy_attention(*streams, block_size=S, **how)


PATTERNS = {
    "clean and noisy": (clean_noisy, (heads(0, N - S), heads(1))),
    "the last layer": (clean_noisy, ((None, *heads(0, N - S)[1:]), heads(1))),
    "causal": (partial(attention.block_causal_attention, block_size=1), heads(2)),
    "shared keys": (partial(attention.block_causal_attention, block_size=1), heads(2, count=1)),
    "blocks": (partial(attention.block_causal_attention, block_size=S), heads(3)),
    "full": (attention.full_attention, heads(4)),
}


def value_and_gradients(attend, streams):
    def functional(streams):
        out = attend(*streams)
        return sum(jnp.sum(jnp.sin(x + index)) for index, x in enumerate(jax.tree.leaves(out))), out

    return jax.jit(jax.value_and_grad(functional, has_aux=True))(streams)


@pytest.mark.parametrize(
    "segments", [pytest.param(None, marks=pytest.mark.slow), SEGMENTS], ids=["one document", "packed"]
)
@pytest.mark.parametrize("name", PATTERNS)
def test_every_pattern_is_that_of_xla_forward_and_backward(name, segments, monkeypatch):
    monkeypatch.setattr(cudnn, "IMPLEMENTATION", "xla")  # of the library: takes what its cuDNN form takes, anywhere
    pattern, streams = PATTERNS[name]
    ours, theirs = (
        value_and_gradients(partial(pattern, segments_BN=segments, compute=compute), streams)
        for compute in (CUDNN, XLA)
    )
    close(ours, theirs, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["clean and noisy", "causal", "full"])
def test_the_gradient_lowers_to_flash_attention_of_cudnn(name, monkeypatch):
    library = pytest.importorskip("jax._src.cudnn.fused_attention_stablehlo")
    monkeypatch.setattr(library, "check_cudnn_version", lambda: 91000)  # there is none here to ask
    pattern, streams = PATTERNS[name]
    streams = jax.tree.map(lambda x: x.astype(jnp.bfloat16), streams)
    functional = lambda streams: sum(
        jnp.sum(x.astype(jnp.float32)) for x in jax.tree.leaves(pattern(*streams, segments_BN=None, compute=CUDNN))
    )
    text = jax.jit(jax.grad(functional)).trace(streams).lower(lowering_platforms=("cuda",)).as_text()
    assert "__cudnn$fmha" in text and "Backward" in text
    assert ("ScaleBias" in text) == (name == "clean and noisy")  # causal and full patterns need no bias


@pytest.mark.parametrize(
    "changes,platform,message",
    [
        ({}, "tpu", "runs on NVIDIA GPUs, not on tpu"),
        ({"compute__dtype": "float32"}, "gpu", "supports bfloat16, not float32"),
        ({"mesh__sequence": 2}, "gpu", "mesh.sequence=2"),
        ({"dit__block_size": 3, "train__sequence_length": 36}, "gpu", "the DiT has blocks of 3"),
        ({"dit__head_dim": 12, "dit__rope_dim": 12}, "gpu", "heads of 12 channels"),
        ({"family": "ar", "train__sequence_length": 33}, "gpu", "rows of 33"),
    ],
)
def test_what_cudnn_cannot_do_is_refused(changes, platform, message):
    with pytest.raises(ConfigError, match=f"compute.attention='cudnn': .*{message}"):
        for_platform(config(**{"compute__dtype": "auto", "compute__attention": "cudnn"} | changes), platform)


def test_cudnn_is_taken_by_name():
    assert (
        for_platform(config(compute__attention="cudnn", compute__dtype="auto"), "gpu")[0].compute.attention == "cudnn"
    )
    assert for_platform(config(), "gpu")[0].compute.attention == "xla"
