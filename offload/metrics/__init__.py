"""What pools do, for Prometheus: a collector, an endpoint, and a dashboard for Grafana.

    app = Starlette(routes=[Route("/metrics", metrics_app())], …)    # one line is all

Needs `pip install 'offload[metrics]'`. Everything is read from the pools of this process when it is
asked for: calls cost nothing more than without. With several web server processes, each answers for
its own pools: scrape each of them.

| metric | type | labels | what it tells |
|---|---|---|---|
| `offload_info` | info | version | which version of this library runs |
| `offload_pool_state` | gauge | pool, state | 1 for the state that the pool is in: new, open, draining or closed |
| `offload_pool_opened_timestamp_seconds` | gauge | pool | when the pool was opened; its counters start then |
| `offload_pool_max_workers` | gauge | pool | how many tasks may run at once |
| `offload_pool_workers` | gauge | pool, state | workers that are starting, idle, busy or leaving |
| `offload_pool_workers_resident_bytes` | gauge | pool | resident memory of all its workers; what they share is counted in each |
| `offload_pool_workers_recycled_total` | counter | pool | workers replaced by plan |
| `offload_pool_queued_calls` | gauge | pool | calls that wait for a worker |
| `offload_pool_queued_bytes` | gauge | pool | size of their pickled arguments |
| `offload_pool_max_queued_calls` | gauge | pool | past how many a call is refused; absent if there is no limit |
| `offload_pool_max_queued_bytes` | gauge | pool | past which size; absent if there is no limit |
| `offload_calls_total` | counter | pool, function, outcome | calls that have ended: completed, failed, refused, timed_out, cancelled or crashed |
| `offload_running_calls` | gauge | pool, function | calls that run |
| `offload_waiting_calls` | gauge | pool, function | calls that wait for a worker |
| `offload_queue_wait_seconds` | histogram | pool, function | from admission to start |
| `offload_run_seconds` | histogram | pool, function | from start to reply, as the server sees it |
| `offload_event_loop_lag_seconds` | histogram | | by how much each heartbeat of the watchdog was late |
| `offload_event_loop_late_seconds` | gauge | | by how much it is late now: above a second, the loop hangs |
| `offload_event_loop_blocks_total` | counter | cause | times that a loop was held longer than the watchdog's threshold |
| `offload_event_loop_blocked_seconds_total` | counter | cause | for how long in all |
| `offload_route_blocks_total` | counter | route, cause | the same by route; "other" where the framework tells no template |
| `offload_route_blocked_seconds_total` | counter | route, cause | the same by route |

The last six are there when `offload.watchdog` has watched a loop. Buckets are powers of two of a
microsecond, from 128 µs to 134 s: each count is exact, because the pools' own buckets have those
bounds among theirs.
"""  # noqa: E501 - a table has no shorter lines

from offload.metrics._asgi import metrics_app
from offload.metrics._collector import PoolCollector, register
from offload.metrics._grafana import grafana_dashboard

__all__ = ["PoolCollector", "grafana_dashboard", "metrics_app", "register"]
