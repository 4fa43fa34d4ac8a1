"""The floor: one worker, one socket, a persistent reader, and nothing else.

No queue, no cancellation, no timeouts, no errors, no restart: what is left is what the machine and
the event loop cost. `offload` is measured against it to see what its guarantees cost.
"""

from __future__ import annotations

import asyncio
import os
import pickle
import socket
from typing import Any


class Prototype:
    """Workers that answer calls, and nothing else."""

    def __init__(self, workers: int) -> None:
        self._idle: list[tuple[socket.socket, Any]] = []
        self._waiting: list[asyncio.Future[Any]] = []
        for _ in range(workers):
            ours, theirs = socket.socketpair()
            if os.fork() == 0:
                ours.close()
                _serve(theirs)
            theirs.close()
            ours.setblocking(False)
            slot: dict[str, Any] = {}
            asyncio.get_running_loop().add_reader(ours.fileno(), self._read, ours, slot)
            self._idle.append((ours, slot))
        self._all = list(self._idle)

    async def run(self, function: Any, *args: Any) -> Any:
        """Run a call on an idle worker."""
        loop = asyncio.get_running_loop()
        while not self._idle:
            waiter = loop.create_future()
            self._waiting.append(waiter)
            await waiter
        worker, slot = self._idle.pop()
        future = slot["future"] = loop.create_future()
        worker.send(pickle.dumps((function, args), 5))
        result = pickle.loads(await future)
        self._idle.append((worker, slot))
        if self._waiting:
            self._waiting.pop(0).set_result(None)
        return result

    def _read(self, worker: socket.socket, slot: dict[str, Any]) -> None:
        slot["future"].set_result(worker.recv(65536))

    def close(self) -> None:
        """End the workers."""
        for worker, _ in self._all:
            asyncio.get_running_loop().remove_reader(worker.fileno())
            worker.close()


def _serve(endpoint: socket.socket) -> None:
    while data := endpoint.recv(65536):
        function, args = pickle.loads(data)
        endpoint.send(pickle.dumps(function(*args), 5))
    os._exit(0)
