"""Roles: what a program does of all that its code base can."""

from __future__ import annotations

import os
from contextlib import contextmanager
from enum import Flag
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Generator

__all__ = ["ENVIRONMENT", "Role", "current_role", "role_entered", "role_of"]

ENVIRONMENT: Final = "OFFLOAD_ROLE"
_ALL: Final = "all"

# Of the programs that are open in this process: more than one only in tests and the like.
_entered: Final[list[Role]] = []


class Role(Flag):
    """What a program does; they combine, as in `Role.WEB | Role.WORKER`.

    A role is false if it is none: `Role(0)`.
    """

    WEB = 1
    """It answers requests."""
    WORKER = 2
    """It runs jobs."""
    SCHEDULER = 4
    """It fires schedules."""

    def __str__(self) -> str:
        """Return the names, as `parse` takes them."""
        return ",".join(str(each.name).lower() for each in self)

    @classmethod
    def every(cls) -> Role:
        """Return all of them, combined."""
        return ~cls(0)

    @classmethod
    def parse(cls, text: str) -> Role:
        """Return the role of its name, of several names, or of "all".

        Args:
            text: such as "web", "web,worker" or "all".

        Raises:
            ValueError: it names no role, or one that there is not.
        """
        found = cls(0)
        for name in (each.strip().lower() for each in text.split(",")):
            if name == _ALL:
                found = cls.every()
            elif name:
                if name.upper() not in cls.__members__:
                    raise ValueError(f"there is no role {name!r}: {_choices()}")
                found |= cls[name.upper()]
        if not found:
            raise ValueError(f"{text!r} names no role: {_choices()}")
        return found


def _choices() -> str:
    return f"choose of {', '.join(str(each) for each in Role)}, or {_ALL}"


def role_of(role: Role | str | None) -> Role | None:
    """Return the role that is named; None: as OFFLOAD_ROLE says, None where it says nothing.

    Raises:
        TypeError: it is neither a role nor a text.
        ValueError: there is no such role.
    """
    if role is None:
        text = os.environ.get(ENVIRONMENT, "")
        if not text.strip():
            return None
        try:
            return Role.parse(text)
        except ValueError as error:
            raise ValueError(f"{ENVIRONMENT}: {error}") from error
    if isinstance(role, str):
        return Role.parse(role)
    if not isinstance(role, Role):
        raise TypeError(f"role must be a Role or its name, not {role!r}")
    if not role:
        raise ValueError(f"a program has a role: {_choices()}")
    return role


def current_role() -> Role:
    """Return the role of this process.

    It is that of the `Program` or `lifespan` that is open, or of the command that the process was
    started by; else what `OFFLOAD_ROLE` says, as in the worker processes of a pool.

    Returns:
        One role or several; none, which is false, in a process that was not told: a script, a
        test, a server whose lifespan has not begun.

    Raises:
        ValueError: `OFFLOAD_ROLE` names a role that there is not.
    """
    if _entered:
        found = Role(0)
        for each in _entered:
            found |= each
        return found
    return role_of(None) or Role(0)


@contextmanager
def role_entered(role: Role) -> Generator[None]:
    """Have a role for as long as this is open."""
    _entered.append(role)
    try:
        yield
    finally:
        _entered.remove(role)
