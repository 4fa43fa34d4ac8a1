"""Where the file is, from a URL; and whether that is a place for it."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qsl, quote, unquote, urlsplit

__all__ = ["DEFAULT_PATH", "Location", "create_file", "network_filesystem", "parse_url"]

# In the project, as its virtual environment is: programs of one code base meet here, and others
# do not. Relative to the working directory.
DEFAULT_PATH: Final = os.path.join(".offload", "jobs.sqlite3")

_OPTIONS: Final = ("synchronous", "timeout")
# What needs no escape in the path of a URL of ours.
_PLAIN: Final = "/ !$&'()*+,:;=@[]"
# WAL needs shared memory between all who use the file, which these do not give, and locks, which
# several of them give by halves. https://sqlite.org/wal.html, https://sqlite.org/faq.html#q5
_NETWORK_FILESYSTEMS: Final = frozenset(
    {
        "9p",
        "afs",
        "ceph",
        "cifs",
        "fuse.glusterfs",
        "fuse.s3fs",
        "fuse.sshfs",
        "glusterfs",
        "lustre",
        "ncpfs",
        "nfs",
        "nfs4",
        "smb2",
        "smb3",
        "smbfs",
    }
)


@dataclass(frozen=True, slots=True)
class Location:
    """What a URL says.

    Attributes:
        path: absolute, so that a later `chdir` does not matter.
        is_synced: whether accepted jobs and results also survive a loss of power (FULL), and not
            only the death of processes (NORMAL).
        timeout: seconds after which an operation gives up.
    """

    path: str
    is_synced: bool = True
    timeout: float = 10.0

    @property
    def url(self) -> str:
        """The location as others may read it."""
        # Readable, and no more escaped than it takes to read it back.
        return f"sqlite:///{quote(self.path, safe=_PLAIN)}"


def parse_url(url: str) -> Location:
    """Read `sqlite:///relative.db`, `sqlite:////absolute.db` or `sqlite://`, the default path.

    Options: `?synchronous=full` (the default) or `normal`; `timeout=10`, in seconds.

    Raises:
        ValueError: this is no such URL.
    """
    parts = urlsplit(url)
    if parts.scheme != "sqlite" or not url.startswith("sqlite://"):
        raise ValueError(f"{url!r} is no URL of an SQLite file; write sqlite:///path/to/jobs.db")
    if parts.netloc:
        raise ValueError(
            f"{url!r} names a host, {parts.netloc!r}; write sqlite:///{parts.netloc}{parts.path} "
            "for a relative path, and four slashes for an absolute one"
        )
    path = unquote(parts.path[1:]) or DEFAULT_PATH
    if path == ":memory:":
        raise ValueError("jobs cannot be in memory, where no other program finds them: name a file")
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    unknown = sorted(set(options) - set(_OPTIONS))
    if unknown:
        raise ValueError(f"unknown option {unknown[0]!r} in {url!r}; known: {', '.join(_OPTIONS)}")
    synchronous = options.get("synchronous", "full").lower()
    if synchronous not in ("full", "normal"):
        raise ValueError(f"synchronous must be full or normal, not {synchronous!r}")
    return Location(os.path.abspath(path), synchronous == "full", _timeout(options))


def _timeout(options: dict[str, str]) -> float:
    text = options.get("timeout", "10")
    try:
        timeout = float(text)
    except ValueError:
        timeout = -1.0
    if not 0 < timeout < float("inf"):
        raise ValueError(f"timeout must be a number of seconds above 0, not {text!r}")
    return timeout


def create_file(path: str) -> None:
    """Create the file if it is missing, readable and writable by its owner only.

    SQLite gives the files beside it the same mode.
    """
    directory = os.path.dirname(path)
    if os.path.basename(directory) == os.path.dirname(DEFAULT_PATH):
        _create_default_directory(directory)
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        if os.path.isdir(path):
            raise IsADirectoryError(f"{path} is a directory: name a file in it") from None
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no directory {directory}: make it first") from None


def _create_default_directory(directory: str) -> None:
    try:
        os.mkdir(directory, 0o700)
    except FileExistsError:
        return
    # As pytest and mypy do with theirs: nobody wants it in a repository.
    with open(os.path.join(directory, ".gitignore"), "w", encoding="utf-8") as file:
        file.write("*\n")


def network_filesystem(path: str) -> str | None:
    """Return the type of the network file system that `path` is on; None: it is on no such one.

    None also where the operating system does not tell, which is everywhere but on Linux.
    """
    if sys.platform != "linux":
        return None
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
            mounts = file.read()
    except OSError:
        return None
    found = filesystem_of(os.path.realpath(path), mounts)
    return found if found in _NETWORK_FILESYSTEMS else None


def filesystem_of(path: str, mounts: str) -> str:
    """Return the type of the file system of `path`, given the text of `/proc/self/mountinfo`.

    Source: proc_pid_mountinfo(5). Of several mounts on one point, the last one is on top.
    """
    best, kind = -1, ""
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        # Spaces and the like are octal escapes there.
        escaped = before.split(" ")[4].encode("utf-8", "surrogateescape")
        point = os.fsdecode(escaped.decode("unicode_escape").encode("latin-1", "replace"))
        inside = path == point or path.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= best:
            best, kind = len(point), after.split(" ")[0]
    return kind
