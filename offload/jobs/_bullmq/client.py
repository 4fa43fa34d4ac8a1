"""A Redis server that may go and come back: scripts, and errors in our own words."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, NoReturn

from offload.jobs._bullmq.health import look
from offload.jobs._bullmq.link import Lost, RedisError, RedisLink, open_link
from offload.jobs._bullmq.scripts import script
from offload.jobs._errors import JobsUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable

    from offload.jobs._bullmq.location import RedisLocation
    from offload.jobs._values import Health

__all__ = ["RedisClient"]

_NAME: Final = "offload"
# How errors begin that say that the server cannot take a change, or any command, now.
_UNAVAILABLE: Final = {
    "OOM": "it is out of memory (maxmemory)",
    "MISCONF": "it cannot save to its disk",
    "READONLY": "it is a read-only replica",
    "NOREPLICAS": "it has too few replicas",
    "LOADING": "it is loading its data",
    "BUSY": "it is busy with a script",
    "MASTERDOWN": "it is a replica that has lost its master",
    "NOAUTH": "it wants a password",
    "WRONGPASS": "it refuses user or password",
    "NOPERM": "it denies the user this command",
    "CLUSTERDOWN": "the cluster is down",
    "MOVED": "it is a node of a cluster, which is not supported",
    "ERR max": "it has too many clients",
}


class RedisClient:
    """One connection for commands that do not block, made when it is needed and made anew.

    Args:
        location: of the server.
    """

    def __init__(self, location: RedisLocation) -> None:
        self.location: Final = location
        self._link: RedisLink | None = None
        self._connecting: asyncio.Task[RedisLink] | None = None
        self._is_open = False

    @property
    def is_open(self) -> bool:
        """Whether it is between `open` and `close`."""
        return self._is_open

    async def open(self) -> None:
        """Connect."""
        self._is_open = True
        try:
            await self._connected()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Disconnect. Whoever waits for an answer gets an error."""
        self._is_open = False
        if self._connecting is not None:
            self._connecting.cancel()
        if self._link is not None:
            self._link.close("the engine was closed")
            self._link = None

    async def run(
        self,
        name: str,
        *arguments: str | int,
        undo: Callable[[Any], None] | None = None,
        is_read: bool = False,
        can_repeat: bool = False,
    ) -> Any:
        """Run a script.

        Args:
            name: of the script.
            arguments: after the prefix, which is always the first.
            undo: called with the reply if the caller was cancelled before it came.
            is_read: whether it changes nothing.
            can_repeat: whether to run it twice changes no more than to run it once. Then it is
                sent again if a connection turns out to have gone: the server was restarted.

        Raises:
            JobsUnavailableError: the server cannot be reached, or refuses.
        """
        found = script(name)
        prefix = self.location.prefix
        words: tuple[str | int, ...] = ("EVALSHA", found.sha, 0, prefix, *arguments)
        repeats = 1 if is_read or can_repeat else 0
        while True:
            link = self._link
            if link is None or not link.is_open:
                link = await self._connected()
            try:
                return await link.send(*words, undo=undo)
            except RedisError as error:
                if words[0] == "EVAL" or not str(error).startswith("NOSCRIPT"):
                    self._refused(error, name)
                # The server has not seen it yet, or was restarted: nothing was run.
                words = ("EVAL", found.text, *words[2:])
            except Lost as error:
                if error.is_late or repeats == 0:
                    self._lost(error, is_read=is_read)
                repeats -= 1

    async def command(self, *words: str | int) -> Any:
        """Run a plain command that changes nothing; errors as of `run`."""
        link = await self._connected()
        try:
            return await link.send(*words)
        except RedisError as error:
            self._refused(error, str(words[0]))
        except Lost as error:
            self._lost(error, is_read=True)

    async def health(self) -> Health:
        """Ask the server how it does."""
        return await look(self)

    async def new_link(self) -> RedisLink:
        """Return a connection of the caller's own, for commands that block."""
        if not self._is_open:
            self._closed()
        try:
            return await open_link(self.location, _NAME)
        except RedisError as error:
            self._refused(error, "connect")
        except Lost as error:
            self._lost(error, is_read=True)

    async def _connected(self) -> RedisLink:
        if not self._is_open:
            self._closed()
        while self._link is None or not self._link.is_open:
            # All who come meanwhile wait for the one attempt, which none of them cancels.
            if self._connecting is None:
                self._connecting = asyncio.create_task(self.new_link())
                self._connecting.add_done_callback(self._has_connected)
            connecting = self._connecting
            await asyncio.wait([connecting])
            if not self._is_open:
                self._closed()
            connecting.result()
        return self._link

    def _has_connected(self, task: asyncio.Task[RedisLink]) -> None:
        self._connecting = None
        if task.cancelled() or task.exception() is not None:
            return
        if self._is_open:
            self._link = task.result()
        else:
            task.result().close()

    def _closed(self) -> NoReturn:
        raise JobsUnavailableError(
            f"the engine of {self.location.url} is not open", location=self.location.url
        )

    def _lost(self, error: Lost, *, is_read: bool) -> NoReturn:
        url = self.location.url
        if not self._is_open:
            message = f"the engine of {url} was closed meanwhile"
        else:
            message = f"Redis at {url} cannot be reached: {error}"
        raise JobsUnavailableError(
            message, location=url, may_have_happened=error.was_sent and not is_read
        ) from error

    def _refused(self, error: Exception, what: str) -> NoReturn:
        url, text = self.location.url, str(error)
        for beginning, meaning in _UNAVAILABLE.items():
            if text.startswith(beginning):
                raise JobsUnavailableError(
                    f"Redis at {url} refuses: {meaning} ({text})", location=url
                ) from error
        raise JobsUnavailableError(
            f"Redis at {url} failed in {what!r}: {text}", location=url, may_have_happened=True
        ) from error
