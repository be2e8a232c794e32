"""The block loop of Cola DLM (SPEC 3): encode the prompt, denoise a block, decode it, commit it, again.

Each function is one compiled program per shape; only the generated block is transferred to the host.
Axes: B batch, N latents, S latents per block, C latent channels, P tokens per latent, V vocabulary, T solver steps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from cola_jax.config import RunConfig, SamplingConfig
from cola_jax.diffusion import guidance, path, solvers
from cola_jax.generate import tokens
from cola_jax.generate.tokens import Choice, ChoiceValues
from cola_jax.models import build, layers
from cola_jax.models.build import ColaNetworks
from cola_jax.models.cache import Caches, append, grow, slots
from cola_jax.models.dit import BlockPositions, TimeModulation
from cola_jax.models.text_vae import from_prior, to_prior


class Prepared(NamedTuple):
    """Values that all blocks of a generation share.

    Attributes:
      steps: AdaLN at every time that the sampler evaluates; leading axes (T, evaluations per step).
      at_0: AdaLN at t = 0.
    """

    steps: TimeModulation
    at_0: TimeModulation


@dataclass(frozen=True)
class BlockProgram:
    """Static arguments of `write_block`: networks, solver, and which operations run. Their values are `BlockValues`.

    Attributes:
      guided: whether the velocity without condition is computed. repaints: first_block=repaint.
    """

    networks: ColaNetworks
    solver: str
    steps: int
    guided: bool
    repaints: bool
    choice: Choice


class BlockValues(NamedTuple):
    """guidance: s of SPEC 3.2 per row, (B,) fp32. repaint_rounds, repaint_time: scalars, of all rows."""

    choice: ChoiceValues
    guidance: jax.Array
    repaint_rounds: jax.Array
    repaint_time: jax.Array


class BlockState(NamedTuple):
    """The state carried from block to block."""

    dit_cache: Caches
    decoder_cache: Caches
    length: jax.Array  # (B,) latents in the caches
    seen: jax.Array  # (B, V) tokens decoded so far


class FirstBlock(NamedTuple):
    """The block in which a prompt ends: its known latents, z0 (B, S, C) and known (B, S)."""

    z0: jax.Array
    known: jax.Array


class Block(NamedTuple):
    """One generated block: tokens (B, S P) int32, logits (B, S P, V) and latents (B, S, C) fp32."""

    tokens: jax.Array
    logits: jax.Array
    latents: jax.Array


class Entries(NamedTuple):
    """The cache entries of a generated block, of the DiT and of the decoder."""

    dit: Caches
    decoder: Caches


def natural_positions(progress: BlockState, block_size: int) -> BlockPositions:
    """Positions as in training: from 0, one per latent."""
    new = progress.length[:, None] + jnp.arange(block_size)
    return BlockPositions(jnp.arange(slots(progress.dit_cache))[None], new, new)


def program_of(cfg: RunConfig) -> BlockProgram:
    """Returns the static arguments of `write_block` for a config."""
    s = cfg.sampling
    repaints = s.first_block == "repaint"
    return BlockProgram(build.of_cola(cfg), s.solver, s.steps, s.guidance != 1.0, repaints, tokens.choice_of(s))


def values_of(sampling: SamplingConfig, rows: int) -> BlockValues:
    """Returns the values of a sampling config, the same for each row."""
    rounds, time = (sampling.repaint_rounds, sampling.repaint_time) if sampling.first_block == "repaint" else (1, 1.0)
    guidance = jnp.full(rows, sampling.guidance, jnp.float32)
    return BlockValues(tokens.values_of(sampling, rows), guidance, jnp.int32(rounds), jnp.float32(time))


@partial(jax.jit, static_argnums=0)
def prepare(program: BlockProgram, params: Any) -> Prepared:
    """Computes the values that every `write_block` reads."""
    visited = solvers.evaluation_times(program.solver, program.steps)
    variables, net = {"params": params["dit"]}, build.dit(program.networks)
    table = net.apply(variables, jnp.append(visited.reshape(-1), 0.0), method="modulations")
    steps = jax.tree.map(lambda m: m[:-1].reshape(*visited.shape, *m.shape[1:]), table)
    return Prepared(steps, jax.tree.map(lambda m: m[-1], table))


def cut_layers(networks: ColaNetworks, params: Any) -> Any:
    """Returns parameters split per layer if layers are unrolled, so that `read_prompt` and `write_block` need not do it.

    `prepare` takes them stacked.
    """
    return _each_stack(networks, params, jax.jit(layers.split_layers))


def _each_stack(networks: ColaNetworks, params: Any, cut: Callable[[Any], list[Any]]) -> Any:
    if networks.compute.scan_layers:
        return params
    return {name: {**group, "blocks": cut(group["blocks"])} for name, group in params.items()}


@partial(jax.jit, static_argnums=(0, 4))
def read_prompt(
    networks: ColaNetworks,
    params: Any,
    tokens_BL: jax.Array,
    known_B: jax.Array,
    new_blocks: int,
    positions_BN: jax.Array | None = None,
) -> tuple[BlockState, FirstBlock]:
    """Encodes prompts to posterior means and fills the caches with their whole blocks.

    The caches have room for all `new_blocks` but the last, which no later block reads.

    positions_BN: RoPE positions of the DiT's prefix, instead of the default ones.
    """
    vae, size = networks.vae, networks.dit.block_size
    batch, latents = tokens_BL.shape[0], tokens_BL.shape[1] // vae.patch_size
    positions = jnp.arange(latents)[None]
    mean = build.encoder(networks).apply({"params": params["encoder"]}, tokens_BL, positions, None).mean
    z0 = to_prior(vae, mean)
    prior_positions = positions if positions_BN is None else positions_BN
    dit_cache = build.dit(networks).apply({"params": params["dit"]}, z0, prior_positions, method="prefill")
    read = partial(build.decoder(networks).apply, {"params": params["decoder"]}, method="hidden")
    _, decoder_cache = read(mean, positions, None)
    whole = known_B // size * size
    room = max(latents + (new_blocks - 1) * size, size)
    seen = jnp.zeros((batch, vae.vocab_size), bool)
    ending = jax.vmap(lambda row, start: jax.lax.dynamic_slice_in_dim(row, start, size))
    z0 = ending(jnp.pad(z0, ((0, 0), (0, size), (0, 0))), whole)
    first = FirstBlock(z0, jnp.arange(size) < (known_B - whole)[:, None])
    return BlockState(grow(dit_cache, room), grow(decoder_cache, room), whole, seen), first


@partial(jax.jit, static_argnums=0)
def write_block(
    program: BlockProgram,
    params: Any,
    prepared: Prepared,
    values: BlockValues,
    progress: BlockState,
    first: FirstBlock | None,
    noise_BSC: jax.Array,
    keys_B: jax.Array,
    positions: BlockPositions | None = None,
) -> tuple[Block, Entries]:
    """Denoises and decodes one block.

    Args:
      first: the prompt's unfinished block, for the first block of a generation; None for all others.
      noise_BSC: z_1, N(0, I). keys_B: one key per row, for token sampling and repainting.
      positions: RoPE positions to use instead of the default ones.

    Returns:
      the block, and the entries that `commit` writes into the caches.
    """
    networks = program.networks
    chex.assert_shape(noise_BSC, (keys_B.shape[0], networks.dit.block_size, networks.vae.latent_dim))
    net, variables = build.dit(networks), {"params": params["dit"]}
    place = natural_positions(progress, networks.dit.block_size) if positions is None else positions
    context = net.apply(variables, progress.dit_cache, progress.length, place, method="context")
    velocity = partial(_guided_velocity, program, params, prepared, values.guidance, context)
    if first is not None and program.repaints:
        z = _repaint(program, velocity, prepared, values, first, noise_BSC, keys_B)
    else:
        z = _denoise(program, velocity, prepared, first, noise_BSC)
    read = partial(build.decoder(networks).apply, {"params": params["decoder"]}, method="extend")
    logits, decoded = read(from_prior(networks.vae, z), progress.decoder_cache, progress.length)
    keys = jax.vmap(lambda key: jax.random.fold_in(key, 1))(keys_B)
    chosen = tokens.choose(program.choice, values.choice, logits, progress.seen, keys)
    at_0 = (prepared.at_0, prepared.at_0)  # the finished block is run at t = 0 (SPEC 3.4)
    _, _, committed = net.apply(variables, z, *at_0, None, context, False, method="denoise_block")
    return Block(chosen, logits, z), Entries(committed, decoded)


@partial(jax.jit, donate_argnums=0)
def commit(progress: BlockState, block: Block, entries: Entries) -> BlockState:
    """Appends a generated block to the state. A separate program, so that the caches are updated in place."""
    length, rows = progress.length, jnp.arange(block.tokens.shape[0])[:, None]
    return BlockState(
        append(progress.dit_cache, entries.dit, length),
        append(progress.decoder_cache, entries.decoder, length),
        length + block.latents.shape[1],
        progress.seen.at[rows, block.tokens].set(True),
    )


def abstract_step(cfg: RunConfig, params: Any, rows: int, prompt: int) -> tuple[Any, tuple[Any, ...]]:
    """Returns `write_block` and its arguments as shapes, after `rows` prompts of whole blocks, at least `prompt` tokens."""
    tokens_a_block = cfg.dit.block_size * cfg.vae.patch_size
    padded = -(-prompt // tokens_a_block) * tokens_a_block
    blocks = -(-cfg.sampling.max_new_tokens // tokens_a_block)
    of = jax.ShapeDtypeStruct
    program = program_of(cfg)
    prepared = jax.eval_shape(partial(prepare, program), params)
    params = _each_stack(program.networks, params, _cut_shapes)
    read = partial(read_prompt, program.networks, new_blocks=blocks)
    progress, _ = jax.eval_shape(
        lambda p, tokens, known: read(p, tokens, known), params, of((rows, padded), "int32"), of((rows,), "int32")
    )
    noise = of((rows, cfg.dit.block_size, cfg.vae.latent_dim), "float32")
    values = jax.eval_shape(partial(values_of, cfg.sampling, rows))
    return write_block, (program, params, prepared, values, progress, None, noise, of((rows, 2), "uint32"))


def _cut_shapes(stacked: Any) -> list[Any]:
    """Shapes of each layer of stacked parameters, with the sharding of the whole minus the leading axis."""

    def one(x):
        place = x.sharding
        if isinstance(place, NamedSharding):
            place = NamedSharding(place.mesh, PartitionSpec(*place.spec[1:]))
        return jax.ShapeDtypeStruct(x.shape[1:], x.dtype, sharding=place)

    return [jax.tree.map(one, stacked)] * jax.tree.leaves(stacked)[0].shape[0]


def _guided_velocity(program, params, prepared, guidance_B, context, z_BSC, at_t, known_BS):
    """v_u + s (v_c - v_u); s = 1 if the block has no prefix."""
    v_c, v_u, _ = build.dit(program.networks).apply(
        {"params": params["dit"]}, z_BSC, at_t, prepared.at_0, known_BS, context, program.guided, method="denoise_block"
    )
    if not program.guided:
        return v_c
    scale = jnp.where(context.length == 0, 1.0, guidance_B)
    return guidance.guide(v_c, v_u, scale[:, None, None])


def _denoise(program, velocity, prepared, first, z_BSC):
    """All solver steps; known latents are restored before and after every one and have t = 0 (clean condition)."""
    known = None if first is None else first.known
    put_back = lambda z: z if first is None else jnp.where(known[..., None], first.z0, z)

    def body(z, at):
        moved = solvers.step(
            program.solver, lambda z, at_t: velocity(put_back(z), at_t, known), z, at, 1.0 / program.steps
        )
        return put_back(moved), None

    return jax.lax.scan(body, put_back(z_BSC.astype(jnp.float32)), prepared.steps)[0]


def _repaint(program, velocity, prepared, values, first, noise_BSC, keys_B):
    """Partial repaint (Table 5): the known latents are noised to t and restored at every step above repaint_time.

    Each of those steps is taken repaint_rounds times, the block being noised again from t - dt to t between rounds. The
    whole block has time t. At the end the known latents are those of the prompt.
    """
    dt = 1.0 / program.steps
    starts = 1.0 - jnp.arange(program.steps) * dt
    keep = first.known[..., None]
    ends_inside = jnp.any(keep, axis=1, keepdims=True)  # the other rows of the batch take every step once

    def body(z, step):
        at, t, index = step
        repainting = t >= values.repaint_time
        rounds = jnp.where(repainting, values.repaint_rounds, 1)

        def once(number, z):
            z = jnp.where(keep & repainting, path.interpolate(first.z0, noise_BSC, t), z)
            moved = solvers.step(program.solver, lambda z, at_t: velocity(z, at_t, None), z, at, dt)
            fold = lambda key: jax.random.fold_in(jax.random.fold_in(key, 2 + index), number)
            again = jax.vmap(lambda key: jax.random.normal(fold(key), z.shape[1:]))(keys_B)
            last = number == rounds - 1
            return jnp.where(last, moved, jnp.where(ends_inside, path.renoise(moved, t - dt, t, again), z))

        return jax.lax.fori_loop(0, rounds, once, z), None

    z, _ = jax.lax.scan(body, noise_BSC.astype(jnp.float32), (prepared.steps, starts, jnp.arange(program.steps)))
    return jnp.where(keep, first.z0, z)
