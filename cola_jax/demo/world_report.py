"""The report on a small-world demo: its workdir holds a run of both stages, "vae" and "joint"."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cola_jax import storage
from cola_jax.config import RunConfig
from cola_jax.evaluate import latents, plots, stories, trace
from cola_jax.evaluate.report import Picture, Report, Table, percent, samples_of, table_of
from cola_jax.runs.writer import Writer
from cola_jax.storage import AnyPath
from cola_jax.train.metrics import read_metrics

STAGES = ("vae", "joint")
TRACED_LATENTS = 8  # of the blocks that follow an opening


@dataclass(frozen=True)
class ReportPlan:
    """The size of the evaluation."""

    headline_prompts: int = 256
    sweep_prompts: int = 64
    batch_size: int = 64
    guidances: tuple[float, ...] = (1.0, 1.5, 2.0, 3.0, 4.0)
    steps: tuple[int, ...] = (4, 8, 16, 32)
    noise_levels: int = 21  # times from 0 to 1, both included
    heldout_batches: int = 4
    shown: int = 8  # samples of each kind on the page


def draw(
    writer: Writer, workdir: AnyPath, folder: AnyPath, rows: Sequence[dict[str, Any]], plan: ReportPlan
) -> dict[str, Any]:
    """Draws every picture into `folder`.

    Returns:
      {"pictures": list of Picture, "noise": {"t": [...], "accuracy": [...]}, "trace": the traced block's text by step}.
    """
    cfg, params, tokenizer = writer.cfg, writer.params, writer.tokenizer
    batches = latents.heldout_rows(cfg, tokenizer, plan.heldout_batches)
    times = np.linspace(0.0, 1.0, plan.noise_levels).tolist()
    accuracy = latents.accuracy_under_noise(cfg, params, batches, times, cfg.seed)
    lines = {stage: read_metrics(workdir / stage) for stage in STAGES}
    plots.plot_losses(lines, folder / "losses.png")
    plots.plot_sweep(rows, (cfg.sampling.guidance, cfg.sampling.steps), folder / "sweep.png")
    plots.plot_trace(*(traced := _trace(writer)), folder / "trace.png")
    plots.plot_latents(latents.collect(cfg, params, tokenizer, batches), folder / "latents.png")
    plots.plot_noise(times, accuracy, folder / "noise.png")
    pictures = [Picture(title, folder / f"{name}.png", caption) for name, title, caption in captions(plan)]
    return {"pictures": pictures, "noise": {"t": times, "accuracy": accuracy}, "trace": traced[1]}


def _trace(writer: Writer) -> tuple[trace.Trace, list[str]]:
    """Traces the blocks that follow the opening of held-out story 0, in whole blocks, and their text at every step."""
    cfg, tokenizer = writer.cfg, writer.tokenizer
    span = cfg.dit.block_size * cfg.vae.patch_size
    opening = tokenizer.encode(stories.heldout_prompts(cfg, 1)[0])
    prompt = opening[: max(len(opening) // span * span, 1)]
    blocks = max(TRACED_LATENTS // cfg.dit.block_size, 1)
    traced = trace.denoising_trace(cfg, writer.params, prompt, blocks, seed=cfg.seed, pad_id=tokenizer.pad_id)
    return traced, [tokenizer.decode(traced.tokens[:, step].ravel().tolist()) for step in range(traced.tokens.shape[1])]


def captions(plan: ReportPlan) -> list[tuple[str, str, str]]:
    """Returns (file name, title, caption) of every picture."""
    return [
        ("losses", "Training", "Losses of both stages on training batches and on held-out stories."),
        (
            "sweep",
            "Guidance and solver steps",
            f"{plan.sweep_prompts} held-out openings continued with each setting, from the same noise. Chance: guessing"
            " among the candidates that each story mentions.",
        ),
        (
            "trace",
            "Denoising of blocks",
            "The latents of successive blocks after each solver step, noise at the top, and what they decode to. A block begins"
            " when the one left of it is done.",
        ),
        (
            "latents",
            "What the latents encode",
            "Posterior means of held-out stories on their first principal components.",
        ),
        (
            "noise",
            "Decoding from noised latents",
            "Every latent of a text is moved towards noise by the same share, then all are decoded at once.",
        ),
    ]


def headline_of(free: dict[str, float], asked: dict[str, float]) -> list[tuple[str, str, str]]:
    """Returns (name, value, remark) of the headline: stories continued from an opening, questions answered."""
    chance = lambda part: f"chance {100 * part['chance']:.0f} %"
    return [
        ("well-formed sentences", percent(free["well_formed"]), ""),
        ("entailed answers", percent(free["entailed"]), chance(free)),
        ("entailed answers to held-out questions", percent(asked["entailed"]), chance(asked)),
    ]


def assemble(
    cfg: RunConfig,
    workdir: AnyPath,
    figures: dict[str, Any],
    pairs: dict[str, Sequence[stories.Pair]],
    pictures: Sequence[Picture],
    shown: int,
) -> Report:
    """Returns the page's content; `pairs` by title, `figures` as `demo` returns them."""
    free, asked = figures["headline"], figures["questions"]
    setting = f"{cfg.sampling.steps} {cfg.sampling.solver} steps, guidance {cfg.sampling.guidance:g}"
    kinds = [
        {"question": kind or "none"} | {name: values[name] for name in ("stories", "entailed", "chance")}
        for kind, values in figures["by_question"].items()
    ]
    tables = [
        table_of(f"Held-out stories ({setting})", [{"prompt": "opening", **free}, {"prompt": "question", **asked}]),
        table_of("Answers by kind of question", kinds),
        table_of("Settings of the sampler", figures["sweep"]),
        Table("Model and run", ("", "stage 1 and 2"), summary(cfg)),
        Table("Duration", ("part", "seconds"), [(name, f"{value:.1f}") for name, value in figures["seconds"].items()]),
        Table("Machine", ("", ""), list(figures["machine"].items())),
    ]
    return Report(
        title="Cola DLM on a small world of stories",
        headline=headline_of(free, asked),
        samples=[(title, samples_of(some[:shown])) for title, some in pairs.items()],
        pictures=pictures,
        tables=tables,
        configs=[(f"Config of stage {stage}", storage.read_text(workdir / stage / "config.json")) for stage in STAGES],
    )


def summary(cfg: RunConfig) -> list[tuple[str, str]]:
    """Returns a summary of a config."""
    vae, dit, train = cfg.vae, cfg.dit, cfg.train
    return [
        ("vocabulary", f"{vae.vocab_size} {cfg.tokenizer.kind} tokens"),
        ("Text VAE", f"{vae.encoder_blocks} + {vae.decoder_blocks} blocks of width {vae.dim}"),
        ("latents", f"{vae.latent_dim} channels, {vae.patch_size} token(s) each"),
        ("DiT", f"{dit.num_layers} layers of width {dit.dim}, blocks of {dit.block_size} latents"),
        ("stage 2", f"{train.steps} steps of {train.batch_size} x {train.sequence_length} tokens"),
        ("latent policy", cfg.objective.latent_policy),
        ("seed", str(cfg.seed)),
    ]
