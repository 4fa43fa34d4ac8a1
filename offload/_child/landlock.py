"""What a worker may write to, and signal: Landlock, the kernel's walls for who needs no right.

A domain is for this thread and all that it starts, for good. The kernel knows more from version to
version, and says which it has (its ABI).

Source:
    landlock(7); https://docs.kernel.org/userspace-api/landlock.html
"""

from __future__ import annotations

import os
import stat

from offload._child.system_calls import function
from offload._wire.lean import struct

__all__ = ["TRUNCATE_ABI", "Landlock"]

_CREATE, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION = 1
_PATH_BENEATH = 1
# Rights on files, and on what is in a folder; all that changes something.
_WRITE_FILE = 1 << 1
_REMOVE_AND_MAKE = sum(1 << bit for bit in range(4, 13))
_REFER = 1 << 13
_TRUNCATE = 1 << 14
_IOCTL_DEVICE = 1 << 15
REFER_ABI, TRUNCATE_ABI, IOCTL_ABI, SCOPE_ABI = 2, 3, 5, 6
_SCOPE_ABSTRACT_SOCKETS, _SCOPE_SIGNALS = 1 << 0, 1 << 1
# handled_access_fs, handled_access_net, scoped.
_RULESET = struct.Struct("=QQQ")
# allowed_access, parent_fd.
_RULE = struct.Struct("=Qi")


class Landlock:
    """What this kernel has of it; `abi` is 0 where that is nothing."""

    def __init__(self) -> None:
        self._call = function("syscall")
        self.abi = max(self._call(_CREATE, None, 0, _VERSION), 0)

    @property
    def has_scopes(self) -> bool:
        """Whether it keeps signals inside."""
        return self.abi >= SCOPE_ABI

    def prepare(self, writable: list[str]) -> int:
        """Make a ruleset by which nothing may be changed but what is named; return its descriptor.

        Args:
            writable: files, and folders with all that is below them.

        Raises:
            OSError: one of them is not there, or the kernel refused.
        """
        rights = _WRITE_FILE | _REMOVE_AND_MAKE
        on_files = _WRITE_FILE
        for bit, abi in (
            (_REFER, REFER_ABI),
            (_TRUNCATE, TRUNCATE_ABI),
            (_IOCTL_DEVICE, IOCTL_ABI),
        ):
            if self.abi >= abi:
                rights |= bit
                on_files |= bit & ~_REFER
        scopes = _SCOPE_ABSTRACT_SOCKETS | _SCOPE_SIGNALS if self.has_scopes else 0
        ruleset = self._call(_CREATE, _RULESET.pack(rights, 0, scopes), _RULESET.size, 0)
        if ruleset < 0:
            raise OSError("the kernel made no Landlock ruleset")
        try:
            # What is written there is nowhere.
            for path in {"/dev/null", *writable}:
                self._allow(ruleset, path, rights, on_files)
        except BaseException:
            os.close(ruleset)
            raise
        return ruleset

    def _allow(self, ruleset: int, path: str, rights: int, on_files: int) -> None:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            allowed = rights if stat.S_ISDIR(os.fstat(fd).st_mode) else on_files
            if self._call(_ADD_RULE, ruleset, _PATH_BENEATH, _RULE.pack(allowed, fd), 0):
                raise OSError(f"the kernel took no Landlock rule for {path!r}")
        finally:
            os.close(fd)

    def enter(self, ruleset: int) -> bool:
        """Live by a ruleset from now on, and close it; False if the kernel refused."""
        try:
            return self._call(_RESTRICT_SELF, ruleset, 0) == 0
        finally:
            os.close(ruleset)
