"""Documents in files, by random access: text, JSONL, Parquet, ArrayRecord and prepared TFDS datasets.

Each class has __len__ and __getitem__(i) -> str, refuses what it cannot read by name, and opens files lazily.
"""

from __future__ import annotations

import glob
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from cola_jax.data.errors import DataError

WHOLE_FILE = 8 * 1024  # bytes; a text file up to this size is one document
DOCUMENT_BYTES = 2 * 1024  # a larger one is divided at the first blank line after so many
LONGEST_PARAGRAPH = 16 * 1024  # or, where there is no blank line, at the first line end after so many
ENDINGS = {
    "text": (".txt", ".md", ".rst", ".text"),
    "jsonl": (".jsonl", ".ndjson"),
    "parquet": (".parquet",),
    "array_record": (".array_record", ".arrayrecord"),
}


def files_of(kind: str, paths: Sequence[str]) -> list[str]:
    """Returns the files that files, folders (searched below, by the endings of `kind`) and globs name, sorted by entry.

    Raises:
      DataError: for an entry that names nothing, and for an empty file.
    """
    found: list[str] = []
    for entry in paths:
        path = Path(entry).expanduser()
        if path.is_dir():
            marks = ENDINGS[kind]
            inside = sorted(str(p) for p in path.rglob("*") if p.is_file() and _matches(p.name, marks))
            if not inside:
                raise DataError(f"data.sources.path: folder {entry!r} holds no {' or '.join(marks)} file")
            found += inside
        elif path.is_file():
            found.append(str(path))
        else:
            inside = sorted(p for p in glob.glob(str(path), recursive=True) if Path(p).is_file())
            if not inside:
                raise DataError(f"data.sources.path: {entry!r} names no file or folder, and matches none")
            found += inside
    for name in found:
        if Path(name).stat().st_size == 0:
            raise DataError(f"data.sources.path: {name} is empty")
    return list(dict.fromkeys(found))


def _matches(name: str, marks: tuple[str, ...]) -> bool:
    stem = name.split("-of-")[0].rsplit("-", 1)[0] if "-of-" in name else name  # data.array_record-00000-of-00008
    return name.endswith(marks) or stem.endswith(marks)


def _text(raw: bytes, where: str) -> str:
    if b"\x00" in raw:
        raise DataError(f"{where} is not text: it has a zero byte (a binary file?)")
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise DataError(f"{where} is not UTF-8 text: byte {error.start} is {raw[error.start]:#04x}") from error


def _field(record: Any, field: str, where: str) -> str:
    if not isinstance(record, dict):
        raise DataError(f"{where} is not a JSON object but {type(record).__name__}")
    if field not in record:
        raise DataError(f"{where} has no field data.sources.field={field!r}; it has: {', '.join(map(str, record))}")
    if not isinstance(record[field], str):
        raise DataError(f"{where}: data.sources.field={field!r} must be text, got {type(record[field]).__name__}")
    return record[field]


def _spans(name: str) -> Iterator[tuple[int, int]]:
    """Yields the byte ranges of the documents of a text file, and refuses a file that is no text."""
    divided = Path(name).stat().st_size > WHOLE_FILE
    start = stop = 0
    with open(name, "rb") as file:
        for number, line in enumerate(file, 1):
            blank = not _text(line, f"{name}, line {number}").strip()
            stop += len(line)
            size = stop - start
            if divided and (size >= LONGEST_PARAGRAPH or (blank and size >= DOCUMENT_BYTES)):
                yield start, stop
                start = stop
    if stop > start:
        yield start, stop


class TextFiles:
    """UTF-8 text. A file of up to 8 KiB is a document; a larger one is divided at blank lines into some of 2 KiB or more."""

    def __init__(self, paths: Sequence[str]):
        self._spans = [(name, *span) for name in files_of("text", paths) for span in _spans(name)]

    def __len__(self) -> int:
        return len(self._spans)

    def __getitem__(self, index: int) -> str:
        name, start, stop = self._spans[index]
        with open(name, "rb") as file:
            file.seek(start)
            return _text(file.read(stop - start), name).removeprefix("\ufeff").strip("\r\n")


class JsonLines:
    """One JSON object a line; blank lines are passed over."""

    def __init__(self, paths: Sequence[str], field: str):
        self._field = field
        self._lines = [(name, *line) for name in files_of("jsonl", paths) for line in self._scan(name)]

    @staticmethod
    def _scan(name: str) -> Iterable[tuple[int, int, int]]:
        start = 0
        with open(name, "rb") as file:
            for number, line in enumerate(file, 1):
                if number == 1:
                    _text(line, name)
                if line.strip():
                    yield start, len(line), number
                start += len(line)

    def __len__(self) -> int:
        return len(self._lines)

    def __getitem__(self, index: int) -> str:
        name, start, length, number = self._lines[index]
        where = f"{name}, line {number}"
        with open(name, "rb") as file:
            file.seek(start)
            text = _text(file.read(length), where)
        try:
            record = json.loads(text)
        except json.JSONDecodeError as error:
            raise DataError(f"{where} is not JSON: {error}") from error
        return _field(record, self._field, where)


class ParquetFiles:
    """A text column; the last row group that was read stays in memory."""

    def __init__(self, paths: Sequence[str], field: str):
        self._field = field
        self._groups: list[tuple[str, int, int]] = []  # (file, row group, first row in the whole corpus)
        self._count = 0
        self._held: tuple[int, list[str | None]] = (-1, [])
        for name in files_of("parquet", paths):
            self._open(name)

    def _open(self, name: str) -> None:
        try:
            file = pyarrow.parquet.ParquetFile(name)
        except (pyarrow.ArrowException, OSError) as error:
            raise DataError(f"{name} is not a Parquet file: {error}") from error
        schema, field = file.schema_arrow, self._field
        if field not in schema.names:
            raise DataError(f"{name} has no column data.sources.field={field!r}; it has: {', '.join(schema.names)}")
        kind = schema.field(field).type
        if not (pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind)):
            raise DataError(f"{name}: data.sources.field={field!r} must be a text column, got {kind}")
        for group in range(file.num_row_groups):
            self._groups.append((name, group, self._count))
            self._count += file.metadata.row_group(group).num_rows

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> str:
        held, values = self._held
        if held < 0 or not 0 <= index - self._groups[held][2] < len(values):
            held = max(i for i, (_, _, first) in enumerate(self._groups) if first <= index)
            name, group, _ = self._groups[held]
            table = pyarrow.parquet.ParquetFile(name).read_row_group(group, columns=[self._field])
            values = table.column(self._field).to_pylist()
            self._held = (held, values)
        name, group, first = self._groups[held]
        if values[index - first] is None:
            raise DataError(
                f"{name}, row group {group}, row {index - first}: data.sources.field={self._field!r} is null"
            )
        return values[index - first]


class ArrayRecordFiles:
    """Records that are UTF-8 text, or JSON objects with a text field; the first record says which."""

    def __init__(self, paths: Sequence[str], field: str):
        from array_record.python.array_record_data_source import ArrayRecordDataSource

        self._field = field
        self._names = files_of("array_record", paths)
        try:
            self._records = ArrayRecordDataSource(self._names)
            count = len(self._records)
        except Exception as error:  # the reader raises several kinds
            raise DataError(
                f"data.sources.path: not ArrayRecord files: {', '.join(self._names[:3])} ({error})"
            ) from error
        self._json = count > 0 and _is_object(self._raw(0))

    def _raw(self, index: int) -> str:
        return _text(self._records[index], f"record {index} of {self._names[0]}")

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> str:
        text = self._raw(index)
        if not self._json:
            return text
        where = f"record {index} of {self._names[0]}"
        if not _is_object(text):
            raise DataError(f"{where} is not a JSON object, though record 0 is")
        return _field(json.loads(text), self._field, where)


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except json.JSONDecodeError:
        return False


class PreparedTfds:
    """A dataset that TensorFlow Datasets has prepared in a format with random access; needs no TensorFlow."""

    def __init__(self, paths: Sequence[str], field: str, split: str):
        import tensorflow_datasets as tfds

        name, where = paths[0], f"tfds dataset {paths[0]!r}"
        try:
            folder = Path(name).expanduser()
            data_dir = {"data_dir": paths[1]} if len(paths) > 1 else {}
            is_folder = (folder / "dataset_info.json").is_file()
            builder = tfds.builder_from_directory(str(folder)) if is_folder else tfds.builder(name, **data_dir)
        except Exception as error:
            problem = str(error).strip().split("\n")[0]
            under = paths[1] if len(paths) > 1 else "the default data_dir"
            raise DataError(f"data.sources.path: {where} is not prepared under {under}: {problem}") from error
        if field not in builder.info.features:
            known = ", ".join(sorted(builder.info.features))
            raise DataError(f"{where} has no feature data.sources.field={field!r}; it has: {known}")
        if split not in builder.info.splits:
            known = ", ".join(sorted(builder.info.splits)) or "none: it is not prepared there"
            raise DataError(f"{where} has no split data.sources.split={split!r}; it has: {known}")
        formats = builder.info.available_file_formats()
        if not formats & tfds.core.FileFormat.with_random_access():
            stored = ", ".join(sorted(one.value for one in formats))
            raise DataError(
                f"{where} is stored as {stored}, without random access: prepare it with file_format='array_record'"
            )
        self._source = builder.as_data_source(split=split)
        self._field, self._where = field, where

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> str:
        value = self._source[index][self._field]
        if not isinstance(value, (bytes, str)):
            raise DataError(
                f"{self._where}: data.sources.field={self._field!r} must be text, got {type(value).__name__}"
            )
        return value if isinstance(value, str) else _text(value, f"{self._where}, example {index}")
