"""The tasks of one function in an open pool, with the function's account."""

from __future__ import annotations

from typing import TYPE_CHECKING

from offload._decisions.words import Lane

if TYPE_CHECKING:
    from offload._pool.accounts import FunctionAccount

__all__ = ["FunctionLane"]


class FunctionLane(Lane):
    """A lane, and where what becomes of its calls is counted."""

    __slots__ = ("account",)

    def __init__(self, account: FunctionAccount, limit: int | None) -> None:
        super().__init__(limit, account.name)
        self.account = account
