"""Django's tasks as jobs: a backend for `django.tasks`, which came with Django 6.

```python
TASKS = {"default": {"BACKEND": "offload.django.OffloadBackend"}}
```

A task is enqueued durably where `OFFLOAD_JOBS` says, else in an SQLite file, and is run by
`offload worker offload.django.worker:jobs`, in a worker process where Django is set up. What jobs
promise holds for tasks: each ends once, whoever is killed, and what crashes costs one attempt.
"""

from __future__ import annotations

from offload.django._backend import OffloadBackend

__all__ = ["OffloadBackend"]
