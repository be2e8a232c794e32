"""Files and the text in them: UTF-8 with or without BOM, JSON, compressed streams.

Text is checked where it enters: what is not valid Unicode is named with file and line.
"""

from __future__ import annotations

import io
import json
import re
import sys
from collections.abc import Iterator
from typing import Any, BinaryIO

from cola_jax.storage.paths import AnyPath, StorageError, open_binary, read_whole, reason, write_bytes

BOM = "\ufeff"
# Compressed files are known by their first bytes, whatever they are called.
COMPRESSIONS = {
    "gzip": re.compile(rb"\x1f\x8b"),
    "bz2": re.compile(rb"BZh[1-9](1AY&SY|\x17rE8P\x90)"),  # the three letters alone begin texts too
    "zstd": re.compile(rb"\x28\xb5\x2f\xfd"),
}
SURROGATE = re.compile("[\ud800-\udfff]")


def check_text(text: str, where: str) -> str:
    """Returns `text`.

    Raises:
      StorageError: if it has a lone surrogate, half of a character that UTF-8 cannot hold.
    """
    found = SURROGATE.search(text)
    if found:
        raise StorageError(
            f"{where} is not valid Unicode: character {found.start() + 1} is the lone surrogate U+{ord(found[0]):04X}"
        )
    return text


def decode(raw: bytes, where: str) -> str:
    """Returns UTF-8 bytes as text, a BOM at their start left out.

    Raises:
      StorageError: if they are not UTF-8; `where` names them.
    """
    try:
        return raw.decode().removeprefix(BOM)
    except UnicodeDecodeError as error:
        raise StorageError(f"{where} is not UTF-8 text: byte {error.start} is {raw[error.start]:#04x}") from error


def read_text(path: AnyPath) -> str:
    """Returns a text file.

    Raises:
      StorageError: if it is not there, not a file, or not UTF-8.
    """
    return decode(read_bytes(path), str(path))


def read_bytes(path: AnyPath) -> bytes:
    """Returns a file's bytes.

    Raises:
      StorageError: if it cannot be read.
    """
    try:
        return read_whole(path)
    except OSError as error:
        raise StorageError(f"{path}: {reason(error)}") from error


def parse_json(text: str, where: str) -> Any:
    """Returns the value of JSON text.

    Raises:
      StorageError: if it is not JSON, is nested too deeply, or has a string that is not valid Unicode.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise StorageError(f"{where} is not JSON: {error}") from error
    if "\\u" in text:  # the only way for a surrogate into JSON that was read from UTF-8
        check_text(json.dumps(value, ensure_ascii=False), where)
    return value


def read_json(path: AnyPath) -> Any:
    """Returns the value of a JSON file.

    Raises:
      StorageError: see `read_text` and `parse_json`.
    """
    return parse_json(read_text(path), str(path))


def compression(start: bytes) -> str | None:
    """Returns how a file is compressed (gzip, bz2, zstd) by its first 10 bytes; None where it is not."""
    return next((name for name, mark in COMPRESSIONS.items() if mark.match(start)), None)


def open_stream(path: AnyPath) -> BinaryIO:
    """Opens a file, a FIFO, a device or, as "-", stdin for one pass of reading; gzip, bz2 and zstd are decompressed.

    Raises:
      StorageError: if it cannot be opened.
    """
    import pyarrow

    try:
        file = sys.stdin.buffer if str(path) == "-" else open_binary(path)
    except OSError as error:
        raise StorageError(f"{path}: {reason(error)}") from error
    file = file if hasattr(file, "peek") else io.BufferedReader(file)  # a file of an object store has no peek
    kind = compression(file.peek(10))
    return file if kind is None else io.BufferedReader(pyarrow.CompressedInputStream(file, kind), 2**20)


def byte_lines(path: AnyPath) -> Iterator[tuple[int, bytes]]:
    """Yields (number, bytes) of every line, its newline included, 1 being the first; only a newline ends a line.

    Raises:
      StorageError: if the file cannot be read, or its compressed data are damaged.
    """
    with open_stream(path) as file:
        try:
            yield from enumerate(file, 1)
        except OSError as error:
            raise StorageError(f"{path} cannot be read to its end: {reason(error)}") from error


def text_lines(path: AnyPath) -> Iterator[tuple[int, str]]:
    """Yields (number, text) of every line, without its end; a BOM at the start of a line is left out.

    Raises:
      StorageError: see `byte_lines`, and where a line is not UTF-8, which is named.
    """
    for number, line in byte_lines(path):
        text = decode(line, f"{path}, line {number}")
        yield number, text.removesuffix("\n").removesuffix("\r")


def to_json(value: Any) -> bytes:
    """Returns the text of a JSON file."""
    return (json.dumps(value, indent=2) + "\n").encode()


def write_json(path: AnyPath, value: Any) -> None:
    """Writes JSON, see `write_bytes`."""
    write_bytes(path, to_json(value))
