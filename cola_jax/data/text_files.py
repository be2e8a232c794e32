"""Documents in text files and in JSONL, plain or compressed, by random access.

A plain file is read by position whenever a document is requested. A file compressed by gzip, bz2 or zstd is
decompressed once and kept in memory; decompress files that are too large for that.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from cola_jax import storage
from cola_jax.data.errors import BadRecord, DataError
from cola_jax.data.files import Found
from cola_jax.data.records import field_of, json_of, text_of

WHOLE_FILE = 8 * 1024  # bytes; a text file up to this size is one document
DOCUMENT_BYTES = 2 * 1024  # a larger one is divided at the first blank line after this many bytes
LONGEST_PARAGRAPH = 16 * 1024  # or, if there is no blank line, at the first line end after this many bytes


@dataclass(frozen=True)
class Content:
    """The bytes of a file by position; `held` are the decompressed bytes of a compressed one."""

    name: str
    held: bytes | None

    def open(self) -> BinaryIO:
        """Opens the bytes for reading."""
        return open(self.name, "rb") if self.held is None else io.BytesIO(self.held)

    def size(self) -> int:
        """Returns the number of decompressed bytes."""
        return os.stat(self.name).st_size if self.held is None else len(self.held)

    def read(self, start: int, length: int) -> bytes:
        """Returns `length` bytes from `start`. Raises DataError if the file has become shorter."""
        with self.open() as file:
            file.seek(start)
            raw = file.read(length)
        if len(raw) < length:
            raise DataError(f"{self.name} has become shorter while it was read")
        return raw


def open_content(name: str) -> Content:
    """Returns the bytes of a file.

    Raises:
      StorageError: if it cannot be read, or its compressed data are damaged.
    """
    try:
        with open(name, "rb") as file:
            plain = storage.compression(file.read(10)) is None
    except OSError as error:
        raise DataError(f"{name}: {storage.reason(error)}") from error
    return Content(name, None if plain else b"".join(line for _, line in storage.byte_lines(name)))


def _spans(name: str, lines: Iterable[bytes], size: int) -> Iterator[tuple[int, int, BadRecord | None]]:
    """Yields start, length and error of the documents of a text file of `size` bytes."""
    divided = size > WHOLE_FILE
    start = stop = 0
    fault: BadRecord | None = None
    for number, line in enumerate(lines, 1):
        try:
            blank = not text_of(line, f"{name}, line {number}").strip()
        except BadRecord as error:
            fault, blank = fault or error, False
        stop += len(line)
        held = stop - start
        if divided and (held >= LONGEST_PARAGRAPH or (blank and held >= DOCUMENT_BYTES)):
            yield start, held, fault
            start, fault = stop, None
    if stop > start:
        yield start, stop - start, fault


class TextFiles:
    """UTF-8 text. A file of up to 8 KiB is a document; a larger one is divided at blank lines into some of 2 KiB or more.

    A BOM at the start of a line, where files were joined, is left out.
    """

    def __init__(self, found: Found):
        self._spans: list[tuple[Content, int, int, BadRecord | None]] = []
        for name in found.names:
            content = open_content(name)
            with content.open() as file:
                self._spans += [(content, *span) for span in _spans(name, file, content.size())]

    def __len__(self) -> int:
        return len(self._spans)

    def __getitem__(self, index: int) -> str:
        """Raises BadRecord if a line of the document is not text; the message names the line."""
        content, start, length, fault = self._spans[index]
        if fault is not None:
            raise fault
        return text_of(content.read(start, length), content.name).replace("\n" + storage.BOM, "\n").strip("\r\n")


class JsonLines:
    """One JSON object per line; blank lines and a BOM at the start of a line are ignored."""

    def __init__(self, found: Found, field: str):
        self._field = field
        self._lines: list[tuple[Content, int, int, int]] = []  # (file, first byte, bytes, number)
        for name in found.names:
            content, start = open_content(name), 0
            with content.open() as file:
                for number, line in enumerate(file, 1):
                    if line.strip():
                        self._lines.append((content, start, len(line), number))
                    start += len(line)

    def __len__(self) -> int:
        return len(self._lines)

    def __getitem__(self, index: int) -> str:
        """Raises BadRecord if the line is not a JSON object with that field."""
        content, start, length, number = self._lines[index]
        where = f"{content.name}, line {number}"
        return field_of(json_of(text_of(content.read(start, length), where), where), self._field, where)
