"""Stores of jobs, each a new one: a SQLite file, a Redis, a Postgres; on loopback, as shipped."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.suite.servers import end, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

STORES = ("sqlite", "redis", "postgres")
_START_SECONDS = 60.0


class StoreError(RuntimeError):
    """A store could not be started."""


def missing(store: str) -> str | None:
    """Return why this machine cannot run a store; None if it can."""
    if store == "redis" and shutil.which("redis-server") is None:
        return "there is no `redis-server` on this machine"
    if store == "postgres" and (_binary("postgres") is None or _binary("initdb") is None):
        return "there is no `postgres` on this machine"
    return None


@contextlib.contextmanager
def opened(store: str) -> Iterator[str]:
    """Run a new store, and give its URL.

    Raises:
        StoreError: it did not start.
    """
    # Not in the memory of /tmp, where some machines have it: syncs are part of what is measured.
    with tempfile.TemporaryDirectory(prefix="offload-benchmark-", dir="/var/tmp") as name:
        folder = Path(name)
        if store == "sqlite":
            yield f"sqlite:///{folder / 'jobs.db'}"
        elif store == "redis":
            with _redis(folder) as url:
                yield url
        else:
            with _postgres(folder) as url:
                yield url


@contextlib.contextmanager
def _redis(folder: Path) -> Iterator[str]:
    """With an append-only file that is synced each second, as jobs.md advises for all of them."""
    port = free_port()
    command = [
        *("redis-server", "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder)),
        *("--appendonly", "yes", "--appendfsync", "everysec", "--save", ""),
    ]
    with _running(command, ["redis-cli", "-p", str(port), "PING"]):
        yield f"redis://127.0.0.1:{port}/0"


@contextlib.contextmanager
def _postgres(folder: Path) -> Iterator[str]:
    # It refuses to be run by root; then it is run by the user that its package has made.
    user = "postgres" if os.geteuid() == 0 else None
    if user is not None:
        shutil.chown(folder, user)
    data, port = folder / "data", free_port()
    make = [_binary("initdb") or "initdb", "-D", str(data), "-U", "jobs", "-A", "trust", "-N"]
    done = subprocess.run(make, capture_output=True, user=user, cwd="/", check=False)
    if done.returncode != 0:
        raise StoreError(f"initdb failed: {done.stderr.decode(errors='replace').strip()}")
    command = [
        *(_binary("postgres") or "postgres", "-D", str(data), "-p", str(port)),
        *("-h", "127.0.0.1", "-k", str(data)),
    ]
    ready = [_binary("pg_isready") or "pg_isready", "-h", "127.0.0.1", "-p", str(port)]
    with _running(command, ready, user):
        yield f"postgresql://jobs@127.0.0.1:{port}/postgres"


@contextlib.contextmanager
def _running(command: list[str], ready: list[str], user: str | None = None) -> Iterator[None]:
    process = subprocess.Popen(
        command, user=user, cwd="/", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + _START_SECONDS
        while subprocess.run(ready, capture_output=True, check=False).returncode != 0:
            if process.poll() is not None or time.monotonic() > deadline:
                raise StoreError(f"it did not start: {' '.join(command)}")
            time.sleep(0.05)
        yield
    finally:
        end(process)


def _binary(name: str) -> str | None:
    """Return the path of a program of Postgres: Debian keeps them out of the way."""
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    found = shutil.which(name)
    for folder in versions:
        found = found or shutil.which(name, path=str(folder))
    return found
