"""Writers of all processes take turns, in order of arrival.

SQLite's own lock is polled for, with pauses that grow to 100 ms: of several busy writers, some
wait for seconds and then see "database is locked". The kernel's lock on a file beside it wakes the
next one at once. It only makes for order: what keeps data safe is SQLite's lock.
"""

from __future__ import annotations

import contextlib
import os
import stat
from typing import TYPE_CHECKING

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["Turns"]


class Turns:
    """A context in which one writer at a time is, of all processes on one machine.

    Entering blocks the thread, for as long as another process stands still with its turn; who
    waits for the thread has a timeout of its own.
    """

    def __init__(self, path: str) -> None:
        self._fd = -1
        if fcntl is not None:
            # Not POSIX locks: those of a process end as soon as it closes the file anywhere.
            self._fd = os.open(path + "-turn", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            mode = stat.S_IMODE(os.stat(path).st_mode)
            # Where the owner lets others use the store, they take turns, too.
            if stat.S_IMODE(os.fstat(self._fd).st_mode) != mode:
                with contextlib.suppress(PermissionError):
                    os.fchmod(self._fd, mode)

    def __enter__(self) -> None:
        if fcntl is not None:
            fcntl.flock(self._fd, fcntl.LOCK_EX)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if fcntl is not None:
            fcntl.flock(self._fd, fcntl.LOCK_UN)

    def close(self) -> None:
        """Close the file. A turn that another process has of this same open file is not ended."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
