"""One code base, several programs: which part of it a program runs is its role.

```python
async with Program("images", jobs=jobs, role="web,worker").running():
    ...
```

`offload.starlette.lifespan` is this for Starlette and FastAPI, and `offload run` starts a process
for each role.

Guarantees:

1. What is not of the role is not started, costs nothing, and is named in the log, once.
2. Opened in this order, and closed in the other: pools, jobs, what the application does inside,
   worker loops, schedules. So nothing runs before the application is there for it.
3. Whatever ends the start or the service (an error, a cancellation, an orderly end), everything
   that was touched is closed, unless another program of the process holds it.
"""

from __future__ import annotations

from offload.roles._program import Program
from offload.roles._role import Role, current_role

__all__ = ["Program", "Role", "current_role"]
