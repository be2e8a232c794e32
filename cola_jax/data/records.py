"""Bytes -> text, JSON -> the text of a field; anything else is a BadRecord with its location."""

from __future__ import annotations

import json
from typing import Any

from cola_jax import storage
from cola_jax.data.errors import BadRecord


def text_of(raw: bytes, where: str) -> str:
    """Returns UTF-8 bytes as text, a BOM at their start left out.

    Raises:
      BadRecord: for a zero byte, and for bytes that are not UTF-8.
    """
    if b"\x00" in raw:
        raise BadRecord(f"{where} is not text: it has a zero byte (a binary file, or UTF-16?)", "zero byte")
    try:
        return storage.decode(raw, where)
    except storage.StorageError as error:
        raise BadRecord(str(error), "not UTF-8") from error


def json_of(text: str, where: str) -> Any:
    """Returns the value of JSON text. Raises BadRecord if it is not JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadRecord(f"{where} is not JSON: {error}", "not JSON") from error


def field_of(record: Any, field: str, where: str) -> str:
    """Returns the text of a field of a JSON value.

    Raises:
      BadRecord: if the value is not an object, lacks the field, or the field is not text or not valid Unicode.
    """
    if not isinstance(record, dict):
        raise BadRecord(f"{where} is not a JSON object but {type(record).__name__}", "not a JSON object")
    if field not in record:
        known = ", ".join(map(str, record)) or "no field"
        raise BadRecord(f"{where} has no field data.sources.field={field!r}; it has: {known}", "no such field")
    return checked(record[field], field, where)


def checked(value: Any, field: str, where: str) -> str:
    """Returns `value`, that of a field.

    Raises:
      BadRecord: if it is not text, or not valid Unicode.
    """
    if value is None:
        raise BadRecord(f"{where}: data.sources.field={field!r} is null", "null")
    if not isinstance(value, str):
        message = f"{where}: data.sources.field={field!r} must be text, got {type(value).__name__}"
        raise BadRecord(message, "not text")
    try:
        return storage.check_text(value, where)
    except storage.StorageError as error:
        raise BadRecord(str(error), "not valid Unicode") from error
