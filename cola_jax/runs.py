"""A training run from its config: tokenizer, corpus, what it starts from, trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TextIO

from cola_jax.config import ConfigError, RunConfig, differences, resolve, to_dict
from cola_jax.data import pipeline, tokenizers
from cola_jax.executable import updates_for
from cola_jax.families import FAMILIES
from cola_jax.interop import released
from cola_jax.parallel.hosts import first_process_first, host_share
from cola_jax.parallel.mesh import make_mesh
from cola_jax.train import checkpoint
from cola_jax.train.loop import RunSummary, train
from cola_jax.train.stored import folder as checkpoints_of
from cola_jax.train.stored import steps_in
from cola_jax.train.workdir import check

TOKENIZER = "tokenizer"  # folder of a workdir


def run(
    cfg: RunConfig,
    workdir: str | Path,
    stream: TextIO | None = None,
    corpus: pipeline.Corpus | None = None,
    executable: str | Path | None = None,
) -> RunSummary:
    """Trains `cfg` in `workdir`, or continues what stands there.

    Args:
      corpus: what `pipeline.build_corpus` made of this data by this run's tokenizer; made here by default.
      executable: a file that `executable.save` wrote, whose training step is used in place of compiling one.

    Raises:
      ConfigError: where `executable` is not a training step of this run, see `executable.updates_for`.
      ConfigError: where objective.vae_from names no VAE, or one of another shape. DataError: where the data cannot be used.
      See `train.loop.train` for the rest.
    """
    workdir, mesh = Path(workdir), make_mesh(cfg.mesh)
    check(workdir, cfg)
    updates = {} if executable is None else updates_for(executable, cfg, mesh)
    begun = bool(steps_in(checkpoints_of(workdir)))  # what is begun needs no VAE to start from
    vae_from = Path(cfg.objective.vae_from) if cfg.family == "cola" and cfg.objective.vae_from and not begun else None
    params = None if vae_from is None else starting_vae(cfg, vae_from)
    with first_process_first("tokenizer and corpus"):
        tokenizer = _tokenizer(cfg, workdir / TOKENIZER, vae_from)
        corpus = corpus or pipeline.build_corpus(cfg, tokenizer)
    host, hosts = host_share(mesh, cfg.train.batch_size)
    share = {"host_index": host, "host_count": hosts}
    heldout = []
    if cfg.train.eval_every > 0:
        heldout = pipeline.heldout_batches(cfg, corpus, cfg.train.eval_batches, **share)
    return train(
        cfg,
        workdir,
        make_batches=lambda start: pipeline.train_batches(cfg, corpus, start, **share),
        heldout_batches=heldout,
        family=FAMILIES[cfg.family],
        tokenizer=workdir / TOKENIZER,
        params_init=params,
        updates=updates,
        stream=stream,
    )


def _tokenizer(cfg: RunConfig, folder: Path, vae_from: Path | None) -> tokenizers.Tokenizer:
    """The tokenizer of the run; stage 2 takes over that of its VAE, whose ids it must share."""
    if vae_from is not None and tokenizers.is_saved(vae_from / TOKENIZER) and not tokenizers.is_saved(folder):
        tokenizers.save(tokenizers.load(vae_from / TOKENIZER), folder)
    return tokenizers.build(cfg, folder)


def starting_vae(cfg: RunConfig, vae_from: Path) -> dict[str, Any]:
    """Returns the groups encoder and decoder of a workdir or of a released folder (with cola_vae/ in it).

    Raises:
      ConfigError: where there is neither, or the VAE there is another one than cfg.vae.
    """
    if (vae_from / "cola_vae").is_dir():
        vae = released.read_vae_config(vae_from / "cola_vae")
        params = released.read_vae(vae_from / "cola_vae", vae)
    elif (vae_from / "config.json").is_file():
        config, params = checkpoint.load_params(vae_from)
        vae = resolve(config).vae
    else:
        raise ConfigError(f"objective.vae_from={str(vae_from)!r} is neither a workdir nor a released folder")
    theirs, ours = to_dict(RunConfig(vae=vae))["vae"], to_dict(cfg)["vae"]
    changed = differences(theirs, ours, "vae.")
    if changed:
        raise ConfigError(
            f"objective.vae_from={str(vae_from)!r} holds another VAE (theirs -> config): {'; '.join(changed)}"
        )
    return {"encoder": params["encoder"], "decoder": params["decoder"]}
