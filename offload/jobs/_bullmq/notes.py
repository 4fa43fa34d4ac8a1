"""Notes: small texts by name, beside the jobs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from offload.jobs._bullmq.loops import Loops
    from offload.jobs._bullmq.sides import Store
    from offload.jobs._notes import Swap

__all__ = ["BullmqNotes"]


class BullmqNotes:
    """Notes on either server. See `offload.jobs._engine.Notes`.

    Args:
        loops: where the store is used.
        store: operations on the server.
    """

    def __init__(self, loops: Loops, store: Store) -> None:
        self._loops: Final = loops
        self._store: Final = store

    async def read(self, names: Sequence[str]) -> tuple[str | None, ...]:
        """Read notes."""
        return await self._loops.run(self._store.read_notes(names))

    async def find(self, prefix: str) -> dict[str, str]:
        """Read all that begin so."""
        return await self._loops.run(self._store.find_notes(prefix))

    async def swap(self, swaps: Sequence[Swap]) -> tuple[bool, ...]:
        """Change notes."""
        return await self._loops.run(self._store.swap_notes(swaps))
