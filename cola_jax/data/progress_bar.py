"""Progress of slow work: a bar on a terminal, periodic lines in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

SHOW_AFTER = 5.0  # seconds, on a terminal
PRINT_EVERY = 30.0  # seconds, elsewhere
T = TypeVar("T")


def bar(iterable: Iterable[T], label: str, unit: str, total: int | None = None) -> Iterator[T]:
    """Yields the items of `iterable` and shows on stderr how many are done.

    Args:
      unit: name of the items, in the plural.
      total: how many there are, if the iterable has no length; None: not known.
    """
    if total is None and hasattr(iterable, "__len__"):
        total = len(iterable)
    if sys.stderr.isatty():
        yield from tqdm(iterable, label, total, unit=f" {unit}", delay=SHOW_AFTER)
        return
    begun = printed = time.monotonic()
    for done, item in enumerate(iterable):
        now = time.monotonic()
        if done and now - printed >= PRINT_EVERY:
            left = "" if total is None else f" of {total}, {(now - begun) / done * (total - done):,.0f} s left"
            print(f"{label}: {done} {unit}{left}", file=sys.stderr, flush=True)
            printed = now
        yield item
