"""What a function is called where its object is not at hand: in a worker, in a store of jobs."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Reference"]


class Reference(NamedTuple):
    """A function as it crosses to another process; made without importing its module.

    Attributes:
        name: `module:qualname`, for people.
        wire: what a worker finds it by: `module:qualname`, or the pickled function itself where
            its module exists only in this process (a notebook, `python -c`).
    """

    name: str
    wire: str | bytes

    @classmethod
    def named(cls, name: str) -> Reference:
        """Return the reference of the function at `module:qualname`.

        Raises:
            ValueError: `name` is not of that form.
        """
        module, colon, qualname = name.partition(":")
        if not colon or not all(part.isidentifier() for part in f"{module}.{qualname}".split(".")):
            message = f"a function is referred to as module:qualname, not {name!r}"
            raise ValueError(message)
        return cls(name, name)

    @property
    def is_by_value(self) -> bool:
        """Whether the function, its arguments and its result are pickled by value."""
        return isinstance(self.wire, bytes)

    @property
    def module(self) -> str | None:
        """The module that a worker imports for it; None if it is sent by value."""
        return self.wire.partition(":")[0] if isinstance(self.wire, str) else None
