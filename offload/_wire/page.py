"""The memory that a worker shares with its parent: a page of words, and a buffer each way.

    shared file:  page of words │ buffer to the worker │ buffer from the worker

One side writes a word, the other reads it, without a system call. Words have eight bytes, as a
memoryview cast to "Q" has them.
"""

from __future__ import annotations

import os

__all__ = [
    "BUFFER_BYTES",
    "CANCEL",
    "FROM_WORKER",
    "OUT_FULL",
    "PAGE_BYTES",
    "RECEIVED",
    "REPLIED",
    "STARTED",
    "TO_WORKER",
    "has_shared_buffers",
    "shared_bytes",
]

PAGE_BYTES = 4096

# Written by the parent: not 0 when the task is to stop.
CANCEL = 0
# Written by the worker: the number of the last task that it received.
RECEIVED = 1
# Written by the worker: the number of the last task whose function it entered.
STARTED = 2
# Written by both: not 0 while the parent has yet to empty the buffer from the worker.
OUT_FULL = 3
# Written by the worker: the number of the last task that it is sending a reply to.
REPLIED = 4

# What the event loop may copy at once: within its millisecond on slow memory too. Both buffers of a
# worker take that much memory from when they are used first.
BUFFER_BYTES = 2 << 20
TO_WORKER = PAGE_BYTES
FROM_WORKER = TO_WORKER + BUFFER_BYTES


def has_shared_buffers() -> bool:
    """Return whether workers that this process starts share buffers with it."""
    # Only in memory: a full disk could report itself only by a signal that ends us (SIGBUS, for a
    # mapped page that cannot be had).
    return hasattr(os, "memfd_create")


def shared_bytes() -> int:
    """Return the size of the file that a worker shares with its parent."""
    return FROM_WORKER + BUFFER_BYTES if has_shared_buffers() else PAGE_BYTES
