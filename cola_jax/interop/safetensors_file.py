"""The safetensors format, one tensor at a time: a file is never in memory as a whole, in reading or writing.

A file is the length of its header (8 bytes, little-endian), the header (JSON: name -> dtype, shape and byte range, and
`__metadata__`), and the tensors' bytes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from cola_jax.interop.errors import ReleasedFormatError

DTYPES = {
    "F32": np.dtype(np.float32), "BF16": np.dtype(jnp.bfloat16), "F16": np.dtype(np.float16), "F64": np.dtype(np.float64),
}  # fmt: skip
LARGEST_HEADER = 100_000_000


class Entry(NamedTuple):
    """One tensor of a file: its name, dtype (a key of DTYPES if it is supported), shape and byte range."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    path: Path
    start: int
    size: int

    def read(self) -> np.ndarray:
        """Returns the tensor as it is stored, its dtype included."""
        with open(self.path, "rb") as file:
            file.seek(self.start)
            return np.fromfile(file, DTYPES[self.dtype], math.prod(self.shape)).reshape(self.shape)

    def read_weights(self) -> np.ndarray:
        """Returns the tensor in fp32.

        Raises:
          ReleasedFormatError: if a value is not finite, or not finite in fp32.
        """
        with np.errstate(over="ignore"):
            values = self.read().astype(np.float32, copy=False)
        if not np.isfinite(values).all():
            raise ReleasedFormatError(f"{self.path}: tensor {self.name} is not finite: it holds inf or nan in fp32")
        return values


def read_header(path: Path) -> tuple[dict[str, str], list[Entry]]:
    """Returns the metadata and the tensors of a file, in the order of their bytes.

    Raises:
      ReleasedFormatError: if the file is missing, truncated, or not of this format.
    """
    if not path.is_file():
        raise ReleasedFormatError(f"{path} does not exist")
    total = path.stat().st_size
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if total < 8 or length > min(total - 8, LARGEST_HEADER):
            raise ReleasedFormatError(
                f"{path} is truncated or no safetensors file: {total} bytes, a header of {length}"
            )
        try:
            header = json.loads(file.read(length))
            metadata = _metadata(header.pop("__metadata__", {}))
            entries = [_entry(name, fields, path, 8 + length) for name, fields in header.items()]
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise ReleasedFormatError(f"{path} is no safetensors file: its header cannot be read ({error})") from error
    entries.sort(key=lambda entry: (entry.start, entry.size))  # an empty tensor begins where another does
    end = 8 + length
    for entry in entries:
        expected = math.prod(entry.shape) * DTYPES[entry.dtype].itemsize if entry.dtype in DTYPES else entry.size
        if entry.start != end or entry.size != expected:
            raise ReleasedFormatError(
                f"{path} is no safetensors file: tensor {entry.name} is not at its expected offset"
            )
        end += entry.size
    if end != total:
        raise ReleasedFormatError(f"{path} is truncated: its tensors need {end} bytes, it has {total}")
    return metadata, entries


def _entry(name: str, fields: dict[str, Any], path: Path, start: int) -> Entry:
    first, last = (_whole(n) for n in fields["data_offsets"])
    return Entry(name, str(fields["dtype"]), tuple(map(_whole, fields["shape"])), path, start + first, last - first)


def _whole(number: Any) -> int:
    if type(number) is not int or number < 0:
        raise ValueError(f"{number!r} is no size")
    return number


def _metadata(given: Any) -> dict[str, str]:
    if not isinstance(given, dict) or not all(isinstance(value, str) for value in given.values()):
        raise ValueError("its __metadata__ is not one of texts")
    return given


def write_file(
    path: Path, metadata: dict[str, str], forms: dict[str, tuple[str, tuple[int, ...]]], tensors: Iterable[np.ndarray]
) -> int:
    """Writes a file, its tensors in the order of `forms`; `tensors` is consumed one at a time. Returns its tensors' bytes.

    Args:
      forms: {name: (key of DTYPES, shape)}.
      tensors: arrays of these forms.
    """
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    end = 0
    for name, (dtype, shape) in forms.items():
        start, end = end, end + math.prod(shape) * DTYPES[dtype].itemsize
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for (name, (dtype, shape)), tensor in zip(forms.items(), tensors, strict=True):
            if tensor.shape != shape or tensor.dtype != DTYPES[dtype]:
                raise ValueError(f"tensor {name} is {tensor.dtype}{list(tensor.shape)}, declared {dtype}{list(shape)}")
            np.ascontiguousarray(tensor).tofile(file)
    return end
