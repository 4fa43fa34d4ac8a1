"""Jobs in an SQLite file: for one machine, with any number of processes, and no server.

    tasks on event loops                         other processes on the same file
      │ put, claim, finish, …   │ get, find, …      ▲ datagrams: "a job waits", "it ended"
      ▼                         ▼                   │
    writer thread            reader thread        bells
      │ one transaction for all that came together  ▲
      └──────────► the file (WAL) ──────────────────┘ after each commit

1. `engine` has the methods of the seam. Each makes an operation of `producers`, `claims` or `care`
   (which write) or of `reads`, and awaits the reply of a thread.
2. `thread` runs operations on a connection of its own. The writer takes what has queued up
   meanwhile into one immediate transaction, so that one sync to the disk serves many callers.
3. `bells` tells idle claimers and listeners of all processes after a commit. Datagrams may get
   lost; a slow poll is behind them.
"""

from offload.jobs._sqlite.engine import SqliteEngine

__all__ = ["SqliteEngine"]
