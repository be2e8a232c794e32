"""The DiT's training pass against a plain one, its caches against its training pass, and how a new one starts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from plain_dit import denoise_all as plain
from plain_dit import mask_of
from tiny import close, config, moved, normal, parameters, replace

from cola_jax.families import cola
from cola_jax.models import build
from cola_jax.models.cache import KVCache, append
from cola_jax.models.dit import BlockPositions

N, S, B = 16, 4, 3
SEGMENTS = np.array([[1] * 8 + [2] * 8, [1] * 4 + [2] * 4 + [3] * 8, [1] * 12 + [0] * 4], np.int32)
KNOWN = np.zeros((B, N), bool)
KNOWN[0, 4:6] = KNOWN[1, 12:15] = KNOWN[2, 0:1] = True
WAYS = {
    "a chunk a block": {"attention_chunks": 4, "remat": "full"},
    "uneven chunks": {"attention_chunks": 3, "scan_layers": False},
    "more chunks than blocks": {"attention_chunks": 9, "remat": "minimal"},
    "offloaded": {"remat": "offload"},
    "one chunk, unrolled": {"scan_layers": False, "remat": "full", "attention_chunks": 1},
}
QUICK_WAYS = ("a chunk a block",)


@pytest.fixture(scope="module")
def cfg():
    return config()


@pytest.fixture(scope="module")
def params(cfg):
    return parameters(cfg)["dit"]


def starts(segments, length):
    """Positions that begin at 0 in every document."""
    if segments is None:
        return np.tile(np.arange(length, dtype=np.int32), (B, 1))
    begins = np.concatenate([np.ones((B, 1), bool), segments[:, 1:] != segments[:, :-1]], axis=1)
    index = np.arange(length)
    return (index - np.maximum.accumulate(np.where(begins, index, 0), axis=1)).astype(np.int32)


def case(*, per_block=False, known=False, segments=False, length=N):
    """z_clean, z_noisy, t, known, positions, segments: the arguments of denoise_all."""
    segments = SEGMENTS[:, :length] if segments else None
    known = jnp.asarray(KNOWN[:, :length]) if known else None
    times = length // S if per_block else 1
    t = jnp.asarray(np.random.default_rng(3).uniform(0.05, 0.95, (B, times)), jnp.float32)
    z_clean, z_noisy = normal(1, B, length, 4), normal(2, B, length, 4)
    if known is not None:
        z_noisy = jnp.where(known[..., None], z_clean, z_noisy)
    return z_clean, z_noisy, t, known, starts(segments, length), segments


CASES = {
    "a time a row": {},
    "a time a row, known": {"known": True, "segments": True},
    "one block": {"length": S, "known": True},
}
HARDEST = {"per_block": True, "known": True, "segments": True}


def of_training(cfg, arguments):
    _, _, t, known, positions, segments = arguments

    def velocity(params, clean, noisy):
        net = build.dit(cfg)
        return net.apply({"params": params}, clean, noisy, t, known, positions, segments, method="denoise_all")

    return velocity


def value_and_gradients(cfg, params, arguments):
    """v, and the gradient of a random functional of it to the parameters and both copies."""
    velocity, weights = of_training(cfg, arguments), normal(5, *arguments[1].shape)

    def functional(params, clean, noisy):
        v = velocity(params, clean, noisy)
        return jnp.sum(weights * v), v

    gradients, v = jax.jit(jax.grad(functional, argnums=(0, 1, 2), has_aux=True))(params, *arguments[:2])
    return v, gradients


@pytest.fixture(scope="module")
def expected(cfg, params):
    """The same of the dense pass, as a function of the arguments."""

    @jax.jit
    def run(clean, noisy, t_BN, positions, mask):
        def functional(params, clean, noisy):
            v = plain(cfg, params, clean, noisy, t_BN, positions, mask)
            return jnp.sum(normal(5, *v.shape) * v), v

        gradients, v = jax.grad(functional, argnums=(0, 1, 2), has_aux=True)(params, clean, noisy)
        return v, gradients

    def of(arguments):
        clean, noisy, t, known, positions, segments = arguments
        t_BN = jnp.repeat(t, positions.shape[1] // t.shape[1], axis=1)
        t_BN = t_BN if known is None else jnp.where(known, 0.0, t_BN)
        mask = np.broadcast_to(mask_of(positions.shape[1], S, segments), (B, *2 * (2 * positions.shape[1],)))
        return run(clean, noisy, t_BN, positions, mask)

    return of


@pytest.mark.parametrize(
    "kind", [kind if kind == "a time a row, known" else pytest.param(kind, marks=pytest.mark.slow) for kind in CASES]
)
def test_the_training_pass_is_the_dense_one(cfg, params, expected, kind):
    arguments = case(**CASES[kind])
    close(value_and_gradients(cfg, params, arguments), expected(arguments), atol=5e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "way", [way if way in QUICK_WAYS else pytest.param(way, marks=pytest.mark.slow) for way in WAYS]
)
def test_chunks_remat_and_scan_change_neither_velocity_nor_gradient(cfg, params, expected, way):
    arguments = case(**HARDEST)
    changed = replace(cfg, **{f"compute__{name}": value for name, value in WAYS[way].items()})
    close(value_and_gradients(changed, params, arguments), expected(arguments), atol=5e-5, rtol=1e-4)


@pytest.mark.parametrize("scan", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_remat_computes_layers_again(cfg, params, scan):
    arguments = case()

    def lowered(remat):
        changed = replace(cfg, compute__remat=remat, compute__scan_layers=scan)
        velocity = of_training(changed, arguments)
        gradient = jax.jit(jax.grad(lambda p: velocity(p, *arguments[:2]).sum())).lower(params)
        return gradient.cost_analysis()["flops"]

    none, minimal, full = (lowered(remat) for remat in ("none", "minimal", "full"))
    assert none <= minimal < full


def test_the_last_clean_block_moves_nothing(cfg, params):
    arguments = case()
    _, (_, to_clean, _) = value_and_gradients(cfg, params, arguments)
    assert np.all(np.asarray(to_clean)[:, -S:] == 0.0)
    assert np.all(np.abs(np.asarray(to_clean)[:, :-S]).max(-1) > 1e-5)


def test_the_clean_output_of_the_last_layer_moves_nothing_in_the_dense_pass_either():
    see = mask_of(N, S)[0]
    readers_of_last_block = see[:, N - S : N].any(axis=1)
    assert readers_of_last_block[:N].sum() == S and not readers_of_last_block[N:].any()


# --- one block on a cache --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=[True, pytest.param(False, marks=pytest.mark.slow)], ids=["scanned", "unrolled"])
def on_cache(cfg, params, request):
    """Rows that stand behind 0, 1 and 3 clean blocks, at t = 0.6, each denoising its next block."""
    cfg = replace(cfg, compute__scan_layers=request.param)
    net, variables, t = build.dit(cfg), {"params": params}, 0.6
    length = jnp.array([0, 4, 12])
    clean, noisy = normal(1, B, N, 4), normal(2, B, N, 4)
    known = jnp.zeros((B, N), bool).at[1, 4:6].set(True)
    noisy = jnp.where(known[..., None], clean, noisy)
    place = jnp.tile(jnp.arange(N), (B, 1))
    own = length[:, None] + jnp.arange(S)
    block = lambda x: jnp.take_along_axis(x, own.reshape(B, S, *[1] * (x.ndim - 2)), axis=1)

    @jax.jit
    def run(clean, noisy):
        cache = net.apply(variables, clean, place, method="prefill")
        times = net.apply(variables, jnp.array([t, 0.0]), method="modulations")
        at_t, at_0 = (jax.tree.map(lambda m, i=i: m[i], times) for i in (0, 1))
        context = net.apply(variables, cache, length, BlockPositions(place, own, own), method="context")
        step = lambda z, at, known: net.apply(variables, z, at, at_0, known, context, True, method="denoise_block")
        v_c, v_u, _ = step(block(noisy), at_t, block(known))
        _, _, committed = step(block(clean), at_0, None)
        whole = net.apply(variables, clean, noisy, jnp.full((B, 1), t), known, place, None, method="denoise_all")
        alone = net.apply(
            variables, block(clean), block(noisy), jnp.full((B, 1), t), block(known), place[:, :S], None,
            method="denoise_all",
        )  # fmt: skip
        return v_c, v_u, committed, cache, block(whole), alone

    return run, clean, noisy, length


def test_a_block_on_the_cache_has_the_velocity_of_the_training_pass(on_cache):
    run, clean, noisy, _ = on_cache
    v_c, _, _, _, whole, _ = run(clean, noisy)
    close(v_c, whole)


def test_guidance_sees_the_block_alone_from_position_0(on_cache):
    run, clean, noisy, _ = on_cache
    v_c, v_u, _, _, _, alone = run(clean, noisy)
    close(v_u, alone)
    close(v_c[0], v_u[0])
    assert np.all(moved(v_c, v_u, (1, 2))[1:] > 1e-3)


def test_a_committed_block_leaves_the_keys_and_values_of_the_whole_row(on_cache):
    run, clean, noisy, length = on_cache
    _, _, committed, cache, _, _ = run(clean, noisy)

    def cut(caches, length):
        """What stands behind each row's length replaced by 7."""
        upto = jnp.arange(N) < length[:, None]
        one = lambda c: KVCache(
            jnp.where(upto[:, None, None, :], c.k, 7.0), jnp.where(upto[:, None, :, None], c.v, 7.0)
        )
        return jax.tree.map(one, caches, is_leaf=lambda x: isinstance(x, KVCache))

    close(append(cut(cache, length), committed, length), cut(cache, length + S))


def test_slots_behind_the_length_are_not_read(on_cache):
    run, clean, noisy, length = on_cache
    later = (jnp.arange(N) >= length[:, None])[..., None]
    v_c, v_u, *_ = run(clean, noisy)
    changed_c, changed_u, *_ = run(jnp.where(later, clean + 1.0, clean), noisy)
    close((v_c, v_u), (changed_c, changed_u), atol=1e-6)


# --- how a new one starts --------------------------------------------------------------------------------------------


def test_a_new_model_has_velocity_0_until_its_output_layer_moves():
    cfg = config(dit__zero_init=True)
    params = jax.jit(lambda key: cola.init(cfg, key)["dit"])(jax.random.PRNGKey(0))
    arguments = case()
    velocity = of_training(cfg, arguments)
    assert np.all(np.asarray(jax.jit(velocity)(params, *arguments[:2])) == 0.0)
    moved_output = params | {"output": jax.tree.map(lambda leaf: leaf + 1.0, params["output"])}
    assert np.abs(np.asarray(jax.jit(velocity)(moved_output, *arguments[:2]))).min() > 0.0


def test_gates_at_0_make_every_layer_the_identity(cfg, params):
    shut = {name: jax.tree.map(jnp.zeros_like, params["blocks"][name]) for name in ("ada_attn_out", "ada_mlp_out")}
    other = jax.tree.map(lambda leaf: 2.0 * leaf, params["blocks"]) | shut
    arguments = case()
    velocity = jax.jit(of_training(cfg, arguments))
    one = velocity({**params, "blocks": params["blocks"] | shut}, *arguments[:2])
    close(one, velocity({**params, "blocks": other}, *arguments[:2]))
    assert np.abs(np.asarray(one)).max() > 1e-2


def test_a_time_a_row_is_the_same_time_for_every_block(cfg, params):
    arguments = case()
    repeated = (*arguments[:2], jnp.repeat(arguments[2], N // S, axis=1), *arguments[3:])
    one = jax.jit(of_training(cfg, arguments))(params, *arguments[:2])
    close(one, jax.jit(of_training(cfg, repeated))(params, *arguments[:2]))


def test_bf16_products_leave_the_velocity_fp32_and_near(cfg, params):
    arguments = case()
    exact = jax.jit(of_training(cfg, arguments))(params, *arguments[:2])
    rough = jax.jit(of_training(replace(cfg, compute__dtype="bfloat16"), arguments))(params, *arguments[:2])
    assert rough.dtype == jnp.float32
    difference = np.abs(np.asarray(exact - rough))
    assert 1e-4 < difference.max() < 0.2 * np.abs(np.asarray(exact)).max()
