"""Documents of tokens -> rows of exactly L tokens.

Axes: N rows, L tokens of a row.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from cola_jax.config import RunConfig, tokens_of_block
from cola_jax.data.errors import DataError

Row = dict[str, np.ndarray]
CHUNK_TOKENS = 2**24  # tokens that are packed at a time, and tokens per shard of a prepared corpus


@dataclass(frozen=True)
class Packed:
    """Rows in memory; `packed[i]` is row i as the arrays of a batch.

    Attributes:
      tokens_NL: int32.
      segments_NL: int32, documents of a row counted from 1; 0 if a row is empty.
      weights_NL: uint8, 1 on real tokens (end of document included), 0 on padding.
    """

    tokens_NL: np.ndarray
    segments_NL: np.ndarray
    weights_NL: np.ndarray

    def __len__(self) -> int:
        return len(self.tokens_NL)

    def __getitem__(self, index: int) -> Row:
        return row(self.tokens_NL[index], self.segments_NL[index], self.weights_NL[index])


def row(tokens_L: np.ndarray, segments_L: np.ndarray, weights_L: np.ndarray) -> Row:
    """Returns tokens, segments, positions (L,) int32 and weights (L,) float32 of one row."""
    return {
        "tokens": np.asarray(tokens_L, np.int32),
        "segments": np.asarray(segments_L, np.int32),
        "positions": positions_of(segments_L),
        "weights": np.asarray(weights_L, np.float32),
    }


def positions_of(segments_L: np.ndarray) -> np.ndarray:
    """Returns (L,) int32 positions that restart at 0 wherever the segment changes."""
    index_L = np.arange(len(segments_L), dtype=np.int32)
    starts_L = np.concatenate([[True], segments_L[1:] != segments_L[:-1]])
    return index_L - np.maximum.accumulate(np.where(starts_L, index_L, 0)).astype(np.int32)


def pack(documents: Iterable[Sequence[int]], cfg: RunConfig, pad_id: int, eos_id: int, keep_tail: bool) -> Packed:
    """Returns all rows of `pack_chunks`."""
    length = cfg.train.sequence_length
    empty = Packed(*(np.zeros((0, length), kind) for kind in (np.int32, np.int32, np.uint8)))
    return _join([empty, *pack_chunks(documents, cfg, pad_id, eos_id, keep_tail)])


def pack_chunks(
    documents: Iterable[Sequence[int]], cfg: RunConfig, pad_id: int, eos_id: int, keep_tail: bool
) -> Iterator[Packed]:
    """Packs tokenized documents by `data.packing`, each followed by `eos_id`, about CHUNK_TOKENS at a time.

    Args:
      keep_tail: concat only: whether a last row that the documents do not fill is padded (held-out) or dropped (training).

    Raises:
      DataError: if train.sequence_length is not a multiple of the block.
    """
    length, align = cfg.train.sequence_length, tokens_of_block(cfg)
    if length % align:
        raise DataError(f"train.sequence_length={length} is not a multiple of {align}, the tokens of a block")
    if cfg.data.packing == "concat":
        yield from concat(documents, length, pad_id, eos_id, keep_tail)
    else:
        for group in _groups(documents):
            yield best_fit(group, length, align, pad_id, eos_id)


def _groups(documents: Iterable[Sequence[int]]) -> Iterator[list[Sequence[int]]]:
    """Yields consecutive documents that hold CHUNK_TOKENS together; the last group may hold fewer."""
    group: list[Sequence[int]] = []
    size = 0
    for document in documents:
        group.append(document)
        size += len(document) + 1
        if size >= CHUNK_TOKENS:
            yield group
            group, size = [], 0
    if group:
        yield group


def _join(parts: Sequence[Packed]) -> Packed:
    names = ("tokens_NL", "segments_NL", "weights_NL")
    return Packed(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def concat(
    documents: Iterable[Sequence[int]], length: int, pad_id: int, eos_id: int, keep_tail: bool
) -> Iterator[Packed]:
    """Joins documents with `eos_id` and splits them every `length` tokens: one segment, positions 0..L-1.

    A corpus shorter than one row is padded to a row; otherwise an unfilled last row is dropped unless `keep_tail`.
    """
    rest = np.zeros(0, np.int32)
    some = False
    for group in _groups(documents):
        stream = np.concatenate([rest, *(np.asarray([*document, eos_id], np.int32) for document in group)])
        count = len(stream) // length
        rest = stream[count * length :]
        some = some or count > 0
        tokens_NL = stream[: count * length].reshape(count, length)
        yield Packed(tokens_NL, np.ones_like(tokens_NL), np.ones_like(tokens_NL, np.uint8))
    if len(rest) and (keep_tail or not some):
        tokens_NL = np.pad(rest, (0, length - len(rest)), constant_values=pad_id)[None]
        weights_NL = (np.arange(length) < len(rest)).astype(np.uint8)[None]
        yield Packed(tokens_NL, np.ones_like(tokens_NL), weights_NL)


def best_fit(documents: Iterable[Sequence[int]], length: int, align: int, pad_id: int, eos_id: int) -> Packed:
    """Puts whole documents into rows, longest first, each into the row where it leaves the least space.

    Every document starts at a multiple of `align`; its tail up to the next multiple is padding of weight 0 in its own
    segment, so a block of `align` tokens never holds two documents. Documents longer than a row are split into pieces that
    count as documents (a piece of nothing but `eos_id` is dropped). Rows, and the documents of a row, keep corpus order.
    """
    pieces = [piece for document in documents for piece in _pieces(document, length, eos_id)]
    sizes = [-(-len(piece) // align) for piece in pieces]
    rows = _place(sizes, length // align)
    tokens_NL = np.full((len(rows), length), pad_id, np.int32)
    segments_NL = np.zeros((len(rows), length), np.int32)
    weights_NL = np.zeros((len(rows), length), np.uint8)
    for n, members in enumerate(rows):
        start = 0
        for segment, member in enumerate(members, 1):
            piece, room = pieces[member], sizes[member] * align
            tokens_NL[n, start : start + len(piece)] = piece
            weights_NL[n, start : start + len(piece)] = 1
            segments_NL[n, start : start + room] = segment
            start += room
    return Packed(tokens_NL, segments_NL, weights_NL)


def _pieces(document: Sequence[int], length: int, eos_id: int) -> list[np.ndarray]:
    whole = np.asarray([*document, eos_id], np.int32)
    pieces = [whole[start : start + length] for start in range(0, len(whole), length)]
    return pieces[:-1] if len(pieces) > 1 and len(pieces[-1]) == 1 else pieces


def _place(sizes: Sequence[int], capacity: int) -> list[list[int]]:
    """Best-fit decreasing. Returns the items of each bin; `sizes` and `capacity` count blocks, so few sizes are distinct."""
    bins: list[list[int]] = []
    with_room: list[list[int]] = [[] for _ in range(capacity + 1)]  # with_room[r]: bins that have r blocks left
    for item in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        room = next((r for r in range(sizes[item], capacity + 1) if with_room[r]), None)
        if room is None:
            bins.append([])
            chosen, room = len(bins) - 1, capacity
        else:
            chosen = with_room[room].pop(0) if room == capacity else with_room[room].pop()
        bins[chosen].append(item)
        with_room[room - sizes[item]].append(chosen)
    return sorted(sorted(members) for members in bins)
