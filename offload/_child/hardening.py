"""Raises the walls around a hardened worker, before any code of the user's runs in it.

One after the other, each of which the kernel keeps for this process and all that it starts. What
the system does not allow is noted, and the others are raised all the same.
"""

from __future__ import annotations

import os
import resource

from offload._child.landlock import TRUNCATE_ABI, Landlock
from offload._child.os_priority import PR_SET_PDEATHSIG
from offload._child.seccomp import install, is_known_machine, program
from offload._child.system_calls import function
from offload._wire.lean import signal, struct
from offload._wire.walls import (
    ALL_WALLS,
    CAPABILITIES,
    DUMPS,
    FILES,
    NETWORK,
    PRIVILEGES,
    SIGNALS,
    SYSTEM_CALLS,
    USER,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["NotHardenedError", "raise_walls"]

_PR_SET_DUMPABLE = 4
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4
# Past the last one that any kernel knows.
_MOST_CAPABILITIES = 64
# Version and process; then effective, permitted and inheritable, of the lower and the upper 32.
_CAPABILITY_HEADER = struct.Struct("=Ii")
_CAPABILITY_VERSION = 0x20080522
_NO_CAPABILITIES = bytes(24)


class NotHardenedError(Exception):
    """The system does not allow what was asked for."""


def raise_walls(wanted: dict[str, Any]) -> list[str]:
    """Raise all walls that this system allows; return the names of the others.

    Args:
        wanted: `network`, `writable`, `user` (number, group, groups) and `is_strict`, as
            `offload.Hardening` has them.

    Raises:
        NotHardenedError: one is missing, and `is_strict`.
        OSError: what is to be writable is not there.
    """
    missing = _Walls(wanted).missing if os.uname().sysname == "Linux" else list(ALL_WALLS)
    if missing and wanted["is_strict"]:
        raise NotHardenedError(
            f"the pool is to be hardened, and this system does not allow all of it: "
            f"{', '.join(missing)}. The page on operating says what each needs; "
            "Hardening(strict=False) does with what there is"
        )
    return missing


class _Walls:
    """What is raised, in the order in which one needs the other."""

    def __init__(self, wanted: dict[str, Any]) -> None:
        self.missing: list[str] = []
        self._prctl = function("prctl")
        landlock = Landlock()
        # A piped core dump (systemd-coredump, apport) is not bounded by this limit, but by the
        # process not being dumpable; what the process starts is, and has this limit.
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        # While this process still is who may look there.
        ruleset = landlock.prepare(wanted["writable"]) if landlock.abi else None
        for capability in range(_MOST_CAPABILITIES):
            self._prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
        is_another = self._become(wanted["user"])
        self._drop_capabilities()
        self._note(PRIVILEGES, self._prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0)
        self._note(DUMPS, self._prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) == 0)
        is_read_only = ruleset is not None and landlock.enter(ruleset)
        has_filter = self._filter(wanted, is_read_only, landlock.abi)
        self._note(FILES, is_read_only and has_filter)
        self._note(SIGNALS, is_another or (is_read_only and landlock.has_scopes))
        self._note(SYSTEM_CALLS, has_filter)
        if not wanted["network"]:
            self._note(NETWORK, has_filter)

    def _note(self, wall: str, is_there: bool) -> None:  # noqa: FBT001 - private
        if not is_there:
            self.missing.append(wall)

    def _become(self, user: tuple[int, int, list[int]] | None) -> bool:
        """Become another user, if that is asked for; return whether that was done."""
        if user is None:
            return False
        uid, gid, groups = user
        supervisor = os.getppid()
        try:
            os.setgroups(groups)
            os.setresgid(gid, gid, gid)
            os.setresuid(uid, uid, uid)
        except OSError:
            self.missing.append(USER)
            return False
        # The kernel has forgotten it with the user that this was.
        self._prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != supervisor:
            os._exit(1)
        return True

    def _drop_capabilities(self) -> None:
        self._prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
        header = _CAPABILITY_HEADER.pack(_CAPABILITY_VERSION, 0)
        self._note(CAPABILITIES, function("capset")(header, _NO_CAPABILITIES) == 0)

    def _filter(self, wanted: dict[str, Any], is_read_only: bool, abi: int) -> bool:  # noqa: FBT001
        if not is_known_machine():
            return False
        return install(
            program(
                os.uname().machine,
                network=wanted["network"],
                can_change=not is_read_only,
                can_truncate=not is_read_only or abi >= TRUNCATE_ABI,
            ),
            self._prctl,
        )


def harden(settings: dict[str, Any]) -> None:
    """Raise the walls that a pool asks for, and note what came of it for the worker to tell.

    Args:
        settings: of the worker; `start_error` and `missing_walls` are set.
    """
    if settings["walls"]["user"] is not None:
        from importlib import import_module

        # What tells that another user cannot read the code must be there already.
        import_module("traceback")
    try:
        settings["missing_walls"] = raise_walls(settings["walls"])
    except (NotHardenedError, OSError) as error:
        settings["start_error"] = str(error)
