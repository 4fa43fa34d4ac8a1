"""The page of memory that a worker shares with its parent.

One side writes a word, the other reads it, without a system call. Words have eight bytes, as a
memoryview cast to "Q" has them.
"""

from __future__ import annotations

__all__ = ["CANCEL", "OUT_FULL", "PAGE_BYTES", "RECEIVED", "REPLIED", "STARTED"]

PAGE_BYTES = 4096

# Written by the parent: not 0 when the task is to stop.
CANCEL = 0
# Written by the worker: the number of the last task that it took.
RECEIVED = 1
# Written by the worker: the number of the last task whose function it entered.
STARTED = 2
# Written by both: not 0 while the parent has yet to empty the worker's out-tray.
OUT_FULL = 3
# Written by the worker: the number of the last task that it is sending a reply to.
REPLIED = 4
