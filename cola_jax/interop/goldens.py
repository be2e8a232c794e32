"""Comparison with published numbers on small models, case by case.

A golden folder contains `cases.npz` and its models. FORMS lists the kinds of folder and the check of each.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax

from cola_jax import storage
from cola_jax.interop import cola_cases, llama_cases
from cola_jax.interop.cases import Case, Cases
from cola_jax.interop.errors import ReleasedFormatError
from cola_jax.interop.llama import is_llama

CASES = "cases.npz"


class GoldenForm(NamedTuple):
    """One kind of golden folder.

    Attributes:
      name: for reports.
      holds: (folder) -> whether the folder is of this kind.
      check: (folder, cases, dtype) -> the result of every case.
    """

    name: str
    holds: Callable[[Path], bool]
    check: Callable[[Path, Cases, str], list[Case]]


FORMS = (
    GoldenForm(
        "cola", lambda folder: (folder / "cola_vae").is_dir() or (folder / "cola_dit").is_dir(), cola_cases.check
    ),
    GoldenForm("llama", is_llama, llama_cases.check),
)


class Golden(NamedTuple):
    """One folder's results; `error` is the reason if it could not be checked, else empty."""

    folder: Path
    form: str
    cases: list[Case]
    error: str

    @property
    def passed(self) -> bool:
        return not self.error and all(case.passed for case in self.cases)


class GoldenReport(NamedTuple):
    """The results of all folders. In a dtype other than float32 no case has a bound, and none fails."""

    dtype: str
    goldens: list[Golden]

    @property
    def passed(self) -> bool:
        return all(golden.passed for golden in self.goldens)


def check(folder: Path, dtype: str) -> GoldenReport:
    """Checks the goldens of `folder`, or of the folders in it. dtype: of matmuls, float32 | bfloat16.

    Raises:
      ReleasedFormatError: if there are none.
    """
    folder = storage.local(folder, "folder")
    if not folder.is_dir():
        raise ReleasedFormatError(f"{folder}: no such folder")
    found = [path for path in (folder, *sorted(folder.iterdir())) if (path / CASES).is_file()]
    if not found:
        raise ReleasedFormatError(f"{folder} has no {CASES}, and no folder in it has one")
    with jax.default_matmul_precision("highest"):
        return GoldenReport(dtype, [_check_one(path, dtype) for path in found])


def _check_one(folder: Path, dtype: str) -> Golden:
    form = next((form for form in FORMS if form.holds(folder)), None)
    if form is None:
        return Golden(folder, "unknown", [], f"{folder}: {CASES} has no cola_vae/, cola_dit/ or config.json beside it")
    try:
        cases = Cases.load(folder / CASES)
        results = form.check(folder, cases, dtype)
    except ReleasedFormatError as error:
        return Golden(folder, form.name, [], str(error))
    unread = cases.unread()
    error = f"{folder / CASES} has arrays that no check reads: {', '.join(unread)}" if unread else ""
    return Golden(folder, form.name, results, error or ("" if results else f"{folder / CASES} holds no case"))


def as_json(report: GoldenReport) -> dict[str, Any]:
    """Returns the report as plain values."""
    goldens = [
        {
            "folder": str(golden.folder),
            "form": golden.form,
            "passed": golden.passed,
            "error": golden.error,
            "cases": [dataclasses.asdict(case) | {"passed": case.passed} for case in golden.cases],
        }
        for golden in report.goldens
    ]
    plain = {"dtype": report.dtype, "passed": report.passed, "goldens": goldens}
    return json.loads(json.dumps(plain), parse_constant=lambda constant: None)  # JSON has no infinity


def as_text(report: GoldenReport) -> str:
    """Returns the report as lines."""
    lines = []
    for golden in report.goldens:
        lines.append(f"{golden.folder} ({golden.form}, {report.dtype})")
        width = max((len(case.name) for case in golden.cases), default=0)
        for case in golden.cases:
            bound = "no bound" if case.bound is None else f"bound {case.bound:.0e}"
            verdict = "-" if case.bound is None else "ok" if case.passed else "FAILED"
            note = f"  ({case.note})" if case.note else ""
            lines.append(
                f"  {case.name:{width}}  largest difference {case.absolute:.2e} absolute, {case.relative:.2e} relative"
                f"  {bound}  {verdict}{note}"
            )
        lines += [f"  FAILED: {golden.error}"] if golden.error else []
    count = sum(len(golden.cases) for golden in report.goldens)
    failed = f"{sum(not case.passed for golden in report.goldens for case in golden.cases)} failed"
    broken = sum(bool(golden.error) for golden in report.goldens)
    failed = failed if report.dtype == "float32" else "none judged"
    lines.append(f"{count} cases, {failed}" + (f"; {broken} folders could not be checked completely" if broken else ""))
    return "\n".join(lines)
