"""Rows -> batches. Global batch i is a pure function of (data.seed, i), independent of the number of hosts and of restarts.

Axes: B rows of a global batch, b of them on this host, L tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import grain
import numpy as np

from cola_jax.config import RunConfig
from cola_jax.config.fields import SourceConfig
from cola_jax.data.corpus import Corpus, Part, Unknown, check_rows, check_vocabulary, encoded, report_division
from cola_jax.data.errors import DataError, Warn, to_stderr
from cola_jax.data.packing import Row, pack
from cola_jax.data.prepare import open_prepared
from cola_jax.data.sources import name_of, open_source
from cola_jax.data.tokenizers import Tokenizer

Batch = dict[str, np.ndarray]


def build_corpus(cfg: RunConfig, tokenizer: Tokenizer, warn: Warn = to_stderr) -> Corpus:
    """Tokenizes and packs the sources of `cfg` in memory, or opens its prepared corpus.

    Needs 9 bytes of memory per token; prepare a larger corpus once instead.

    Args:
      warn: called with a line about omissions of the corpus: files, records, characters.

    Raises:
      DataError: if a source cannot be used, or the tokenizer has more ids than the model.
    """
    if any(source.kind == "prepared" for source in cfg.data.sources):
        return open_prepared(cfg, tokenizer, warn)
    check_vocabulary(cfg, tokenizer)
    return Corpus(tuple(_part(cfg, source, tokenizer, warn) for source in cfg.data.sources))


def _part(cfg: RunConfig, source: SourceConfig, tokenizer: Tokenizer, warn: Warn) -> Part:
    division, name, unknown = open_source(cfg.data, source), name_of(source), Unknown()
    train, heldout = (
        pack(encoded(documents, tokenizer, name, unknown), cfg, tokenizer.pad_id, tokenizer.eos_id, keep_tail)
        for documents, keep_tail in ((division.train, False), (division.heldout, True))
    )
    check_rows(name, len(train))
    report_division(name, division, unknown, warn)
    return Part(name, source.weight, train, heldout)


@dataclass(frozen=True)
class _HostRows:
    """This host's share of an endless sequence of rows: the same b of every B consecutive ones."""

    rows: grain.MapDataset
    batch: int  # B
    share: int  # b
    first: int  # index in the batch of this host's first row

    def __len__(self) -> int:
        return len(self.rows) // self.batch * self.share

    def __getitem__(self, index: int) -> Row:
        step, k = divmod(index, self.share)
        return self.rows[step * self.batch + self.first + k]


def train_batches(
    cfg: RunConfig,
    corpus: Corpus,
    start_step: int = 0,
    batch_size: int | None = None,
    host_index: int = 0,
    host_count: int = 1,
) -> Iterator[Batch]:
    """Returns this host's rows of the global batches start_step, start_step + 1, ... without end.

    Rows are shuffled anew each epoch of their source if data.shuffle is set; several sources mix by weight.

    Args:
      batch_size: B; train.batch_size if it is None.

    Returns:
      Iterator of tokens, segments, positions (b, L) int32, weights (b, L) float32 and rows (b,) int32, each row's index
      in the global batch. b = B / host_count; host h has the rows h*b .. (h+1)*b - 1.

    Raises:
      DataError: if B is not a multiple of `host_count`, or data.threads or data.prefetch is negative.
    """
    total, share = _share(cfg, batch_size, host_index, host_count)
    for name, value in (("data.threads", cfg.data.threads), ("data.prefetch", cfg.data.prefetch)):
        if value < 0:
            raise DataError(f"{name}={value} must not be negative")
    endless = [_endless(cfg, part, index) for index, part in enumerate(corpus.parts)]
    weights = [part.weight for part in corpus.parts]
    mixed = endless[0] if len(endless) == 1 else grain.MapDataset.mix(endless, weights)
    mine = grain.MapDataset.source(_HostRows(mixed, total, share, host_index * share))
    rows_b = np.arange(host_index * share, (host_index + 1) * share, dtype=np.int32)
    batches = mine.batch(share).map(lambda batch: {**batch, "rows": rows_b})
    options = grain.ReadOptions(num_threads=cfg.data.threads, prefetch_buffer_size=cfg.data.prefetch)
    return iter(batches.slice(slice(start_step, None)).to_iter_dataset(options))


def _endless(cfg: RunConfig, part: Part, index: int) -> grain.MapDataset:
    rows = grain.MapDataset.source(part.train)
    if cfg.data.shuffle:
        rows = rows.shuffle(seed=(cfg.data.seed + index) % 2**32)
    return rows.repeat(None)


def heldout_batches(
    cfg: RunConfig,
    corpus: Corpus,
    count: int,
    batch_size: int | None = None,
    host_index: int = 0,
    host_count: int = 1,
) -> list[Batch]:
    """Returns this host's rows of at most `count` held-out batches: the same ones every time, without repetition.

    Rows are spread evenly over the held-out rows of all sources. If they do not fill the last batch, it is padded with
    a row of weight 0. Shapes, keys and arguments are those of `train_batches`.

    Raises:
      DataError: if nothing is held out, or B is not a multiple of `host_count`.
    """
    total, share = _share(cfg, batch_size, host_index, host_count)
    rows = corpus.heldout
    if len(rows) == 0:
        raise DataError(
            "nothing is held out: raise data.heldout_fraction or data.heldout_documents, or do not evaluate"
        )
    used = min(count * total, len(rows))
    batches = []
    for start in range(0, used, total):
        numbers = range(start + host_index * share, start + (host_index + 1) * share)
        members = [rows[k * len(rows) // used] if k < used else _stand_in(rows[0]) for k in numbers]
        batch = {name: np.stack([member[name] for member in members]) for name in members[0]}
        batches.append(batch | {"rows": np.arange(numbers.start - start, numbers.stop - start, dtype=np.int32)})
    return batches


def _stand_in(row: Row) -> Row:
    return row | {name: np.zeros_like(row[name]) for name in ("weights", "segments")}


def _share(cfg: RunConfig, batch_size: int | None, host_index: int, host_count: int) -> tuple[int, int]:
    """Returns B and b."""
    total = cfg.train.batch_size if batch_size is None else batch_size
    if host_count < 1 or not 0 <= host_index < host_count:
        raise DataError(f"host {host_index} of {host_count} does not exist")
    if total < 1 or total % host_count:
        raise DataError(f"train.batch_size={total} is not a positive multiple of the {host_count} hosts that share it")
    return total, total // host_count
