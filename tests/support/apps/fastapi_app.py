"""A FastAPI application as its users write one: models, functions and endpoints in one module."""

from __future__ import annotations

import os
from typing import Annotated

from fastapi import Depends, FastAPI, Header, Request
from pydantic import BaseModel

from offload import Pool, offload
from offload.starlette import add_exception_handlers, lifespan

# Preloaded: importing FastAPI anew, in the worker that follows a crash, takes a second.
pool = Pool("fastapi-tests", max_workers=1, preload=["tests.support.apps.fastapi_app"])
app = FastAPI(lifespan=lifespan(pool, drain=0))
add_exception_handlers(app)


class Order(BaseModel):
    """What a client posts."""

    item: str
    count: int = 1


class Receipt(BaseModel):
    """What it gets."""

    item: str
    total: int
    pid: int


@offload(pool="fastapi-tests")
def price(order: Order) -> Receipt:
    """Take and return models."""
    return Receipt(item=order.item, total=order.count * 3, pid=os.getpid())


@app.post("/awaited")
async def awaited(order: Order) -> Receipt:
    """Await a decorated function."""
    return await price(order)


@app.get("/number")
@offload(pool="fastapi-tests")
def number(n: int, factor: int = 2) -> dict[str, int]:
    """Be an endpoint that runs on a worker."""
    return {"result": n * factor, "pid": os.getpid()}


@app.post("/model")
@offload(pool="fastapi-tests")
def model(order: Order) -> Receipt:
    """Be an endpoint that takes and returns models."""
    return Receipt(item=order.item, total=order.count * 3, pid=os.getpid())


def tenant(x_tenant: Annotated[str, Header()]) -> str:
    """Be a dependency that runs in the server."""
    return f"{x_tenant} of {os.getpid()}"


@offload(pool="fastapi-tests")
def heavy_dependency(n: int) -> int:
    """Be a dependency that runs on a worker."""
    return n * os.getpid()


@app.get("/depending")
@offload(pool="fastapi-tests")
def depending(
    tenant: Annotated[str, Depends(tenant)], product: Annotated[int, Depends(heavy_dependency)]
) -> dict[str, str | int]:
    """Be an endpoint with dependencies."""
    return {"tenant": tenant, "product": product, "pid": os.getpid()}


@app.get("/request/{name}")
@offload(pool="fastapi-tests")
def of_request(request: Request, name: str) -> dict[str, str | int]:
    """Be an endpoint that looks at the request."""
    return {"path": request.url.path, "name": name, "pid": os.getpid()}


@app.get("/crash")
@offload(pool="fastapi-tests")
def crash() -> None:
    """Be an endpoint that takes its worker down."""
    os._exit(3)
