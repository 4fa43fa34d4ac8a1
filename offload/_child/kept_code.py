"""Modules with the code that the server has, where their files have changed since it imported them.

See `offload._workers.code_on_disk`.
"""

from __future__ import annotations

import os
import sys

from offload._wire.code_log import END, NO_STAMP, records, stamp_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from offload._wire.code_log import CodeRecord

__all__ = ["find_kept_code", "kept_source"]


def find_kept_code(log: int | None) -> None:
    """Have `import` look into the server's log first.

    Args:
        log: its descriptor; None: there is none.
    """
    if log is not None:
        os.set_inheritable(log, False)  # it had to be, to come here
        _finder.log = log
        sys.meta_path.insert(0, _finder)


def kept_source(name: str, file: str) -> bytes | None:
    """Return the source that the server has of a module's file; None: that on the disk."""
    record = _finder.record(name)
    return None if record is None or record.file != file else record.source(_finder.log)


class _Finder:
    def __init__(self) -> None:
        self.log = -1
        self._next = END.size
        self._records: dict[str, CodeRecord] = {}

    def record(self, name: str) -> CodeRecord | None:
        """Return what was kept of a module, if its file has changed since."""
        if self.log < 0:
            return None
        for each, record, end in records(self.log, self._next):
            self._records[each] = record
            self._next = end
        found = self._records.get(name)
        if found is None or found.stamp == NO_STAMP or stamp_of(found.file) == found.stamp:
            return None
        return found

    def find_spec(self, name: str, _path: Any = None, target: Any = None) -> Any:
        record = self.record(name)
        # What is reloaded here is to be what is on the disk.
        if record is None or target is not None:
            return None
        import linecache
        from importlib.machinery import SourceFileLoader
        from importlib.util import decode_source, spec_from_file_location

        source, file = record.source(self.log), record.file
        # For tracebacks. An entry without a time is not compared with the file.
        lines = decode_source(source).splitlines(keepends=True)
        linecache.cache[file] = len(source), None, lines, file

        class KeptLoader(SourceFileLoader):
            def get_data(self, path: str) -> bytes:
                return source if path == file else super().get_data(path)

            def path_stats(self, path: str) -> Any:
                # So that the compiled file beside it, which is of another version, is neither read
                # nor written.
                raise OSError(path)

        return spec_from_file_location(
            name,
            file,
            loader=KeptLoader(name, file),
            submodule_search_locations=[os.path.dirname(file)] if record.is_package else None,
        )


_finder = _Finder()
