"""One job as server-sent events, from its state of now to its end."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any, Final

import anyio
from starlette.responses import Response

from offload._asgi.streams import send_stream
from offload.jobs import JobNotFoundError, JobsUnavailableError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import Request
    from starlette.types import Receive, Scope, Send

    from offload.jobs import Job, JobStatus

__all__ = ["JobEventsResponse", "as_json", "is_known"]

_logger: Final = logging.getLogger("offload.starlette")

# A connection on which nothing comes for longer is closed by many proxies.
_SILENCE_SECONDS: Final = 15.0
# After which a browser connects again, in milliseconds: a server that is restarted is soon back.
_RETRY: Final = b"retry: 1000\n\n"


class JobEventsResponse(Response):
    """An event for each change of a job, until it has ended, the client leaves or the server ends.

    The job may be one of hours that runs elsewhere.

    Args:
        job: who may see it has been asked.
    """

    media_type = "text/event-stream"

    def __init__(self, job: Job[Any]) -> None:
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        # It is not known before the end.
        del self.headers["Content-Length"]
        self._job = job

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events; to HEAD only the headers."""
        await send(
            {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
        )
        await send_stream(self._send_events, scope, receive, send)

    async def _send_events(self, send_part: Callable[[bytes], Awaitable[None]]) -> None:
        await send_part(_RETRY)
        try:
            async with self._job.events() as events:
                while True:
                    status: JobStatus | None = None
                    with anyio.move_on_after(_SILENCE_SECONDS):
                        status = await anext(events, None)
                        if status is None:
                            return
                    await send_part(b": still there\n\n" if status is None else _event(status))
        except (JobNotFoundError, JobsUnavailableError) as error:
            # The head of the response is long gone: the client connects again, and is told then.
            _logger.info("a client could not follow a job any longer: %s", error)


def is_known(request: Request, status: JobStatus) -> bool:
    """Return whether a browser that connects again has had the event of the job's end."""
    return status.state.is_over and request.headers.get("last-event-id") == _id(status)


def _event(status: JobStatus) -> bytes:
    lines = [f"event: {status.state}", f"data: {json.dumps(as_json(status))}"]
    if status.state.is_over:
        lines.append(f"id: {_id(status)}")
    return ("\n".join(lines) + "\n\n").encode()


def _id(status: JobStatus) -> str:
    # A job that was retried may end a second time, and in the same state.
    ended = status.ended_at
    return f"{status.state} {ended and ended.isoformat()}"


def as_json(status: JobStatus) -> dict[str, Any]:
    """Return what the client of a job learns: neither traceback nor arguments."""
    progress = status.progress
    data: dict[str, Any] = {
        "id": status.id,
        "state": status.state,
        "attempts": status.attempts,
        "crashes": status.crashes,
        "progress": progress and {"done": progress.done, "total": progress.total},
        "created_at": status.created_at.isoformat(),
        "started_at": status.started_at and status.started_at.isoformat(),
        "ended_at": status.ended_at and status.ended_at.isoformat(),
    }
    if status.state == "completed" and status.result is not None:
        data["result"] = json.loads(status.result)
    if status.state == "failed" and status.error is not None:
        # What the function raised is the application's affair, its text perhaps not the client's.
        data["error"] = status.error.type
    return data
