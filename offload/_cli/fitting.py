"""What fits a terminal: which columns of a table, and how many rows of each of several tables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["GAP", "Column", "fit", "share"]

# Between two columns.
GAP = 2
# A text column as wide as this, or two thirds of the terminal, is wide enough for others to stay.
_WIDE = 60


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table.

    Args:
        title: its heading.
        rank: columns of the highest rank are dropped first; those of rank 0 always stay.
        least: characters kept free for it, so that columns do not come and go with their figures.
        is_number: aligned to the right, and never cut.
        wanted: of a text, how wide it is before others are dropped for it; None: as wide as it is.
        keeps_end: of a text that is cut, the end stays instead of the beginning.
    """

    title: str
    rank: int = 0
    least: int = 0
    is_number: bool = False
    wanted: int | None = None
    keeps_end: bool = False


def fit(columns: Sequence[Column], widths: Sequence[int], room: int) -> list[int | None]:
    """Return the width of each column, None for those that are dropped.

    Numbers are dropped before a text is cut.

    Args:
        columns: in the order in which they are shown.
        widths: of the longest cell of each, the heading included.
        room: how many characters there are.
    """
    natural = [max(width, each.least) for width, each in zip(widths, columns, strict=True)]
    longest = max(_WIDE, room * 2 // 3)
    wanted = [
        width if each.is_number else min(width, longest if each.wanted is None else each.wanted)
        for width, each in zip(natural, columns, strict=True)
    ]
    kept = set(range(len(columns)))

    def total() -> int:
        return sum(wanted[each] for each in kept) + GAP * (len(kept) - 1)

    while total() > room:
        droppable = [each for each in kept if columns[each].rank]
        if not droppable:
            break
        kept.remove(max(droppable, key=lambda each: (columns[each].rank, each)))
    texts = [each for each in sorted(kept) if not columns[each].is_number]
    # What is left goes to the texts, in order; what is missing, they give, the widest first.
    spare = room - total()
    for each in texts:
        more = min(max(spare, 0), natural[each] - wanted[each])
        wanted[each] += more
        spare -= more
    while spare < 0 and any(wanted[each] > 1 for each in texts):
        widest = max(texts, key=lambda each: wanted[each])
        wanted[widest] -= 1
        spare += 1
    return [wanted[each] if each in kept else None for each in range(len(columns))]


def share(room: int, wants: Sequence[int], weights: Sequence[int]) -> list[int]:
    """Return how many rows each of several tables gets.

    Args:
        room: how many rows there are; None of the tables that want any goes without one.
        wants: how many rows each has.
        weights: how many rows each gets in a turn, as long as there are any.
    """
    given = [min(want, 1) for want in wants]
    left = room - sum(given)
    while left > 0 and given != list(wants):
        for index, weight in enumerate(weights):
            more = min(weight, wants[index] - given[index], left)
            given[index] += more
            left -= more
    return given
