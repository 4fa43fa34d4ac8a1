"""What the soak over HTTP runs in workers: work, failures, and tasks that attack their server."""

from __future__ import annotations

import array
import contextlib
import logging
import os
import signal
import socket
import struct
import time
from typing import TYPE_CHECKING

from benchmarks import functions as f
from offload import Pool, offload

if TYPE_CHECKING:
    from collections.abc import Iterator

pool = Pool(
    "soak",
    max_workers=2,
    max_queued=100,
    max_tasks_per_worker=50,
    os_priority="low",
    start_method=os.environ.get("SOAK_METHOD", "forkserver"),  # type: ignore[arg-type]
    harden=os.environ.get("SOAK_HARDEN") == "1",
)
echo, fail, crash, hold = map(offload(pool=pool), (f.echo, f.fail, f.crash, f.hold))
_HEADER = struct.Struct("<IBBHI")


def _descriptors(kind: str) -> Iterator[int]:
    for each in os.listdir("/proc/self/fd"):  # noqa: PTH208 - names are all that is needed
        with contextlib.suppress(OSError):
            if kind in os.readlink(f"/proc/self/fd/{each}"):  # noqa: PTH115
                yield int(each)


def _own_socket() -> socket.socket:
    endpoint = socket.socket(fileno=os.dup(next(_descriptors("socket:"))))
    endpoint.setblocking(True)
    return endpoint


@offload(pool=pool)
def forge_frame() -> None:
    """Announce four gigabytes, and send some."""
    _own_socket().sendall(_HEADER.pack(0xFFFFFFF0, 12, 0, 0, 1) + bytes(1 << 16))
    time.sleep(60)


@offload(pool=pool)
def flood_descriptors() -> None:
    """Send descriptors that nobody has asked for."""
    nothing = os.open("/dev/null", os.O_RDONLY)
    passed = array.array("i", [nothing] * 30).tobytes()
    endpoint = _own_socket()
    for _ in range(10):
        endpoint.sendmsg(
            [_HEADER.pack(0, 19, 0, 0, 1)], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, passed)]
        )
    time.sleep(60)


@offload(pool=pool)
def truncate_memory() -> None:
    """Make every file in memory shorter."""
    for each in _descriptors("/memfd:"):
        os.ftruncate(each, 0)


@offload(pool=pool)
def stop_itself() -> None:
    """Stop, as by SIGSTOP of somebody else."""
    os.kill(os.getpid(), signal.SIGSTOP)


@offload(pool=pool)
def kill_supervisor() -> None:
    """Kill the process that started this one."""
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(60)


@offload(pool=pool)
def stop_supervisor() -> None:
    """Stop the process that started this one."""
    os.kill(os.getppid(), signal.SIGSTOP)


@offload(pool=pool)
def hang_up_supervisor() -> None:
    """Send the process that started this one what ends most programs."""
    for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGQUIT, signal.SIGTERM):
        os.kill(os.getppid(), number)


@offload(pool=pool)
def flood_logs() -> None:
    """Log more than anybody reads."""
    for _ in range(50):
        logging.getLogger("soak").info("A" * 15_000)


@offload(pool=pool)
def fail_largely() -> None:
    """Raise an error of five megabytes."""
    raise ValueError("x" * 5_000_000)


@offload(pool=pool, max_memory_bytes=20 << 20)
def take_memory() -> int:
    """Take more than it may."""
    return len(b"x" * (200 << 20))


@offload(pool=pool, max_cpu_seconds=1)
def take_cpu() -> None:
    """Compute for longer than it may."""
    f.hold(60.0)
