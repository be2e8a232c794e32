"""The programs that jax compiles, counted and timed by its monitoring events."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import jax

BACKEND = "/jax/core/compile/backend_compile_duration"  # once per program, those read from the cache included
TIMED = ("/jax/core/compile/jaxpr_trace_duration", "/jax/core/compile/jaxpr_to_mlir_module_duration", BACKEND)
HIT = "/jax/compilation_cache/cache_hits"


class Compiles:
    """The programs of one start.

    Attributes:
      cached: programs read from the compilation cache.
      seconds: that the thread of this object's maker has traced, lowered and compiled, or read from the cache.
    """

    def __init__(self) -> None:
        self.cached, self.seconds = 0, 0.0
        self._programs, self._thread = 0, threading.get_ident()
        self._spans: list[tuple[float, float]] = []  # disjoint, by time

    @property
    def compiled(self) -> int:
        """Programs that were not in the compilation cache, or that were compiled without one."""
        return self._programs - self.cached

    def on_event(self, event: str, **_: object) -> None:
        """Counts an event of jax."""
        self.cached += event == HIT

    def on_duration(self, event: str, duration: float, **_: object) -> None:
        """Counts an event of jax that has just ended; `duration` in seconds."""
        self._programs += event == BACKEND
        if event in TIMED and threading.get_ident() == self._thread:
            self.add(time.perf_counter(), duration)

    def add(self, end: float, duration: float) -> None:
        """Adds a span to `seconds`; one function is traced within another, so that spans contain earlier ones."""
        start = end - duration
        while self._spans and self._spans[-1][0] >= start:
            inner = self._spans.pop()
            self.seconds -= inner[1] - inner[0]
        start = max(start, self._spans[-1][1]) if self._spans else start
        if end > start:
            self._spans.append((start, end))
            self.seconds += end - start


@contextmanager
def observed() -> Iterator[Compiles]:
    """Gives the count of what jax compiles in the body."""
    compiles = Compiles()
    jax.monitoring.register_event_listener(compiles.on_event)
    jax.monitoring.register_event_duration_secs_listener(compiles.on_duration)
    try:
        yield compiles
    finally:
        jax.monitoring.unregister_event_listener(compiles.on_event)
        jax.monitoring.unregister_event_duration_listener(compiles.on_duration)
