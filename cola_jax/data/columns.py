"""Documents in a text column of Parquet or Arrow files, by random access."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from cola_jax import storage
from cola_jax.data.errors import BadRecord, DataError
from cola_jax.data.files import Found, find, given_local
from cola_jax.data.object_cache import ObjectCache
from cola_jax.data.records import checked

END_OF_STREAM = b"\xff\xff\xff\xff\x00\x00\x00\x00"


def _check_column(name: str, schema: pyarrow.Schema, field: str) -> None:
    """Raises DataError if the schema has no text column of that name."""
    if field not in schema.names:
        raise DataError(f"{name} has no column data.sources.field={field!r}; it has: {', '.join(schema.names)}")
    kind = schema.field(field).type
    stored = kind.value_type if pyarrow.types.is_dictionary(kind) else kind
    texts = (pyarrow.types.is_string, pyarrow.types.is_large_string, pyarrow.types.is_string_view)
    if not any(is_text(stored) for is_text in texts):
        raise DataError(f"{name}: data.sources.field={field!r} must be a text column, got {kind}")


def _value(value: pyarrow.Scalar, field: str, where: str) -> str:
    try:
        return checked(value.as_py(), field, where)
    except UnicodeDecodeError as error:
        raise BadRecord(f"{where} is not UTF-8 text: byte {error.start}", "not UTF-8") from error


class ParquetFiles:
    """A text column; the row group read last is cached."""

    def __init__(self, found: Found, field: str):
        self._field = field
        self._groups: list[tuple[str, int]] = []  # (file, row group)
        self._firsts: list[int] = []  # the first row of each in the whole corpus
        self._count = 0
        self._held: tuple[int, Any] = (-1, None)
        for name in found.names:
            self._open(name)

    def _open(self, name: str) -> None:
        try:
            file = pyarrow.parquet.ParquetFile(name)
        except (pyarrow.ArrowException, OSError) as error:
            raise DataError(f"{name} is not a complete Parquet file: {error}") from error
        _check_column(name, file.schema_arrow, self._field)
        for group in range(file.num_row_groups):
            self._groups.append((name, group))
            self._firsts.append(self._count)
            self._count += file.metadata.row_group(group).num_rows

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> str:
        """Raises BadRecord if the row has no text. DataError if the file is damaged."""
        group = bisect.bisect_right(self._firsts, index) - 1
        held, values = self._held
        if held != group:
            values = self._read(*self._groups[group])
            self._held = (group, values)
        name, number = self._groups[group]
        row = index - self._firsts[group]
        return _value(values[row], self._field, f"{name}, row group {number}, row {row}")

    def _read(self, name: str, group: int) -> pyarrow.ChunkedArray:
        try:
            table = pyarrow.parquet.ParquetFile(name).read_row_group(group, columns=[self._field])
            return table.column(self._field)
        except (pyarrow.ArrowException, OSError) as error:
            raise DataError(f"{name}, row group {group} cannot be read: {error}") from error


def find_arrow(paths: Sequence[str], split: str, cache: ObjectCache) -> Found:
    """Returns the files of kind arrow: for a folder saved by Hugging Face datasets, those that its state.json lists.

    Args:
      split: the split of a folder that has several (dataset_dict.json).

    Raises:
      DataError: for a split that does not exist; see also `files.find`.
    """
    entries, several = [], False
    for entry in paths:
        folder = given_local(entry, "arrow")
        if (folder / "dataset_dict.json").is_file():
            several = True
            folder = _split(folder, split)
        saved = (folder / "state.json").is_file()
        entries += _saved(folder) if saved else [str(folder)]
    if split != "train" and not several:
        raise DataError(f"data.sources.split={split!r}: {', '.join(paths)} holds no splits (no dataset_dict.json)")
    found = _without_caches(find("arrow", entries, cache))
    found.notes += [f"{name} has no end marker: it may be truncated" for name in found.names if not _ends(name)]
    return found


def _without_caches(found: Found) -> Found:
    """Leaves out caches that a library keeps beside the files of a saved dataset."""
    kept = [i for i, name in enumerate(found.names) if not _is_cache(Path(name))]
    found.names = [found.names[i] for i in kept]
    found.relative = [found.relative[i] for i in kept]
    return found


def _is_cache(path: Path) -> bool:
    return path.name.startswith("cache-") and (path.parent / "state.json").is_file()


def _split(folder: Path, split: str) -> Path:
    path = folder / "dataset_dict.json"
    splits = storage.read_json(path)
    known = splits.get("splits") if isinstance(splits, dict) else None
    if not isinstance(known, list) or split not in known:
        names = ", ".join(map(str, known)) if isinstance(known, list) else "none"
        raise DataError(f"{path} has no split data.sources.split={split!r}; it has: {names}")
    return folder / split


def _saved(folder: Path) -> list[str]:
    """Returns the data files of a saved dataset; other Arrow files in its folder are caches."""
    path = folder / "state.json"
    state = storage.read_json(path)
    listed = state.get("_data_files") if isinstance(state, dict) else None
    whole = isinstance(listed, list) and all(isinstance(one, dict) and "filename" in one for one in listed)
    if not whole:
        raise DataError(f"{path} lists no _data_files: it is not that of a saved dataset, or damaged")
    if state.get("_indices_files") or state.get("_indices_data_files"):
        raise DataError(f"{path}: the rows are in another order than the files: save flatten_indices() of the dataset")
    names = [str(folder / str(one["filename"])) for one in listed]
    missing = [name for name in names if not Path(name).is_file()]
    if missing:
        raise DataError(f"{missing[0]} is missing, though {path} lists it")
    return names


def _ends(name: str) -> bool:
    """Returns whether an Arrow file has the end marker of its writer."""
    with open(name, "rb") as file:
        size = file.seek(0, 2)
        file.seek(max(size - 8, 0))
        tail = file.read()
    return tail == END_OF_STREAM or tail.endswith(b"ARROW1")


class ArrowFiles:
    """A text column of Arrow files, in stream or file format, memory-mapped; compressed buffers are kept in memory."""

    def __init__(self, found: Found, field: str):
        self._field = field
        self._columns: list[tuple[str, pyarrow.ChunkedArray]] = []
        self._firsts: list[int] = []
        self._count = 0
        for name in found.names:
            column = self._open(name)
            self._columns.append((name, column))
            self._firsts.append(self._count)
            self._count += len(column)

    def _open(self, name: str) -> pyarrow.ChunkedArray:
        try:
            mapped = pyarrow.memory_map(name)
            is_file = mapped.read(6) == b"ARROW1"
            mapped.seek(0)
            reader = pyarrow.ipc.open_file(mapped) if is_file else pyarrow.ipc.open_stream(mapped)
            _check_column(name, reader.schema, self._field)
            column = reader.read_all().column(self._field)
            column.validate()  # offsets that point outside would be read as memory
        except (pyarrow.ArrowException, OSError) as error:
            raise DataError(f"{name} is not a complete Arrow file: {error}") from error
        return column

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> str:
        """Raises BadRecord if the row has no text."""
        place = bisect.bisect_right(self._firsts, index) - 1
        name, column = self._columns[place]
        row = index - self._firsts[place]
        return _value(column[row], self._field, f"{name}, row {row}")
