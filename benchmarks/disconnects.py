"""Half of 1,000 clients leave: how much CPU is spent on work that nobody waits for?

Varied: the contender; for `offload`, whether `CancelOnDisconnect` is in force. Held: uvicorn on
uvloop, two workers, 20 ms of CPU per request, all requests sent at once, each client of a random
half gone after an exponential patience of 200 ms in the mean. CPU is counted by the work itself,
client by client. Refuted if the clients that left cost `offload` more than 5 % of the CPU that
their work would have taken, or if one of those that stayed is not answered.
"""

from __future__ import annotations

import asyncio
import random
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.suite.scenario import Claim, Measured, Metric, Plot, Scenario, in_process
from benchmarks.suite.servers import serve

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from benchmarks.suite.contenders import Contender
    from benchmarks.suite.scenario import Context, Parameters, Settings
    from benchmarks.suite.servers import Server

_CLIENTS = 1000
_QUICK_CLIENTS = 20
_CPU_SECONDS = 0.02
_PATIENCE_SECONDS = 0.2
_SEED = 1
# Seconds for the work of all clients; then what is left is reported as a failure.
_DRAIN_SECONDS = 120.0


def skips(contender: Contender) -> str | None:
    """Refuse what cannot note how much it has worked."""
    return in_process(contender)


def cells(contender: Contender, _: Settings) -> list[Parameters]:
    """Return with and without `CancelOnDisconnect`, which is for `offload` only."""
    return [
        {"cancel_on_disconnect": word} for word in (("yes", "no") if contender.is_ours else ("no",))
    ]


def measure(
    contender: Contender, parameters: Sequence[Parameters], context: Context
) -> Iterator[Measured]:
    """Measure each on a fresh server."""
    count = _QUICK_CLIENTS if context.settings.is_quick else _CLIENTS
    for each in parameters:
        environment = {"WATCHES": "1" if each["cancel_on_disconnect"] == "yes" else "0"}
        with (
            tempfile.TemporaryDirectory() as folder,
            serve(contender, context.settings.workers, environment) as server,
        ):
            yield once(server, Path(folder) / "used", each, count)


def once(server: Server, path: Path, parameters: Parameters, count: int) -> Measured:
    """Send all requests, wait until no work is left, and add up who used what."""
    path.write_bytes(bytes(8 * count))
    begin = time.monotonic()
    left, answered, stayed = asyncio.run(clients(server.port, path, count))
    while server.ask("/under_way", timeout=_DRAIN_SECONDS):
        if time.monotonic() - begin > _DRAIN_SECONDS:
            raise TimeoutError(f"there is work left after {_DRAIN_SECONDS:g} s")
        time.sleep(0.05)
    took = time.monotonic() - begin
    used = memoryview(path.read_bytes()).cast("d")
    wasted = sum(used[number] for number in left)
    return Measured(
        parameters,
        values={
            "left": float(len(left)),
            "wasted_share": wasted / (_CPU_SECONDS * max(len(left), 1)),
            "wasted_seconds": wasted,
            "unanswered": float(stayed - answered),
            "all_done_seconds": took,
        },
    )


async def clients(port: int, path: Path, count: int) -> tuple[set[int], int, int]:
    """Send all requests at once; return who left, and how many of the others were answered."""
    draw = random.Random(_SEED)
    leavers = set(draw.sample(range(count), count // 2))
    patiences = {number: draw.expovariate(1 / _PATIENCE_SECONDS) for number in leavers}
    connections = [await asyncio.open_connection("127.0.0.1", port) for _ in range(count)]

    async def one(number: int) -> bool:
        reader, writer = connections[number]
        target = f"/noted?client={number}&seconds={_CPU_SECONDS}&path={path}"
        writer.write(f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        try:
            async with asyncio.timeout(patiences.get(number, _DRAIN_SECONDS)):
                return (await reader.readline()).split()[1:2] == [b"200"]
        except OSError:  # TimeoutError is one.
            return False
        finally:
            writer.transport.abort()

    answered = await asyncio.gather(*(one(number) for number in range(count)))
    # A leaver whose answer came before its patience ended did not leave.
    left = {number for number in leavers if not answered[number]}
    stayers = [number for number in range(count) if number not in leavers]
    return left, sum(answered[number] for number in stayers), len(stayers)


scenario = Scenario(
    name="disconnects",
    module=__name__,
    question=__doc__ or "",
    metrics=(
        Metric("wasted_share", "of the leavers' work, % done", factor=100, is_headline=True),
        Metric("wasted_seconds", "CPU wasted, s"),
        Metric("unanswered", "stayed and not answered", is_headline=True),
        Metric("all_done_seconds", "all done after, s"),
        Metric("left", "clients that left", better=None),
    ),
    cells=cells,
    measure=measure,
    skips=skips,
    claims=(
        Claim(
            text="of the leavers' work, % done",
            value="wasted_share",
            parameters={"cancel_on_disconnect": "yes"},
            relation="at most",
            limit=5,
        ),
        Claim(
            text="clients that stayed and were not answered",
            value="unanswered",
            parameters={"cancel_on_disconnect": "yes"},
            relation="at most",
            limit=0,
        ),
    ),
    plots=(
        Plot(
            "dots",
            "wasted_seconds",
            "CPU seconds spent on clients that had left",
            "Less is better. `offload` is measured with and without CancelOnDisconnect.",
            is_log=False,
        ),
    ),
    repetitions=2,
)
