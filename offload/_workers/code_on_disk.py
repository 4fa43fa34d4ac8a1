"""Keeps the program's code as this process has imported it, for workers that import it later.

A worker imports what it needs when it starts, or at its first call of a function, which may be long
after the server did. If the files were replaced meanwhile, by a deployment or an editor, the server
and its workers would run two versions of one program, and what they send each other may not fit.

So the source of the program's own modules is read soon after they were imported, and written to a
log that all workers have open (`offload._wire.code_log`). A worker that imports a module whose file
has changed takes the source from there. What only workers import is read from the disk.
"""

from __future__ import annotations

import mmap
import os
import sys
import threading
import time
import zlib
from collections import deque
from importlib.machinery import ModuleSpec
from typing import TYPE_CHECKING

from offload._wire.code_log import END, LOG_BYTES, NO_STAMP, pack_record, stamp_of
from offload._wire.memory_file import anonymous_file, seal
from offload._workers.keeper import keeper

if TYPE_CHECKING:
    from types import ModuleType

    from offload._wire.code_log import Stamp

__all__ = ["CodeOnDisk", "code_on_disk"]

# The standard library and what is installed: nobody edits that while it runs.
_INSTALLED = tuple(
    os.path.join(prefix, "") for prefix in {sys.prefix, sys.base_prefix, sys.exec_prefix}
)
_INSTALLED_PARTS = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")
# Larger ones are data, as a rule.
_MOST_BYTES = 4 << 20
# How long the keeper may be busy with it at a time.
_READ_SECONDS = 0.005
# After an import: there are more, as a rule.
_LOOK_SECONDS = 0.2


class _Seen:
    """A module, and its file as it was when the module was first seen."""

    __slots__ = ("file", "imported", "is_kept", "is_package", "key", "name", "stamp", "told")

    def __init__(self, key: str, module: ModuleType, file: str, stamp: Stamp) -> None:
        self.key = self.name = key
        self.imported = _imported(module)
        if key == "__main__" and isinstance(self.imported, ModuleSpec):
            self.name = self.imported.name  # of `python -m name`: what workers run
        self.file = file
        self.is_package = hasattr(module, "__path__")
        self.stamp = stamp
        self.is_kept = False
        self.told: Stamp | None = stamp


class CodeOnDisk:
    """The modules of the program: which of their files have changed, and what was in them before.

    Used on the keeper's thread, but for what says otherwise.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holders = 0
        self._seen: dict[str, _Seen] = {}
        self._unread: deque[_Seen] = deque()
        self._log: tuple[int, mmap.mmap] | None = None
        self._end = END.size
        self._will_look = False

    def log(self) -> int | None:
        """Return the descriptor of the log, made at the first call; None: there is no room."""
        if self._log is None:
            try:
                fd = anonymous_file("offload-code")
                os.ftruncate(fd, LOG_BYTES)
                memory = mmap.mmap(fd, LOG_BYTES)
            except OSError:
                return None
            END.pack_into(memory, 0, self._end)
            # We write to our memory. Workers, which have the file open as well, can only read.
            seal(fd)
            self._log = fd, memory
        return self._log[0]

    def look(self) -> tuple[list[str], list[str]]:
        """Look at the files of all modules.

        Returns:
            The files that were written since this process imported them, each once for each time:
            those whose old source was kept, and the others.
        """
        kept: list[str] = []
        lost: list[str] = []
        for seen in self._see_new():
            stamp = stamp_of(seen.file)
            if stamp != seen.told:
                seen.told = stamp
                files = kept if seen.is_kept else lost
                if stamp != seen.stamp and seen.file not in files:
                    files.append(seen.file)
        self._read()
        return kept, lost

    def _see_new(self) -> list[_Seen]:
        """Take note of modules that are new, or were imported again; return all others."""
        self._will_look = False
        others: list[_Seen] = []
        for key, module in list(sys.modules.items()):
            seen = self._seen.get(key)
            if seen is not None and seen.imported is _imported(module):
                others.append(seen)
                continue
            file = getattr(module, "__file__", None)
            if not isinstance(file, str) or _is_installed(file):
                continue
            if seen is not None:
                self.forget(key)
            stamp = stamp_of(file)
            if stamp is not None:  # else it is a part of an archive, or was never on the disk
                self._seen[key] = seen = _Seen(key, module, file, stamp)
                self._unread.append(seen)
        return others

    def _read(self) -> None:
        """Read some of what was not read yet, and then the rest, a little at a time."""
        until = time.monotonic() + _READ_SECONDS
        while self._unread:
            seen = self._unread.popleft()
            if seen.file.endswith(".py") and seen.stamp[1] <= _MOST_BYTES:
                self._keep(seen)
            if time.monotonic() > until and self._unread:
                keeper.post(self._read)
                return

    def _keep(self, seen: _Seen) -> None:
        try:
            with open(seen.file, "rb") as file:
                source = file.read(_MOST_BYTES + 1)
        except OSError:
            return
        if stamp_of(seen.file) != seen.stamp:  # it has been written meanwhile
            return
        data = zlib.compress(source, 1)
        record = pack_record(seen.name, seen.file, seen.stamp, data, is_package=seen.is_package)
        with self._lock:
            if self._seen.get(seen.key) is seen:
                seen.is_kept = self._append(record)

    def _append(self, record: bytes) -> bool:
        end = self._end + len(record)
        if not self._holders or self.log() is None or self._log is None or end > LOG_BYTES:
            return False
        memory = self._log[1]
        memory[self._end : end] = record
        END.pack_into(memory, 0, end)
        self._end = end
        return True

    # On any thread.

    def hold(self) -> None:
        """Keep the log from now on, until as many calls of `release`."""
        with self._lock:
            self._holders += 1

    def release(self) -> None:
        """Let the log go when nobody holds it any more."""
        with self._lock:
            self._holders -= 1
            if self._holders or self._log is None:
                return
            self._close()
            # Whoever opens a pool has what is still as it was read again.
            self._unread = deque(self._seen.values())
            for seen in self._unread:
                seen.is_kept = False

    def _close(self) -> None:
        if self._log is not None:
            fd, memory = self._log
            self._log = None
            self._end = END.size
            memory.close()
            os.close(fd)

    def note_import(self) -> None:
        """Look soon: this process imports something."""
        if not self._will_look:
            self._will_look = True
            keeper.post(self._look_soon)

    def _look_soon(self) -> None:
        keeper.loop.call_later(_LOOK_SECONDS, self._look_for_new)

    def _look_for_new(self) -> None:
        self._see_new()
        self._read()

    def forget(self, module: str) -> None:
        """Have workers read a module from the disk again, as this process is about to do."""
        with self._lock:
            seen = self._seen.pop(module, None)
            if seen is not None and seen.is_kept:
                self._append(pack_record(seen.name, "", NO_STAMP, b""))

    def begin_anew(self) -> None:
        """Have a log of its own: this is a forked copy of the process that has the other one."""
        self._close()
        self.__init__()  # type: ignore[misc]


def _imported(module: ModuleType) -> object:
    """Return what is another one after each import, also by `importlib.reload`."""
    # Scripts have no spec, and are imported once.
    return getattr(module, "__spec__", None) or module


def _is_installed(path: str) -> bool:
    return path.startswith(_INSTALLED) or any(part in path for part in _INSTALLED_PARTS)


code_on_disk = CodeOnDisk()
