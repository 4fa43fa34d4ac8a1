"""Leaves a thread in the supervisor, and does not import in a worker."""

import os
import threading

from offload._child import context

if "OFFLOAD_WORKER" in os.environ:
    raise RuntimeError("not here")
assert context.process.is_worker
threading.Thread(target=threading.Event().wait, daemon=True).start()
