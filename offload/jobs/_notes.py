"""Notes: small texts by name that engines keep beside the jobs, for what is built on jobs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Notes", "Swap"]


@dataclass(frozen=True, slots=True)
class Swap:
    """A change of a note, if it is what it is thought to be.

    Attributes:
        name: of the note; any text of 1 to 300 characters.
        expected: its text; None: there is none of that name.
        value: its new text; None: forget it.
        lifetime: seconds after which it is forgotten by itself; None: never.
    """

    name: str
    expected: str | None
    value: str | None
    lifetime: float | None = None


class Notes(Protocol):
    """Small texts by name, beside the jobs: what schedules keep. Durable, like jobs.

    Cancellation: a change may or may not have been made.

    Raises:
        JobsUnavailableError: as of `Engine`.
    """

    async def read(self, names: Sequence[str]) -> tuple[str | None, ...]:
        """Return the texts of `names`, in that order; None for those that are not there."""
        ...

    async def find(self, prefix: str) -> dict[str, str]:
        """Return the notes whose names begin with `prefix`: those without a lifetime."""
        ...

    async def swap(self, swaps: Sequence[Swap]) -> tuple[bool, ...]:
        """Change notes, each by itself and in one step, whoever else would do it.

        Returns:
            Whether each note now is as wanted: it was as expected, or had its new text already.
            So a swap can be repeated when it is not known whether it was made. The lifetime begins
            anew each time.
        """
        ...
