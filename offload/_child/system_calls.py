"""Calls the kernel directly, for what Python has no name for.

ctypes itself takes three times as long to import as this part of it: a worker that is started with
an interpreter of its own pays for each import.
"""

from __future__ import annotations

import _ctypes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ["Memory", "function"]


class _Char(_ctypes._SimpleCData):  # type: ignore[type-arg]  # noqa: SLF001  # pyright: ignore[reportPrivateUsage, reportMissingTypeArgument]
    _type_ = "c"


class Memory:
    """Bytes at an address, for a structure that refers to others."""

    def __init__(self, data: bytes) -> None:
        array: Any = type("_Array", (_ctypes.Array,), {"_type_": _Char, "_length_": len(data)})
        self._array = array()
        memoryview(self._array).cast("B")[:] = data

    @property
    def address(self) -> int:
        """Where they are, as long as this object exists."""
        return _ctypes.addressof(self._array)


def function(name: str) -> Callable[..., int]:
    """Return a function of the C library, for arguments that are int, bytes or None (NULL).

    Raises:
        OSError: it has none of this name.
    """
    whole_process: Any = None
    address = _ctypes.dlsym(_ctypes.dlopen(whole_process, 0), name)

    def call(*arguments: int | bytes | None) -> int:
        return int(_ctypes.call_function(address, arguments))

    return call
