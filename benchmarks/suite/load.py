"""Load from the generator's own process, and how the machine and the server were meanwhile."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

from benchmarks.suite.servers import ROOT
from offload._bench.machine import pss_bytes

if TYPE_CHECKING:
    from benchmarks.suite.servers import Server

# What the generator takes to start, about.
_START_SECONDS = 0.25
# Of the warm-up, after which the memory is read: all clients are busy, and nothing counts yet.
_READ_AT = 0.7


class LoadError(RuntimeError):
    """The generator failed."""


def load(server: Server, *arguments: str, seconds: float, warm_up: float) -> dict[str, Any]:
    """Run the generator against a server.

    Args:
        server: what is loaded.
        *arguments: of `offload._bench.load`.
        seconds: of what counts.
        warm_up: seconds before that.

    Returns:
        what it printed, and under "pss_bytes" the memory of the server's process tree under load.

    Raises:
        LoadError: it failed.
    """
    command = [
        *(sys.executable, "-P", "-m", "offload._bench.load", str(server.port)),
        *("--seconds", str(seconds), "--warm-up", str(warm_up), "--server-pid", str(server.pid)),
        *arguments,
    ]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        time.sleep(_START_SECONDS + _READ_AT * warm_up)
        memory = pss_bytes([server.pid])
        out, errors = process.communicate()
    if process.returncode != 0:
        raise LoadError(f"the load generator failed: {errors.decode(errors='replace').strip()}")
    result: dict[str, Any] = json.loads(out)
    return {**result, "pss_bytes": memory}


def disturbances(health: dict[str, Any]) -> list[str]:
    """Return what others did meanwhile; empty: nothing of note, measuring again would not help.

    A generator that is late is told of in its health, but no reason to measure again by itself: a
    server that leaves no CPU to anybody makes it late each time.
    """
    told: list[str] = list(health["disturbed"])
    return told if {"steal", "others"}.intersection(health["causes"]) else []


def latencies(stream: dict[str, Any]) -> list[float]:
    """Return the latencies of a stream's requests that have one, in ms, by intended time."""
    return [each for each in stream["latency_ms"] if each is not None]


def failed_share(stream: dict[str, Any]) -> float:
    """Return which part of a stream's requests was not answered with a status below 400."""
    count = len(stream["latency_ms"])
    good = sum(number for status, number in stream["statuses"].items() if int(status) < 400)
    return 1 - good / count if count else 0.0
