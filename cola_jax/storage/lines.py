"""A file that grows line by line, on a local disk and in an object store, where nothing can be appended."""

from __future__ import annotations

import time

from cola_jax.storage.paths import AnyPath, is_remote, write_bytes


class LineFile:
    """Adds lines to a file.

    On a local disk a line is in the file when `write` returns. In an object store the whole file is put anew by `flush`, and
    by `write` if `every` seconds have passed.

    Args:
      lines: what the file holds so far, each line with its newline; read in an object store alone.
      every: seconds; None: at `flush` alone.
    """

    def __init__(self, place: AnyPath, lines: list[str], every: float | None = None):
        self._place, self._every, self._lines = place, every, list(lines)
        self._file = None if is_remote(place) else place.open("a", encoding="utf-8")
        self._flushed, self._flushed_at = True, time.monotonic()

    def write(self, line: str) -> None:
        """Adds a line; it ends with a newline."""
        if self._file:
            self._file.write(line)
            self._file.flush()
            return
        self._lines.append(line)
        self._flushed = False
        if self._every is not None and time.monotonic() - self._flushed_at >= self._every:
            self.flush()

    def flush(self) -> None:
        """Puts the lines that were added into the object store."""
        if not self._flushed:
            write_bytes(self._place, "".join(self._lines).encode())
        self._flushed, self._flushed_at = True, time.monotonic()

    def close(self) -> None:
        """Closes the file, without a flush."""
        if self._file:
            self._file.close()
