"""What of a value JSON holds as it is, asked of many values at once.

To look at each of them from Python takes several times as long as to write them. So they are looked
at by levels: all items of a list, then all that is in these, and so on, with calls that go through
a whole level in C. Only exact types pass, since `json` writes subclasses, and ints as keys, as what
they are not.
"""

from __future__ import annotations

from itertools import chain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection
    from typing import Any

__all__ = [
    "LEAST_CHARACTERS",
    "LONG_LIST",
    "LONG_TEXT",
    "NUMBER_CHARACTERS",
    "PLAIN_INT",
    "are_names",
    "number_format",
    "plain_size",
]

# Longer texts are buffers, but where many values are written at once.
LONG_TEXT = 4096
# Longer lists are looked at by themselves: they may be numbers, which are buffers.
LONG_LIST = 128
# What every reader of JSON takes for an int.
PLAIN_INT = 1 << 63
NUMBER_CHARACTERS = 20
LEAST_CHARACTERS = 4

_PLAIN = frozenset({str, int, float, bool, type(None), list, dict})
_NUMBERS = frozenset({int, float})
_CONTAINERS = frozenset({list, dict})


def plain_size(  # noqa: PLR0911 - one for each reason
    values: list[Any], most: int, levels: int
) -> int | None:
    """Return how many characters of JSON some values are, about.

    Args:
        values: some values.
        most: of characters. Who has more is told any number above it.
        levels: how deep they may be nested.

    Returns:
        None if they are not all plain: of other types, or long lists, or nested more deeply.
    """
    size = 0
    level = values
    for _ in range(levels):
        kinds = set(map(type, level))
        if not kinds <= _PLAIN:
            return None
        if int in kinds and not _are_short(_of(int, level, kinds)):
            return None
        each = LEAST_CHARACTERS if kinds.isdisjoint(_NUMBERS) else NUMBER_CHARACTERS
        size += len(level) * each
        if str in kinds:
            size += sum(map(len, _of(str, level, kinds)))
        if kinds.isdisjoint(_CONTAINERS):
            return size
        lists, dicts = _of(list, level, kinds), _of(dict, level, kinds)
        if lists and max(map(len, lists)) > LONG_LIST:
            return None
        # Before any of it is copied.
        entries = sum(map(len, lists)) + sum(map(len, dicts))
        if size + entries * LEAST_CHARACTERS > most:
            return most + 1
        if not entries:
            return size
        keys = list(chain.from_iterable(dicts))
        if keys and not _are_texts(keys):
            return None
        size += sum(map(len, keys)) + len(keys) * LEAST_CHARACTERS
        level = list(chain.from_iterable(lists))
        level += chain.from_iterable(map(dict.values, dicts))
    return None


def _of(kind: type, level: list[Any], kinds: set[type]) -> list[Any]:
    if kind not in kinds:
        return []
    return level if len(kinds) == 1 else [value for value in level if type(value) is kind]


def _are_short(ints: list[int]) -> bool:
    return min(ints) >= -PLAIN_INT and max(ints) < PLAIN_INT


def are_names(keys: Collection[Any]) -> bool:
    """Return whether some keys can be those of an object of JSON, as it stands for a dict."""
    return not keys or (_are_texts(keys) and max(map(len, keys)) <= LONG_TEXT)


def _are_texts(keys: Collection[Any]) -> bool:
    """Return whether keys are all texts, and none the one that marks what JSON has not."""
    return set(map(type, keys)) == {str} and "$" not in keys


def number_format(values: list[Any]) -> str | None:
    """Return the format of `struct` of numbers that are all of one type; None: of anything else."""
    kinds = set(map(type, values))
    if kinds == {float}:
        return "d"
    return "q" if kinds == {int} and _are_short(values) else None
