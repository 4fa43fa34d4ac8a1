"""Names what holds the event loop up: which route, which line, for how long, how often, and why.

```python
from offload.starlette import lifespan
from offload.watchdog import Watchdog, statistics

app = Starlette(routes=..., lifespan=lifespan(), middleware=[Middleware(Watchdog)])
```

For FastAPI, `watchdog.watch(app)`; for any ASGI application, `app = Watchdog(app)`; for other
async code, `with watching(): ...`. What it finds is logged, once per place, under
`offload.watchdog`:

    the event loop was held for 312 ms by GET /report/{id}: app:report at app.py:42 (blocking:
    sleep): time.sleep(0.3). Use await anyio.sleep(...) or await asyncio.sleep(...).

and counted: `statistics()`.

How it works: a timer on the loop notes the time. While it is overdue, a thread looks at the stack
of the loop's thread. When it has come, the kernel's figures tell why it was late:

    the loop's thread waited for a CPU (schedstat, cgroup throttling)      -> starved
    the garbage collector ran for most of the rest (gc.callbacks)          -> gc
    the loop's thread computed for most of it                              -> cpu
    the watching thread got the GIL when it wanted                         -> blocking
    the loop's thread asked for the GIL every few milliseconds             -> gil
    it did not: it had the GIL, and slept                                  -> blocking

and if the code at work is this library's, the cause is `offload`.

Where there are no such figures (macOS, Windows), CPU time and stacks decide: `starved` and `gil`
are then told apart by whether any thread computed, and a busy machine can be taken for a block.
"""

from offload.watchdog._ledger import statistics
from offload.watchdog._middleware import Watchdog, watch, watching
from offload.watchdog._records import (
    Block,
    Cause,
    CauseStatistics,
    PlaceStatistics,
    RouteStatistics,
    WatchdogStatistics,
)

__all__ = [
    "Block",
    "Cause",
    "CauseStatistics",
    "PlaceStatistics",
    "RouteStatistics",
    "Watchdog",
    "WatchdogStatistics",
    "statistics",
    "watch",
    "watching",
]
