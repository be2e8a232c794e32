"""The metadata of a field: whether its value may change when a run continues, and which values it may have.

Each field of a config group is declared by the class of its change:
  identity   another value is another run
  length     how long the run is: may change as long as the learning rates of the steps done stay the same
  placement  where computation runs: may change; losses agree to 2e-5 relative in fp32
  reporting  logging, checkpoints kept and generation: may change
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

INT32 = 2**31 - 1  # steps and sizes are int32 on the devices


@dataclass(frozen=True)
class Range:
    """The range of a numeric field; values are always finite. `above` and `below` are exclusive bounds."""

    least: float = -math.inf
    most: float = math.inf
    above: float = -math.inf
    below: float = math.inf

    def problem(self, value: float) -> str:
        """Returns what a value must be, or "" if it is in the range."""
        if not math.isfinite(value):
            return "must be finite"
        if self.least <= value <= self.most and self.above < value < self.below:
            return ""
        low = [f"at least {self.least:g}"] * math.isfinite(self.least) + [f"more than {self.above:g}"] * math.isfinite(
            self.above
        )
        shown = math.isfinite(self.most) and (self.most != INT32 or value > self.most)
        high = [f"at most {_plain(self.most)}"] * shown + [f"less than {self.below:g}"] * math.isfinite(self.below)
        if shown and math.isfinite(self.least):
            return f"must be between {self.least:g} and {_plain(self.most)}"
        return "must be " + " and ".join(low + high)


def _plain(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:g}"


def _declared(change: str, default: Any, traced: bool, bounds: dict[str, float]) -> Any:
    if isinstance(default, int) and not isinstance(default, bool):
        bounds = {"most": INT32, **bounds}
    metadata = {"change": change, "traced": traced, "range": Range(**bounds)}
    return dataclasses.field(default=default, metadata=metadata)


def identity(default: Any, *, traced: bool = True, **bounds: float) -> Any:
    """Declares a field of class identity.

    Args:
      traced: whether the compiled training step depends on it.
      bounds: fields of `Range`.
    """
    return _declared("identity", default, traced, bounds)


def length(default: Any, *, traced: bool = True, **bounds: float) -> Any:
    """Declares a field of class length; arguments as in `identity`."""
    return _declared("length", default, traced, bounds)


def placement(default: Any, *, traced: bool = True, **bounds: float) -> Any:
    """Declares a field of class placement; arguments as in `identity`."""
    return _declared("placement", default, traced, bounds)


def reporting(default: Any, **bounds: float) -> Any:
    """Declares a field of class reporting, on which no training step depends; bounds as in `identity`."""
    return _declared("reporting", default, False, bounds)
