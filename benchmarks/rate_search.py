"""The search for a learning rate: a grid around the config's own, extended until the best rate has neighbours on both sides."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any


def search(loss_of: Callable[[float], float], own: float, factors: Sequence[float], extensions: int) -> dict[str, Any]:
    """Tries `own` times each of `factors`, then extends the grid at the better end as long as the best rate is that end.

    The grid grows by the ratio of the two factors at that end. A loss that is not finite is that of a run that diverged:
    it is worse than any other.

    Args:
      loss_of: factor -> held-out loss of a run at `own` times it; called once for each factor.
      own: the config's learning rate.
      factors: at least one; a single one is used without a search.
      extensions: how many factors may be added.

    Returns:
      {"chosen": learning rate, "tried": {rate: held-out loss}, "interior": whether slower and faster rates were tried and
      are worse}. If the grid may not be extended further and the best rate is still its end, interior is False, with a
      warning.

    Raises:
      ValueError: if no run has a finite loss.
    """
    if len(factors) == 1:
        return {"chosen": own * factors[0], "tried": {}, "interior": False}
    tried = {factor: loss_of(factor) for factor in sorted(factors)}
    for _ in range(extensions):
        beyond = _beyond(tried)
        if beyond is None:
            break
        tried[beyond] = loss_of(beyond)
    best, interior = _best(tried), _beyond(tried) is None
    if not interior:
        warnings.warn(
            f"the best learning rate, {own * best:.3g}, is an end of all that were tried: "
            f"{', '.join(f'{own * factor:.3g}' for factor in sorted(tried))}. The optimum may be outside",
            stacklevel=2,
        )
    told = {f"{own * factor:.3g}": tried[factor] for factor in sorted(tried)}
    return {"chosen": own * best, "tried": told, "interior": interior}


def _best(tried: dict[float, float]) -> float:
    finite = {factor: loss for factor, loss in tried.items() if math.isfinite(loss)}
    if not finite:
        raise ValueError(f"no run of the search has a finite held-out loss; factors tried: {sorted(tried)}")
    return min(sorted(finite), key=lambda factor: finite[factor])


def _beyond(tried: dict[float, float]) -> float | None:
    """The factor to try next, outside the end that is best so far; None if the best one is in the interior."""
    ordered, best = sorted(tried), _best(tried)
    if best == ordered[0]:
        return ordered[0] ** 2 / ordered[1]
    if best == ordered[-1]:
        return ordered[-1] ** 2 / ordered[-2]
    return None
