"""The text of train.profile."""

from __future__ import annotations

import re

PROFILE = re.compile(r"([1-9][0-9]{0,9}):([1-9][0-9]{0,9})")


def profiled_steps(text: str) -> tuple[int, int] | None:
    """Returns the first and the last step of START:COUNT, 1 being the first of a run; None if the text is not of this form."""
    found = PROFILE.fullmatch(text)
    return (int(found[1]), int(found[1]) + int(found[2]) - 1) if found else None
