"""Files without a name, and what keeps another process from making one shorter.

Whoever maps a file that somebody else then truncates is ended by the kernel when it touches what is
no more (SIGBUS): no code could catch that. So a file that crosses is sealed by whoever made it, and
whoever gets one looks at its seals before it maps it (memfd_create(2), fcntl(2)).
"""

from __future__ import annotations

import os
import stat

__all__ = ["anonymous_file", "can_seal", "seal", "sealed_size"]

# Numbers of Linux, since `fcntl` has names for all of them from Python 3.12 on only.
_ADD_SEALS, _GET_SEALS = 1033, 1034
_NO_SEALS, _NO_SHRINKING, _NO_GROWING, _NO_NEW_WRITING = 0x1, 0x2, 0x4, 0x10


def can_seal() -> bool:
    """Return whether files without a name are in memory here, and can be sealed."""
    return hasattr(os, "memfd_create")


def anonymous_file(label: str = "offload") -> int:
    """Return the descriptor of a new file without a name; `label` is what /proc shows it as."""
    if can_seal():
        return os.memfd_create(label, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    import tempfile

    # macOS: an unlinked temporary file; the page cache keeps a short-lived one off the disk.
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def seal(fd: int, *, is_written: bool = True) -> None:
    """Have an anonymous file keep its size; does nothing where there are no seals.

    Args:
        fd: a file of `anonymous_file`.
        is_written: nobody will write to it any more.
    """
    if not can_seal():
        return
    import fcntl

    seals = _NO_SEALS | _NO_SHRINKING | _NO_GROWING
    # Not F_SEAL_WRITE, for which the kernel looks at each page: 512 MiB took it 18 ms.
    for more in (_NO_NEW_WRITING, 0) if is_written else (0,):
        try:
            fcntl.fcntl(fd, _ADD_SEALS, seals | more)
        except OSError:  # before Linux 5.1
            continue
        return


def sealed_size(fd: int) -> int | None:
    """Return the size of a file that nobody can make shorter; None: somebody may."""
    if not can_seal():
        return None
    import fcntl

    try:
        if not fcntl.fcntl(fd, _GET_SEALS) & _NO_SHRINKING:
            return None
        status = os.fstat(fd)
    except OSError:  # no file in memory at all
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None
