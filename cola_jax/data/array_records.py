"""Documents in ArrayRecord files and in prepared TFDS datasets, by random access."""

from __future__ import annotations

import bisect
import itertools
import threading
from collections.abc import Callable, Sequence
from typing import Any

from cola_jax.data.array_record_ranges import RangeError
from cola_jax.data.errors import BadRecord, DataError
from cola_jax.data.files import FIELD, Found, given_local
from cola_jax.data.records import checked, field_of, json_of, text_of
from cola_jax.storage import AnyPath


class RecordFiles:
    """The bytes of the records of some ArrayRecord files, one after another."""

    def __init__(self, names: Sequence[str | AnyPath]):
        """Raises DataError if one is not a complete ArrayRecord file; it is named."""
        self._names = [str(name) for name in names]
        self._sources = [open_file(name) for name in self._names]
        self._firsts, self._count = _firsts([len(source) for source in self._sources])

    def __len__(self) -> int:
        return self._count

    def _place(self, index: int) -> tuple[int, int]:
        which = bisect.bisect_right(self._firsts, index) - 1
        return which, index - self._firsts[which]

    def where(self, index: int) -> str:
        """Returns the name of a record in messages."""
        which, number = self._place(index)
        return f"record {number} of {self._names[which]}"

    def source(self, which: int) -> Any:
        """Returns the reader of a file."""
        return self._sources[which]

    def __getitem__(self, index: int) -> bytes:
        """Raises DataError if the file is damaged there."""
        if not 0 <= index < self._count:
            raise IndexError(index)
        which, number = self._place(index)
        try:
            return self.source(which)[number]
        except (RuntimeError, RangeError) as error:
            raise DataError(f"{self.where(index)} cannot be read: the file is damaged{_because(error)}") from error


class LazyRecordFiles(RecordFiles):
    """The same of files that are opened when one of their records is asked for.

    Args:
      counts: records of each file.
      reader_of: (number of a file) -> its records; raises DataError or RangeError.
    """

    def __init__(self, names: Sequence[str], counts: Sequence[int], reader_of: Callable[[int], Any]):
        self._names, self._counts, self._reader_of = list(names), list(counts), reader_of
        self._firsts, self._count = _firsts(counts)
        self._open: dict[int, Any] = {}
        self._locks = [threading.Lock() for _ in names]

    def source(self, which: int) -> Any:
        with self._locks[which]:
            if which not in self._open:
                self._open[which] = self._opened(which)
            return self._open[which]

    def _opened(self, which: int) -> Any:
        name, expected = self._names[which], self._counts[which]
        try:
            found = self._reader_of(which)
        except RangeError as error:
            raise DataError(f"{name} is not a complete ArrayRecord file: {error}") from error
        if len(found) != expected:
            raise DataError(f"{name} has {len(found)} records, {expected} are expected")
        return found


def _firsts(counts: Sequence[int]) -> tuple[list[int], int]:
    """Returns the number of the first record of each file, and the number of all."""
    ends = list(itertools.accumulate(counts))
    return [0, *ends][: len(counts)], (ends or [0])[-1]


def open_file(name: str) -> Any:
    """Returns the reader of an ArrayRecord file; raises DataError if it is not a complete one."""
    from array_record.python.array_record_data_source import ArrayRecordDataSource

    try:
        source = ArrayRecordDataSource([name])
        len(source)
    except Exception as error:  # the reader raises several types
        raise DataError(f"{name} is not a complete ArrayRecord file{_because(error)}") from error
    return source


def _because(error: Exception) -> str:
    text = str(error).strip().split(";")[0]
    return f": {text}" if text else ""


class ArrayRecordFiles:
    """Records that are UTF-8 text, or JSON objects with a text field; the first record that is text decides which."""

    def __init__(self, found: Found, field: str):
        self._field = field
        self._records = RecordFiles(found.names)
        self._json = self._first_is_object()

    def _first_is_object(self) -> bool:
        for index in range(len(self._records)):
            try:
                return _is_object(self._raw(index))
            except BadRecord:
                continue
        return False

    def _raw(self, index: int) -> str:
        return text_of(self._records[index], self._records.where(index))

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> str:
        """Raises BadRecord if the record is not text, or not an object with that field although the first is one."""
        text = self._raw(index)
        if not self._json:
            return text
        where = self._records.where(index)
        if not _is_object(text):
            raise BadRecord(f"{where} is not a JSON object, though the first record is", "not a JSON object")
        return field_of(json_of(text, where), self._field, where)


def _is_object(text: str) -> bool:
    try:
        return isinstance(json_of(text, ""), dict)
    except BadRecord:
        return False


def tfds_builder(paths: Sequence[str]) -> Any:
    """Returns the TFDS builder of "name[:version]" and optionally its data_dir, or of a prepared folder.

    Raises:
      DataError: if the dataset is not prepared in the data_dir. StorageError: for scheme://.
    """
    import tensorflow_datasets as tfds

    if len(paths) > 2:
        raise DataError(
            f"{FIELD}: a tfds source is a name and a data_dir, got {len(paths)} entries: {', '.join(paths)}"
        )
    name, where = paths[0], f"tfds dataset {paths[0]!r}"
    folder = given_local(name, "tfds")
    data_dir = {"data_dir": str(given_local(paths[1], "tfds"))} if len(paths) > 1 else {}
    try:
        is_folder = (folder / "dataset_info.json").is_file()
        return tfds.builder_from_directory(str(folder)) if is_folder else tfds.builder(name, **data_dir)
    except Exception as error:  # the package raises many kinds
        problem = str(error).strip().split("\n")[0]
        under = paths[1] if len(paths) > 1 else "the default data_dir"
        raise DataError(f"{FIELD}: {where} is not prepared under {under}: {problem}") from error


class PreparedTfds:
    """A dataset prepared by TensorFlow Datasets in a format with random access; does not need TensorFlow."""

    def __init__(self, paths: Sequence[str], field: str, split: str):
        import tensorflow_datasets as tfds

        builder, where = tfds_builder(paths), f"tfds dataset {paths[0]!r}"
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
        try:
            self._source = builder.as_data_source(split=split)
            self._count = len(self._source)
        except Exception as error:  # the package raises many kinds
            raise DataError(f"{where}: a file of split {split!r} is missing or damaged{_because(error)}") from error
        self._field, self._where = field, where

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> str:
        """Raises BadRecord if the example's field is not text. DataError if a file is damaged."""
        where = f"{self._where}, example {index}"
        try:
            value = self._source[index][self._field]
        except RuntimeError as error:
            raise DataError(f"{where} cannot be read: a file is damaged{_because(error)}") from error
        return text_of(value, where) if isinstance(value, bytes) else checked(value, self._field, where)
