"""How a Redis server does, and what its operator should know."""

from __future__ import annotations

import time
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from offload.jobs._values import Health

if TYPE_CHECKING:
    from offload.jobs._bullmq.sides import Asked

__all__ = ["look"]


async def look(client: Asked) -> Health:
    """Ask the server."""
    begin = time.perf_counter()
    await client.command("PING")
    round_trip = time.perf_counter() - begin
    seconds, microseconds = await client.command("TIME")
    ahead = int(seconds) + int(microseconds) / 1e6 - time.time()
    facts = _facts(await client.command("INFO"))
    return Health(
        "redis",
        facts.get("redis_version", "unknown"),
        client.location.url,
        round_trip,
        tuple(_problems(facts)),
        {
            "bullmq": _bullmq_version(),
            "used_memory": facts.get("used_memory", ""),
            "maxmemory": facts.get("maxmemory", ""),
            "clients": facts.get("connected_clients", ""),
            "role": facts.get("role", ""),
        },
        ahead,
    )


def _problems(facts: dict[str, str]) -> list[str]:
    problems: list[str] = []
    policy = facts.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        problems.append(
            f"its maxmemory-policy is {policy}: it forgets jobs when memory is short; set it to "
            "noeviction"
        )
    if facts.get("aof_enabled") == "0":
        problems.append(
            "its append-only file is off: it forgets jobs when it is restarted; set appendonly yes"
        )
    problems += (
        f"it could not write its data to disk ({name} is {facts[name]})"
        for name in ("aof_last_write_status", "rdb_last_bgsave_status", "aof_last_bgrewrite_status")
        if facts.get(name, "ok") != "ok"
    )
    if facts.get("cluster_enabled") == "1":
        problems.append("it is a node of a cluster, which jobs cannot be kept in")
    if facts.get("role") not in (None, "master"):
        problems.append("it is a replica, where nothing can be stored: name the master")
    major, minor = (int(part) for part in (facts.get("redis_version", "7.0") + ".0").split(".")[:2])
    if (major, minor) < (6, 2):
        problems.append(f"it is version {major}.{minor}; jobs need 6.2")
    used, most = (int(facts.get(name) or 0) for name in ("used_memory", "maxmemory"))
    if most and used > 0.9 * most:
        problems.append(f"it uses {used >> 20} MiB of its maxmemory of {most >> 20} MiB")
    return problems


def _facts(text: Any) -> dict[str, str]:
    pairs = (line.split(":", 1) for line in str(text).splitlines() if ":" in line)
    return {pair[0]: pair[1] for pair in pairs}


def _bullmq_version() -> str:
    try:
        return version("bullmq")
    except PackageNotFoundError:
        return "unknown"
