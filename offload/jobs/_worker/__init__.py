"""The worker program: claims jobs, runs each on a pool, and reports what became of it.

                 ┌──────────────────────── worker program ────────────────────────┐
    engine ──────┤ consumer: claim ─► attempt ─► report and claim the next ─► …       │
      ▲          │                  │ ▲                                           │
      │ extend ──┤ leases           │ │ result, progress, log records             │
      │ sweep ───┤ program          ▼ │                                           │
      └ prune ───┤                pool ═══ worker processes                       │
                 └────────────────────────────────────────────────────────────────┘

1. `program` is the life: start, keep the leases, sweep, drain, end.
2. `consumer` is the flow of the jobs of one pool, and how many there may be at once.
3. `attempt` is one of them, from its claim to its end; `reports` carries what it came to.
4. `leases` knows which claims still hold. It is pure.

Guarantees:

1. *Never more than it can run.* It claims as many jobs as the pool has workers, and of short jobs
   another 20 ms of work, so that workers do not wait for the engine.
2. *A healthy program keeps its jobs.* All claims are extended in one round trip, every
   min(lease / 3, 0.5) seconds.
3. *Overtaken means stopped.* An attempt ends when its claim was lost, its job cancelled, or its
   lease could not be extended, a second before that runs out. None begins after that: a program
   that stood still checks it right before a worker process is given the job.
4. *A result is not lost to an outage.* What an attempt came to is reported until the engine has
   stored or refused it.
5. *Deploys lose nothing.* After SIGTERM nothing is claimed, and what has not ended after `drain`
   seconds is stopped and handed back, without being counted.
6. *No two at once.* What is retried or handed back has no process any more that runs it.
"""

from offload.jobs._worker.program import WorkerProgram
from offload.jobs._worker.statistics import JobFunctionStatistics, WorkerProgramStatistics

__all__ = ["JobFunctionStatistics", "WorkerProgram", "WorkerProgramStatistics"]
