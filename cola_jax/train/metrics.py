"""The metrics of a run: one JSON object per line in metrics.jsonl, and the same for TensorBoard.

Training metrics have plain names, held-out ones start with "heldout/". A number that is not finite is null.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from tensorboardX import SummaryWriter

from cola_jax import storage


def metrics_path(workdir: str | Path) -> Path:
    """Returns the path of a run's metrics."""
    return Path(workdir) / "metrics.jsonl"


def read_metrics(workdir: str | Path) -> list[dict[str, Any]]:
    """Returns the lines of metrics.jsonl, without an incomplete one of a killed process."""
    path, lines = metrics_path(workdir), []
    if not path.exists():
        return lines
    for text in path.read_text(errors="replace").splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict) and "step" in line:
            lines.append(line)
    return lines


def truncate(workdir: str | Path, step: int) -> None:
    """Drops the lines after `step` from metrics.jsonl, and an incomplete one."""
    path = metrics_path(workdir)
    if path.exists():
        kept = [json.dumps(line) + "\n" for line in read_metrics(workdir) if line["step"] <= step]
        storage.write_bytes(path, "".join(kept).encode())


class MetricsLog:
    """Writes metrics.jsonl and tensorboard/ of a run that continues after `step`."""

    def __init__(self, workdir: str | Path, step: int):
        truncate(workdir, step)
        self._file = metrics_path(workdir).open("a")
        self._board = SummaryWriter(str(Path(workdir) / "tensorboard"), purge_step=step + 1)

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """Appends one line and flushes the file."""
        finite = {name: float(value) if math.isfinite(value) else None for name, value in metrics.items()}
        self._file.write(json.dumps({"step": step, **finite}) + "\n")
        self._file.flush()
        for name, value in metrics.items():
            self._board.add_scalar(name if "/" in name else f"train/{name}", float(value), step)

    def close(self) -> None:
        self._file.close()
        self._board.close()


class NoLog:
    """The metrics log of the other processes of a run, which write nothing."""

    def write(self, step: int, metrics: dict[str, float]) -> None:
        pass

    def close(self) -> None:
        pass
