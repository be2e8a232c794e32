"""Random access to the records of an ArrayRecord file in an object store: its index once, then one range of bytes per record.

The library reads local files alone. The format is Riegeli's: blocks of 64 KiB, each beginning with a header of 24 bytes that
interrupts chunks. A chunk has a header of 40 bytes (hash, size, hash of the data, type and number of records, decoded size) and
the data. A simple chunk's data are the compression, the bytes of the sizes, the sizes, and the records; compressed buffers
begin with their decoded size. The last block holds a postscript with the offset of the footer, whose records are the offsets
of all chunks. The hashes are not checked: a store checks what it sends by sums of its own.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow

BLOCK, BLOCK_HEADER, CHUNK_HEADER = 65536, 24, 40
MAGIC = 0x71930E704FDAE05E  # of the postscript
SIMPLE = ord("r")
ZSTD = ord("z")


class RangeError(ValueError):
    """Bytes that are not those of an ArrayRecord file, or of a form that is not read here."""


class RecordRanges:
    """The records of one file.

    Args:
      read: (start, length) -> bytes of the file.
      size: bytes of the file.

    Raises:
      RangeError: if it is not a complete ArrayRecord file with one record per chunk.
    """

    def __init__(self, read: Callable[[int, int], bytes], size: int):
        self._read = read
        if size < 2 * BLOCK or size % BLOCK:
            raise RangeError(f"its {size} bytes are not those of whole blocks")
        end = size - BLOCK
        postscript = _message(_records(read(end, BLOCK)[BLOCK_HEADER:])[0])
        if postscript.get(2) != MAGIC or not 0 <= postscript.get(1, -1) < end:
            raise RangeError("its last block is not that of an ArrayRecord file")
        footer = postscript[1]
        entries = [_message(one) for one in _records(_without_headers(read(footer, end - footer), footer))]
        chunks = [entry for entry in entries if not any(isinstance(value, bytes) for value in entry.values())]
        if any(entry.get(3, 1) != 1 for entry in chunks):
            raise RangeError("it has several records per chunk: write it with group_size:1")
        self._bounds = np.array([*(entry.get(1, 0) for entry in chunks), footer], np.int64)

    def __len__(self) -> int:
        return len(self._bounds) - 1

    def __getitem__(self, index: int) -> bytes:
        """Raises RangeError if the bytes there are not those of a record."""
        start, end = int(self._bounds[index]), int(self._bounds[index + 1])
        return _records(_without_headers(self._read(start, end - start), start))[0]


def _without_headers(raw: bytes, start: int) -> bytes:
    """Returns bytes that begin at `start` without the headers of the blocks in them."""
    parts, place = [], 0
    while place < len(raw):
        inside = (start + place) % BLOCK
        if inside == 0:
            place += BLOCK_HEADER
            inside = BLOCK_HEADER
        parts.append(raw[place : place + BLOCK - inside])
        place += BLOCK - inside
    return b"".join(parts)


def _records(chunk: bytes) -> list[bytes]:
    """Returns the records of a simple chunk."""
    try:
        _, size, _, kind, _ = struct.unpack_from("<5Q", chunk)
        data = chunk[CHUNK_HEADER : CHUNK_HEADER + size]
        if kind & 255 != SIMPLE or len(data) != size:
            raise RangeError("a chunk is damaged, or of a kind that is not read here")
        length, start = _varint(data, 1)
        sizes = _inflated(data[0], data[start : start + length])
        values = _inflated(data[0], data[start + length :])
        records, place, at = [], 0, 0
        while at < len(sizes):
            length, at = _varint(sizes, at)
            records.append(values[place : place + length])
            place += length
    except (struct.error, IndexError, pyarrow.ArrowException, OSError) as error:
        raise RangeError(f"a chunk is damaged ({type(error).__name__})") from error
    if place != len(values) or not records:
        raise RangeError("a chunk is damaged: its sizes are not those of its records")
    return records


def _inflated(compression: int, data: bytes) -> bytes:
    if compression == 0 or not data:
        return data
    if compression != ZSTD:
        raise RangeError(f"compression {chr(compression)!r} is not read here: write it with zstd or uncompressed")
    size, start = _varint(data, 0)
    return pyarrow.Codec("zstd").decompress(data[start:], size, asbytes=True) if size else b""


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Returns a number of 7 bits per byte, the lowest first, and the place after it."""
    value = shift = 0
    while True:
        value |= (data[at] & 127) << shift
        shift, at = shift + 7, at + 1
        if data[at - 1] < 128:
            return value, at


def _message(data: bytes) -> dict[int, Any]:
    """Returns the fields of a protocol buffer by number: integers, and bytes of what is nested."""
    found: dict[int, Any] = {}
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        if tag & 7 == 0:
            found[tag >> 3], at = _varint(data, at)
        elif tag & 7 == 1:
            found[tag >> 3], at = struct.unpack_from("<Q", data, at)[0], at + 8
        elif tag & 7 == 2:
            length, at = _varint(data, at)
            found[tag >> 3], at = data[at : at + length], at + length
        else:
            raise RangeError(f"a message has a field of wire type {tag & 7}")
    return found
