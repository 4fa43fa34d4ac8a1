"""The settings of the demo server: defaults, the environment, and what is allowed."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["PREFIX", "OsPriority", "Settings", "SettingsError"]

PREFIX = "DEMO_"
OsPriority = Literal["idle", "low", "normal"]


class SettingsError(ValueError):
    """One or more settings are wrong; the text names each, its value and what is allowed."""


def _integer(text: str) -> int:
    # Not int() alone, which also takes "1_000" and digits of other scripts.
    if not (text.isascii() and text.removeprefix("-").isdigit()):
        raise ValueError("not a whole number")
    return int(text)


def _seconds(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError("not a number of seconds") from None


def _switch(text: str) -> bool:
    switches = {"1": True, "true": True, "yes": True, "on": True}
    switches |= {"0": False, "false": False, "no": False, "off": False}
    if text.lower() not in switches:
        raise ValueError("neither on nor off")
    return switches[text.lower()]


def _priority(text: str) -> OsPriority:
    known: tuple[OsPriority, ...] = ("idle", "low", "normal")
    for each in known:
        if text == each:
            return each
    raise ValueError("must be idle, low or normal")


@dataclass(frozen=True, slots=True)
class _Rule:
    # How the text of one setting is read, which numbers are allowed, and what --help says of it.
    read: Callable[[str], Any]
    help: str
    least: float = -math.inf
    greatest: float = math.inf

    def check(self, value: object) -> None:
        if not isinstance(value, int | float) or isinstance(value, bool):
            return
        # Written so that NaN, which compares false with everything, is refused.
        if not self.least <= value <= self.greatest:
            if math.isinf(self.greatest):
                raise ValueError(f"must be {self.least} or more")
            raise ValueError(f"must be from {self.least} to {self.greatest}")


def _setting(default: Any, rule: _Rule) -> Any:
    return field(default=default, metadata={"rule": rule})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What can be set, each by an environment variable with the prefix `DEMO_`.

    Raises:
        SettingsError: a value is out of its range, or `default_n` is above `max_n`.
    """

    host: str = _setting("127.0.0.1", _Rule(str, "address to listen on"))
    port: int = _setting(
        8000, _Rule(_integer, "port to listen on; 0: any free one", least=0, greatest=65535)
    )
    access_log: bool = _setting(default=False, rule=_Rule(_switch, "log every request"))
    watchdog: bool = _setting(default=True, rule=_Rule(_switch, "name what holds the event loop"))
    workers: int | None = _setting(
        None, _Rule(_integer, "worker processes; unset: as the CPUs allow", least=1, greatest=256)
    )
    os_priority: Literal["idle", "low", "normal"] = _setting(
        "idle", _Rule(_priority, "of workers: idle, low, or normal, beside busy programs")
    )
    jobs: str | None = _setting(
        None, _Rule(str, "where jobs are, as redis://localhost; else OFFLOAD_JOBS, else a file")
    )
    max_queued: int = _setting(
        1000, _Rule(_integer, "calls that may wait; more get a 503", least=0, greatest=1_000_000)
    )
    queue_timeout: float = _setting(
        30.0, _Rule(_seconds, "seconds a call may wait; then 503", least=0.001, greatest=3600)
    )
    timeout: float = _setting(
        30.0, _Rule(_seconds, "seconds a call may run; then 504", least=0.001, greatest=3600)
    )
    drain: float = _setting(
        2.0, _Rule(_seconds, "seconds that requests get at the end", least=0, greatest=3600)
    )
    default_n: int = _setting(
        100_000, _Rule(_integer, "n of /heavy where none is given", least=0, greatest=10**9)
    )
    max_n: int = _setting(
        2_000_000, _Rule(_integer, "greatest n that /heavy takes", least=0, greatest=10**9)
    )
    max_body_bytes: int = _setting(
        16 * 2**20, _Rule(_integer, "greatest upload in bytes", least=1, greatest=2**30)
    )
    max_pixels: int = _setting(
        50_000_000, _Rule(_integer, "pixels of the greatest image", least=1, greatest=10**9)
    )
    max_size: int = _setting(
        2048, _Rule(_integer, "greatest side of a thumbnail", least=1, greatest=10_000)
    )

    def __post_init__(self) -> None:
        """Check all of them, so that one run tells everything that is wrong."""
        problems: list[str] = []
        for name, rule in _rules().items():
            value: object = getattr(self, name)
            try:
                rule.check(value)
            except ValueError as error:
                problems.append(f"{name}={value}: {error}")
        if self.default_n > self.max_n:
            problems.append(f"default_n={self.default_n}: above max_n={self.max_n}")
        if not self.host:
            problems.append("host: must not be empty")
        if problems:
            raise SettingsError("; ".join(problems))

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Self:
        """Read the settings from the variables that are set; an empty one counts as unset.

        Jobs without a setting of their own are where those of every program are: in `OFFLOAD_JOBS`.

        Raises:
            SettingsError: one of them cannot be read or is out of its range.
        """
        values: dict[str, Any] = {}
        problems: list[str] = []
        for name, rule in _rules().items():
            variable = PREFIX + name.upper()
            text = environment.get(variable, "").strip()
            if name == "jobs":
                text = text or environment.get("OFFLOAD_JOBS", "").strip()
            if not text:
                continue
            try:
                values[name] = rule.read(text)
                rule.check(values[name])
            except ValueError as error:
                problems.append(f"{variable}={text}: {error}")
        if problems:
            raise SettingsError("; ".join(problems))
        return cls(**values)

    @staticmethod
    def describe() -> list[str]:
        """Return one line for each variable: its name, what it sets and the default."""
        return [
            f"{PREFIX + each.name.upper():<20} {each.metadata['rule'].help} [{_text(each.default)}]"
            for each in fields(Settings)
        ]


def _text(default: object) -> str:
    if default is None:
        return "unset"
    return ("off", "on")[default] if isinstance(default, bool) else str(default)


def _rules() -> dict[str, _Rule]:
    return {each.name: each.metadata["rule"] for each in fields(Settings)}
