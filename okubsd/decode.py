"""JSON as values, the same with every version of the library that reads it."""

from __future__ import annotations

from typing import TypeVar

import msgspec

T = TypeVar("T")


def read_json(data: bytes | str, kind: type[T]) -> T:
    """Return ``data`` as a value of this ``kind``.  Raises ValueError where it is none, or not in UTF-8."""
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.MsgspecError as error:
        # Only newer versions of the library make this a ValueError by itself.
        raise ValueError(str(error)) from None
