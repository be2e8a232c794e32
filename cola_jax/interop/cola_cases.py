"""The cases of the released Cola DLM form (SPEC 9): vae.*, dit.*, fm.* and genK.*.

Each is computed by the code of training and generation. Samples of different lengths form one batch; padding is a
separate segment.

Axes: B samples, L tokens, N latents, S latents per block, C latent channels.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cola_jax.config import ComputeConfig, ConfigError, RunConfig, SamplingConfig
from cola_jax.diffusion import path
from cola_jax.families import cola, vae_terms
from cola_jax.families.rows import RowOptions
from cola_jax.generate.prompts import PromptError
from cola_jax.interop import released
from cola_jax.interop.cases import Case, Cases, compare
from cola_jax.interop.errors import ReleasedFormatError
from cola_jax.interop.golden_rope import GoldenRope
from cola_jax.interop.released_config import check_pair
from cola_jax.models import build
from cola_jax.models.dit import TIME_FACTOR

RANKS = {  # axes of the arrays that are padded into batches
    "vae.ids": 1, "vae.mean": 2, "dit.z": 2, "dit.t": 1, "fm.z0": 2, "fm.z1": 2, "fm.tpos": 1, "fm.loss_mask": 1,
}  # fmt: skip
ONE_PASS, SAMPLED = 1e-4, 1e-3  # bounds in fp32: of one pass, and of the accumulated error of guided sampling


class Model(NamedTuple):
    """A golden model: its config, its parameters, and whether its differences are checked against bounds."""

    cfg: RunConfig
    params: Any
    judged: bool

    def bound(self, value: float) -> float | None:
        return value if self.judged else None


class GoldenRows(NamedTuple):
    """Samples as one batch: values (B, longest, ...), and the length of each."""

    values: jax.Array
    lengths: list[int]

    @property
    def real(self) -> jax.Array:
        return jnp.arange(self.values.shape[1]) < jnp.asarray(self.lengths)[:, None]


def load(folder: Path, dtype: str) -> Model:
    """Reads the model of a golden folder, to run in `dtype`. Raises as `released.read_part`."""
    vae, dit = released.read_vae_config(folder / "cola_vae"), released.read_dit_config(folder / "cola_dit")
    check_pair(folder / "cola_dit", vae)
    params = released.read_vae(folder / "cola_vae", vae) | released.read_dit(folder / "cola_dit", dit)
    return Model(RunConfig(vae=vae, dit=dit, compute=ComputeConfig(dtype=dtype)), params, dtype == "float32")


def check(folder: Path, cases: Cases, dtype: str) -> list[Case]:
    """Returns the result of every case in `cases`. Raises as `load`, and if a case is incomplete."""
    cases.check_ranks(RANKS)
    model = load(folder, dtype)
    process = GoldenRope(*([len(z) for z in cases.numbered(name)] for name in ("dit.z", "fm.z0")))
    results = [*check_vae(model, cases), *check_dit(model, cases), *check_flow(model, cases)]
    for name in cases.starting("gen"):
        results += check_generation(model, cases, name, process)
    return results


def check_vae(model: Model, cases: Cases) -> list[Case]:
    """Posteriors of tokens, and logits of posterior means."""
    cfg, bound, results = model.cfg, model.bound(ONE_PASS), []
    if "vae.ids.0" in cases:
        patch = cfg.vae.patch_size
        ids = padded(cases.numbered("vae.ids"), patch * cfg.vae.block_size)
        latents = GoldenRows(ids.values[:, ::patch], [length // patch for length in ids.lengths])
        encode = jax.jit(build.encoder(cfg).apply)
        posterior = encode({"params": model.params["encoder"]}, ids.values, *places(latents))
        results += compare_rows("vae.mean", posterior.mean, cases, bound)
        if "vae.logvar.0" in cases:
            absent = np.full(posterior.mean.shape, np.nan)
            results += compare_rows(
                "vae.logvar", absent if posterior.logvar is None else posterior.logvar, cases, bound
            )
    if "vae.logits.0" in cases:
        mean = padded(cases.numbered("vae.mean"), cfg.vae.block_size)
        logits = jax.jit(build.decoder(cfg).apply)({"params": model.params["decoder"]}, mean.values, *places(mean))
        results += compare_rows("vae.logits", logits, cases, bound)
    return results


def check_dit(model: Model, cases: Cases) -> list[Case]:
    """Velocities of one block-causal pass with a time for each position."""
    if "dit.v.0" not in cases:
        return []
    size = model.cfg.dit.block_size
    z, t = (padded(cases.numbered(f"dit.{name}"), size) for name in ("z", "t"))
    apply = jax.jit(build.dit(model.cfg).apply)
    v = apply({"params": model.params["dit"]}, z.values, t.values / TIME_FACTOR, *places(z))
    return compare_rows("dit.v", v, cases, model.bound(ONE_PASS))


def check_flow(model: Model, cases: Cases) -> list[Case]:
    """The training loss, by the function that trains: the path, its mask and targets, velocities, and the loss."""
    if "fm.z0.0" not in cases:
        return []
    cfg, bound, results = model.cfg, model.bound(ONE_PASS), []
    names = ("z0", "z1", "tpos", "loss_mask")
    z0, z1, at, mask = (padded(cases.numbered(f"fm.{name}"), cfg.dit.block_size) for name in names)
    known = (at.values == 0) & z0.real
    blocks = z0.values.shape[1] // cfg.dit.block_size
    t = np.stack(
        [np.pad(row.reshape(-1), (0, blocks - row.size if row.size > 1 else 0)) for row in cases.numbered("fm.t")]
    )
    where = vae_terms.LatentPositions(*places(z0), z0.real.astype(jnp.float32))
    noise = {"z1": z1.values, "t": jnp.asarray(t, jnp.float32), "known": known}
    flow = jax.jit(lambda params, *given: cola.flow_matching(cfg, params, *given))
    v, errors = flow(model.params, z0.values, noise, where)
    results += compare_rows("fm.v", v, cases, bound)
    for i, (a, b, when) in enumerate(zip(*(cases.numbered(f"fm.{name}") for name in ("z0", "z1", "tpos")))):
        results.append(
            compare(f"fm.zt.{i}", path.interpolate(a, b, when[:, None] / TIME_FACTOR), cases[f"fm.zt.{i}"], bound)
        )
        results.append(compare(f"fm.target.{i}", path.velocity_target(a, b), cases[f"fm.target.{i}"], bound))
    results += compare_rows("fm.loss_mask", cola.flow_weights(where.weights, known), cases, model.bound(0.0))
    return [*results, compare("fm.loss", errors / mask.values.sum(), cases["fm.loss"], bound)]


def check_generation(model: Model, cases: Cases, name: str, process: GoldenRope) -> list[Case]:
    """Latents, logits and tokens of every block, in the positions of the process that wrote the cases.

    Two facts are not recorded in a case: whether it was written in that process or in a fresh one, and whether the decoder
    input was latents with the DiT's shift and scale undone, as here, or the DiT's latents, as in the public loop.
    The first variant that fits is used and named; if none fits, the first.
    """
    scaled = (model.cfg.vae.latent_shift, model.cfg.vae.latent_scale) != (0.0, 1.0)
    readings: list[tuple[str, Any, Any]] = [("", process, model.params)]
    direct = undo_nothing(model.cfg, model.params) if scaled else None
    if scaled:
        readings.append(("the decoder reads latents as the DiT has them", process, direct))
    readings.append(("natural positions", None, model.params))
    if scaled:
        readings.append(("natural positions; the decoder reads latents as the DiT has them", None, direct))
    first = None
    for note, rope, params in readings if model.judged else readings[:1]:
        results = generation(model, params, cases, name, rope, note)
        if all(case.passed for case in results):
            return results
        first = first or results
    return first


def generation(model: Model, params: Any, cases: Cases, name: str, rope: Any, note: str) -> list[Case]:
    """One variant of `check_generation`."""
    setting = {key: cases.number(f"{name}.{key}") for key in ("steps", "cfg", "rp", "pad", "max_new_tokens")}
    prompts = [row.tolist() for row in cases.numbered(f"{name}.prompt")]
    sampling = SamplingConfig(
        steps=setting["steps"], guidance=float(setting["cfg"]), repetition_penalty=float(setting["rp"]), temperature=0.0
    )
    cfg = dataclasses.replace(model.cfg, sampling=sampling)
    count = -(-setting["max_new_tokens"] // (cfg.dit.block_size * cfg.vae.patch_size))
    noise, expected = cases[f"{name}.noise"], (count, len(prompts), cfg.dit.block_size, cfg.vae.latent_dim)
    if noise.shape != expected:
        raise ReleasedFormatError(f"{name}.noise is {list(noise.shape)}, expected {list(expected)}")
    try:
        rows = RowOptions(setting["pad"])
        written = list(cola.generate(cfg, params, prompts, rows, noise=noise, blocks=count, rope=rope))
    except (ConfigError, PromptError) as error:
        raise ReleasedFormatError(f"{name}: {error}") from error
    results = []
    for part in ("latents", "logits"):
        ours = np.stack([np.asarray(getattr(block, part)) for _, block in written])
        results.append(compare(f"{name}.{part}", ours, cases[f"{name}.{part}"], model.bound(SAMPLED), note))
    for row, published in enumerate(cases.numbered(f"{name}.tokens")):
        tokens = np.asarray([token for new, _ in written for token in new[row]])
        wrong = np.mean(tokens != published) if tokens.shape == published.shape else 1.0
        results.append(Case(f"{name}.tokens.{row}", float(wrong), float(wrong), model.bound(0.0), "share that differs"))
    return results


def undo_nothing(cfg: RunConfig, params: Any) -> Any:
    """Returns parameters whose decoder, given z / scale + shift, computes the result for z."""
    dense, scale, shift = params["decoder"]["input"], cfg.vae.latent_scale, cfg.vae.latent_shift
    changed = {"kernel": dense["kernel"] * scale}
    offset = -scale * shift * jnp.sum(dense["kernel"], axis=0)
    changed["bias"] = dense["bias"] + offset if "bias" in dense else offset
    return params | {"decoder": params["decoder"] | {"input": changed}}


def padded(rows: list[np.ndarray], multiple: int) -> GoldenRows:
    """Returns samples (length, ...) as one batch with zeros after the shorter ones, its length a multiple."""
    if not rows:
        raise ReleasedFormatError("a case lacks the arrays that it is computed from")
    longest = -(-max(map(len, rows)) // multiple) * multiple
    values = [np.pad(row, [(0, longest - len(row))] + [(0, 0)] * (row.ndim - 1)) for row in rows]
    return GoldenRows(jnp.asarray(np.stack(values)), [len(row) for row in rows])


def places(rows: GoldenRows) -> tuple[jax.Array, jax.Array]:
    """Returns positions and segments (B, longest): padding is another document."""
    batch, longest = rows.values.shape[:2]
    return jnp.tile(jnp.arange(longest), (batch, 1)), rows.real.astype(jnp.int32)


def compare_rows(name: str, ours: Any, cases: Cases, bound: float | None) -> list[Case]:
    """Compares the rows of a padded batch with NAME.0, NAME.1, ..."""
    published = cases.numbered(name)
    return [compare(f"{name}.{i}", np.asarray(ours)[i, : len(row)], row, bound) for i, row in enumerate(published)]
