"""What `offload top` is asked to show: order, filter, pool, and which keys change them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING, Any

from offload._values.outcome import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

__all__ = ["KEYS", "SORTS", "Mode", "View"]

_OUTCOMES = tuple(outcome.value for outcome in Outcome)
_PAGE = 10
_STEPS = {"j": 1, "down": 1, "k": -1, "up": -1, "page down": _PAGE, "page up": -_PAGE}

# Key, and what it does: what the help shows.
KEYS = (
    ("s, S", "sort functions by the next, or the previous, figure"),
    ("/", "filter: show only functions whose name has this text"),
    ("p", "show one pool after the other, then all"),
    ("j, k, arrows", "scroll the functions"),
    ("PgUp, PgDn", f"scroll by {_PAGE} functions"),
    ("Escape", "no filter, all pools; from here, back"),
    ("?", "this help"),
    ("q, Ctrl+C", "quit"),
)


def _calls(function: Mapping[str, Any]) -> int:
    return sum(function[outcome] for outcome in _OUTCOMES)


def _busy(function: Mapping[str, Any]) -> tuple[float, ...]:
    return function["running"], function["run"]["mean"] * function["run"]["count"]


# Name of each order, and the figure that it goes by, the greatest first.
SORTS: dict[str, Callable[[Mapping[str, Any]], Any]] = {
    "busy": _busy,
    "calls": _calls,
    "queued": lambda function: function["queued"],
    "run p99": lambda function: function["run"]["p99"],
    "wait p99": lambda function: function["wait"]["p99"],
    "failures": lambda function: _calls(function) - function["completed"],
}
_BY_NAME = "name"
_ORDERS = (*SORTS, _BY_NAME)


class Mode(Enum):
    """What the keys mean at the moment."""

    TABLES = "tables"
    TYPING = "typing a filter"
    HELP = "help"
    DONE = "done"


@dataclass(frozen=True, slots=True)
class View:
    """What is shown. Each key makes a new one.

    Args:
        sort: the order of functions, one of `SORTS` or "name".
        needle: only functions whose names have this text, in any case.
        pool: only this pool; None: all.
        first: how many functions are scrolled past.
        mode: what the keys mean.
    """

    sort: str = "busy"
    needle: str = ""
    pool: str | None = None
    first: int = 0
    mode: Mode = Mode.TABLES

    def press(self, key: str, state: Mapping[str, Any]) -> View:
        """Return the view after a key.

        Args:
            key: as `offload._cli.keys` names it.
            state: the dashboard's, of which something is shown.
        """
        if key == "interrupt":
            return replace(self, mode=Mode.DONE)
        if self.mode is Mode.TYPING:
            return self._type(key)
        if self.mode is Mode.HELP:
            return replace(self, mode=Mode.DONE if key in ("q", "Q") else Mode.TABLES)
        return replace(self, **self._command(key, state))

    def _type(self, key: str) -> View:
        if key == "enter":
            return replace(self, mode=Mode.TABLES)
        if key == "escape":
            return replace(self, mode=Mode.TABLES, needle="", first=0)
        if key == "backspace":
            return replace(self, needle=self.needle[:-1], first=0)
        if len(key) == 1 and key.isprintable():
            return replace(self, needle=self.needle + key, first=0)
        return self

    def _command(self, key: str, state: Mapping[str, Any]) -> dict[str, Any]:
        """Return what a key changes."""
        match key:
            case "q" | "Q":
                return {"mode": Mode.DONE}
            case "?" | "h":
                return {"mode": Mode.HELP}
            case "/":
                return {"mode": Mode.TYPING}
            case "escape":
                return {"needle": "", "pool": None, "first": 0}
            case "s" | "S":
                step = 1 if key == "s" else -1
                at = (_ORDERS.index(self.sort) + step) % len(_ORDERS)
                changes = {"sort": _ORDERS[at], "first": 0}
            case "p":
                choices = (None, *(each["name"] for each in state["pools"]))
                at = choices.index(self.pool) + 1 if self.pool in choices else 0
                changes = {"pool": choices[at % len(choices)], "first": 0}
            case _:
                last = max(len(self.functions_of(self.pools_of(state))) - 1, 0)
                changes = {"first": min(max(self.first + _STEPS.get(key, 0), 0), last)}
        return changes

    # --- what of a state it shows ---

    def pools_of(self, state: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return the pools that are shown; all, if the chosen one is gone."""
        pools: list[dict[str, Any]] = state["pools"]
        return [each for each in pools if each["name"] == self.pool] or pools

    def has_name(self, function: str | None) -> bool:
        """Return whether the filter lets a function through."""
        return not self.needle or self.needle.lower() in (function or "").lower()

    def functions_of(
        self, pools: Iterable[Mapping[str, Any]]
    ) -> list[tuple[Mapping[str, Any], dict[str, Any]]]:
        """Return the functions that are shown, each after its pool, in order."""
        found = [
            (pool, function)
            for pool in pools
            for function in pool["functions"]
            if self.has_name(function["name"])
        ]
        # By name first: equal figures keep their places from frame to frame.
        found.sort(key=lambda each: each[1]["name"])
        if self.sort != _BY_NAME:
            figure = SORTS[self.sort]
            found.sort(key=lambda each: figure(each[1]), reverse=True)
        return found
