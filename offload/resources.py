"""Large data that workers share: loaded once, before they are forked.

```python
# app/models.py
from offload.resources import resource


@resource
def model() -> Model:
    return Model.load("model.bin")


@offload(pool="models")
def predict(row: list[float]) -> float:
    return model().predict(row)


# app/main.py
pool = Pool("models", preload=["app.models:model"])
```
"""

from __future__ import annotations

from offload._child.resource import Resource, resource

__all__ = ["Resource", "resource"]
