"""What pools and jobs do, for Prometheus: a collector, an endpoint, alerts, a Grafana dashboard.

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
| `offload_pool_starved_workers` | gauge | pool | workers that start or run a task and get less than a twentieth of the CPU time that they could use (Linux) |
| `offload_pool_starved_seconds_total` | counter | pool | seconds that such workers have waited for a CPU |
| `offload_pool_throttled_seconds_total` | counter | pool | seconds in which a CPU quota stopped the process while workers had something to do |
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
| `offload_jobs` | gauge | store, queue, function, state | jobs in the store: waiting, delayed, active, completed, failed, cancelled; every process says the same, so take the maximum |
| `offload_jobs_queue_paused` | gauge | store, queue | 1 for a queue that is paused; absent otherwise |
| `offload_jobs_store_up` | gauge | store | 1 if the store has answered, 0 if not |
| `offload_jobs_enqueued_total` | counter | store, queue, function, outcome | what this process has enqueued: stored, refused (the queue was full) or unavailable |
| `offload_jobs_enqueue_seconds` | histogram | store | how long the store took for it |
| `offload_job_attempts_total` | counter | store, queue, function, outcome | attempts that have ended in this worker program: completed, failed, crashed, lapsed (the lease was lost), released or cancelled |
| `offload_job_wait_seconds` | histogram | store, queue, function | from enqueuing to the first claim, with the delay that was asked for |
| `offload_job_run_seconds` | histogram | store, queue, function | how long attempts ran |
| `offload_jobs_swept_total` | counter | store | jobs that this program found with a lease that had run out, as of a program that died, or past their deadline |
| `offload_worker_program_ready` | gauge | store | 1 if this worker program claims jobs, and the store answers |
| `offload_worker_program_slots` | gauge | store | attempts that it can run at once |
| `offload_worker_program_active` | gauge | store | attempts under way |
| `offload_worker_program_claimed_total` | counter | store | jobs that it has claimed |
| `offload_worker_program_fenced_total` | counter | store | reports that were refused, since the lease had been lost |
| `offload_worker_program_outages_total` | counter | store | times that the store could not be reached |
| `offload_schedules` | gauge | | schedules of the schedulers that run in this process |
| `offload_schedule_lateness_seconds` | histogram | schedule | from when a fire was due to its start, or until its job was stored |
| `offload_schedule_events_total` | counter | schedule, event | what became of fires: started, enqueued, finished, failed, timed_out, cancelled, missed, skipped_overlap, fired_elsewhere; and ended |

The metrics of the event loop are there when `offload.watchdog` has watched a loop, those of jobs
and of schedules where there are any. A worker program serves all of it at `/metrics` of its health
address. The first three of jobs are asked of the store when `metrics_app`, or a worker program, is
scraped; other ways to serve a registry do not have them. Buckets are powers of two of a
microsecond, from 128 µs to 134 s, those of jobs from 1 ms to 4.8 hours: each count is exact,
because our own buckets have those bounds among theirs.
"""  # noqa: E501 - a table has no shorter lines

from offload.metrics._asgi import metrics_app
from offload.metrics._collector import PoolCollector, register
from offload.metrics._files import alert_rules, grafana_dashboard

__all__ = ["PoolCollector", "alert_rules", "grafana_dashboard", "metrics_app", "register"]
