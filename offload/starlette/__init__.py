"""What a Starlette or FastAPI application needs: pools bound to its life, errors turned to HTTP.

```python
app = Starlette(
    routes=...,
    lifespan=lifespan("images"),
    middleware=[Middleware(CancelOnDisconnect), Middleware(DeadlineFromHeader, maximum=60)],
    exception_handlers=exception_handlers,
)
```

Guarantees:

1. The application is ready only when its pools are, and is gone only when they are: whatever
   ends the startup or the service (an error, a cancellation, the server's end), every pool that
   was touched is closed, unless another application of the process holds it.
2. A client is told what it may do next (503 with `Retry-After`, 504 or 500; whether the work may
   have been done) and nothing else: no traceback, no argument, no name from the code.
3. The operator is told once per error, or group of errors of a task group, under the logger
   `offload.starlette`: refusals, clients that left and deadlines that came at INFO, timeouts at
   WARNING, and what somebody must look at (crashes, workers that do not start, calls that can
   never work) at ERROR with the traceback.

A function's own exceptions are the application's business and keep their meaning: they reach the
handler that the application has for their type, as if the function had run inline.

`receive_file` takes an upload into a file that crosses to the worker as a descriptor;
`BytesResponse` and `WorkerStreamResponse` send what workers return, with back-pressure.

`jobs_lifespan`, `job_routes` and `accepted` are for functions that outlive their request.

A decorated function can be an endpoint itself: importing this module lets a `Request` cross to
the worker, as a copy that knows the question but not the server.
"""

from __future__ import annotations

from offload._asgi.deadline import DeadlineFromHeader
from offload._asgi.disconnect import CancelOnDisconnect
from offload._wire.shared_file import SharedFile
from offload.starlette._errors import ProblemResponse, add_exception_handlers, exception_handlers
from offload.starlette._jobs import accepted, job_routes, jobs_lifespan
from offload.starlette._life import lifespan
from offload.starlette._requests import receive_file, spool_upload
from offload.starlette._responses import BytesResponse, WorkerStreamResponse

__all__ = [
    "BytesResponse",
    "CancelOnDisconnect",
    "DeadlineFromHeader",
    "ProblemResponse",
    "SharedFile",
    "WorkerStreamResponse",
    "accepted",
    "add_exception_handlers",
    "exception_handlers",
    "job_routes",
    "jobs_lifespan",
    "lifespan",
    "receive_file",
    "spool_upload",
]
