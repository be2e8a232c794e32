"""Training from a config: tokenizer, corpus, starting point, trainer."""

from __future__ import annotations

import sys
from typing import TextIO

from cola_jax import storage
from cola_jax.aot.executable import updates_for
from cola_jax.config import ConfigError, RunConfig, differences, to_dict
from cola_jax.data import fingerprint, pipeline, tokenizers
from cola_jax.data.sentencepieces import EOS_TOKEN, PAD_TOKEN, SentencePieceTokenizer
from cola_jax.families import FAMILIES
from cola_jax.parallel.hosts import from_first, host_share
from cola_jax.parallel.mesh import make_mesh
from cola_jax.runs import starts
from cola_jax.runs.compilation import cached_programs
from cola_jax.storage import AnyPath
from cola_jax.train.goodput import Clock, running
from cola_jax.train.loop import RunSummary, train
from cola_jax.train.resume import check
from cola_jax.train.stored import folder as checkpoints_of
from cola_jax.train.stored import steps_in
from cola_jax.train.workdir import TOKENIZER, stored_config


def run_training(
    cfg: RunConfig,
    workdir: str | AnyPath,
    stream: TextIO | None = None,
    corpus: pipeline.Corpus | None = None,
    executable: str | AnyPath | None = None,
    begun: float | None = None,
) -> RunSummary:
    """Trains `cfg` in `workdir`, or continues the run in it.

    Args:
      corpus: the result of `pipeline.build_corpus` for this data and this run's tokenizer; built here by default.
      executable: a file that `executable.save` wrote, whose training step is used instead of compiling one.
      begun: time.perf_counter() at the start of the command; the time from there to this call counts as import.

    Raises:
      ConfigError: if `executable` is not a training step of this run, see `executable.updates_for`; if
        the run cannot start from train.init_from, see `starts`; if compute.compilation_cache cannot be used, see
        `cached_programs`. DataError: if the data cannot be used.
      See `train.loop.train` for the rest.
    """
    with running(begun) as clock, cached_programs(cfg.compute.compilation_cache):
        return _run(cfg, workdir, stream, corpus, executable, clock)


def _run(
    cfg: RunConfig,
    workdir: str | AnyPath,
    stream: TextIO | None,
    corpus: pipeline.Corpus | None,
    executable: str | AnyPath | None,
    clock: Clock,
) -> RunSummary:
    warn = lambda line: print(line, file=stream or sys.stderr, flush=True)
    workdir, mesh = storage.path(workdir, "workdir"), make_mesh(cfg.mesh)
    check(workdir, cfg, lambda line: None)  # `train` prints what changed
    updates = {} if executable is None else updates_for(executable, cfg, mesh)
    begun = bool(steps_in(checkpoints_of(workdir)))  # a run with a checkpoint continues from it
    with clock.part("setup"):
        start = None if begun or not cfg.train.init_from else starts.find(cfg, mesh)
        tokenizer = _tokenizer(cfg, workdir, begun, start)
        if begun:
            fingerprint.check_unchanged(workdir / fingerprint.FILE_NAME, cfg, warn)
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
        tokenizer=tokenizers.files_of(tokenizer),
        params_init=None if start is None else start.params,
        continued=None if start is None else start.continued,
        updates=updates,
        clock=clock,
        on_begin=lambda: _keep(cfg, workdir, tokenizer),
        stream=stream,
    )


def _keep(cfg: RunConfig, workdir: AnyPath, tokenizer: tokenizers.Tokenizer) -> None:
    """Writes what a continuation of the run needs: its tokenizer, and the fingerprint of its corpus."""
    begun = bool(steps_in(checkpoints_of(workdir)))
    tokenizers.save(tokenizer, workdir / TOKENIZER)
    if not begun or not (workdir / fingerprint.FILE_NAME).exists():
        fingerprint.record(workdir / fingerprint.FILE_NAME, cfg)


def _tokenizer(cfg: RunConfig, workdir: AnyPath, begun: bool, start: starts.Start | None) -> tokenizers.Tokenizer:
    """Returns the tokenizer of the run: its own if it has started, that of its starting point, or a new one.

    Raises:
      ConfigError: if the config has another tokenizer file than the run started with.
    """
    if not begun:
        return tokenizer_of_first(cfg, start)
    tokenizer = tokenizers.load(workdir / TOKENIZER)
    named = cfg.tokenizer
    if named.kind == "file" and named.path != stored_config(workdir)["tokenizer"]["path"]:
        given = tokenizers.from_file(named.path, named.pad_token, named.eos_token)
        if tokenizers.fingerprint(given) != tokenizers.fingerprint(tokenizer):
            raise ConfigError(
                f"tokenizer.path={named.path!r} is not the tokenizer that the run in {workdir} started with"
            )
    return tokenizer


def tokenizer_of_first(cfg: RunConfig, start: starts.Start | None) -> tokenizers.Tokenizer:
    """Returns the tokenizer of a new run, made by its first process and broadcast to all."""
    if start is not None and start.tokenizer is not None:
        return _agreeing(cfg, tokenizers.load(start.tokenizer), start.tokenizer)
    if cfg.tokenizer.kind != "sentencepiece" or any(source.kind == "prepared" for source in cfg.data.sources):
        return tokenizers.build(cfg)
    model = from_first(lambda: tokenizers.build(cfg).model)
    return SentencePieceTokenizer(model, PAD_TOKEN, EOS_TOKEN, "the trained model")


def _agreeing(cfg: RunConfig, tokenizer: tokenizers.Tokenizer, folder: AnyPath) -> tokenizers.Tokenizer:
    """Returns the tokenizer of a run's starting point; raises ConfigError if the config has another one."""
    if any(source.kind == "prepared" for source in cfg.data.sources):
        return tokenizer  # the corpus is compared with it
    ours, theirs, changed = to_dict(cfg)["tokenizer"], stored_config(folder.parent)["tokenizer"], []
    if ours["kind"] == theirs["kind"] == "file" and storage.path(ours["path"]).is_file():
        given = tokenizers.from_file(ours["path"], ours["pad_token"], ours["eos_token"])
        if tokenizers.fingerprint(given) != tokenizers.fingerprint(tokenizer):
            changed = [f"tokenizer.path: another tokenizer than {ours['path']}"]
    else:
        changed = differences(theirs | {"path": ""}, ours | {"path": ""}, "tokenizer.")
    if changed:
        raise ConfigError(
            f"the run starts from parameters of the tokenizer in {folder}; the config has another (theirs -> config): "
            f"{'; '.join(changed)}"
        )
    return tokenizer
