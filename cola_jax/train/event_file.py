"""An event file of TensorBoard, written in this thread: tensorboardX's own thread blocks its caller when a disk is full."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.summary import scalar


class EventFile:
    """Writes scalars into a new file of `folder`.

    Args:
      purge_step: TensorBoard hides what earlier files have from this step on.
    """

    def __init__(self, folder: Path, purge_step: int):
        folder.mkdir(parents=True, exist_ok=True)
        self._writer = EventsWriter(str(folder / "events"))
        start = SessionLog(status=SessionLog.START)
        for event in (Event(step=purge_step, file_version="brain.Event:2"), Event(step=purge_step, session_log=start)):
            self._writer.write_event(event)

    def add_scalar(self, name: str, value: float, step: int) -> None:
        """Adds one value; it is in the file after `flush`."""
        self._writer.write_event(Event(wall_time=time.time(), step=step, summary=scalar(name, value)))

    def flush(self) -> None:
        """Writes what was added to the disk."""
        self._writer.flush()

    def close(self) -> None:
        """Flushes and closes the file; what a full disk does not take is lost."""
        with contextlib.suppress(OSError):
            self._writer.close()
