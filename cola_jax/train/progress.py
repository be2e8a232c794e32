"""Progress of a run: a bar on a terminal, plain lines elsewhere; and its speed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from tqdm import tqdm


def clock(seconds: float) -> str:
    """Returns "m:ss" or "h:mm:ss"."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class Progress:
    """Progress over steps `start`..`total`. The time of the first step, which compiles, and of pauses does not count."""

    def __init__(
        self,
        stream: TextIO | None,
        start: int,
        total: int,
        tokens_per_step: int,
        mfu_of: Callable[[float], float] | None = None,
    ):
        """stream: None prints nothing, as in all processes but the first. mfu_of: tokens per second to MFU, if known."""
        self._mfu_of = mfu_of
        self._stream, self._total, self._tokens = stream, total, tokens_per_step
        self._mark: tuple[int, float] | None = None  # a step and the time it was done
        self._paused = 0.0
        on_terminal = stream is not None and stream.isatty()
        self._bar = tqdm(initial=start, total=total, file=stream, unit="step") if on_terminal else None
        self._rate: float | None = None

    def say(self, text: str) -> None:
        """Writes a line, above the bar if there is one."""
        if self._bar is not None:
            tqdm.write(text, file=self._stream)
        elif self._stream is not None:
            print(text, file=self._stream, flush=True)

    def advance(self, step: int, loss: float) -> None:
        """Notes that `step` is done."""
        if self._mark is None:
            self._mark = (step, time.monotonic())
        if self._bar is not None:
            speed = "" if self._rate is None else f", {self.speed()}"
            self._bar.set_postfix_str(f"loss {loss:.4f}{speed}", refresh=False)
            self._bar.update(step - self._bar.n)

    def speed(self) -> str:
        """Returns the rate, and the MFU if the devices' peak is known."""
        rate = f"{self._rate:,.0f} tokens/s"
        return rate if self._mfu_of is None else f"{rate}  MFU {self._mfu_of(self._rate):.1%}"

    def report(self, step: int, loss: float) -> float | None:
        """Returns tokens per second since the last report, None if unknown yet; off a terminal writes a line too."""
        now = time.monotonic()
        since, moment = self._mark or (step, now)
        seconds = now - moment - self._paused
        left = ""
        if step > since and seconds > 0:
            self._rate = (step - since) * self._tokens / seconds
            left = f"  {self.speed()}  {clock((self._total - step) * self._tokens / self._rate)} left"
            self._mark, self._paused = (step, now), 0.0
        if self._bar is None:
            self.say(f"step {step}/{self._total}  loss {loss:.4f}{left}")
        return self._rate

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Excludes the time inside from the speed."""
        before = time.monotonic()
        try:
            yield
        finally:
            self._paused += time.monotonic() - before

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
