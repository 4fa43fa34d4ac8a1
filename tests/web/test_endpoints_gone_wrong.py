"""Endpoints as a new user writes them: they work, or the answer says what to write."""

import io
import logging
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import pytest
from fastapi import FastAPI, Form, UploadFile
from pydantic import BaseModel
from starlette.datastructures import UploadFile as StarletteUpload
from starlette.testclient import TestClient

from offload import ArgumentError, Pool, offload
from offload.starlette import exception_handlers
from tests.support import inside
from tests.support.functions import generics
from tests.support.processes import PATIENCE

pytestmark = pytest.mark.filterwarnings("ignore:Using `httpx` with")
SIZES = pytest.mark.parametrize("size", [3, 3 << 20], ids=["small", "large"])


class Filled(BaseModel):
    """A form with a file in it."""

    file: UploadFile


@offload(pool="gone wrong")
def size_of(file: UploadFile) -> int:
    """Read an upload, which does not get here."""
    return len(file.file.read())


def all_sizes(files: Any) -> int:
    """Take uploads in whatever they are, which do not get here either."""
    return len(files)


@pytest.fixture
def pool() -> Iterator[Pool]:
    """Return the pool of the functions above."""
    pool = Pool("gone wrong", max_workers=1, os_priority="normal")
    yield pool
    pool.kill().result(PATIENCE)
    inside.forget_if_known(pool.name)


@SIZES
def test_upload_of_any_size_is_the_same_answer(
    pool: Pool, size: int, caplog: pytest.LogCaptureFixture
) -> None:
    """An `UploadFile` as an argument names the way in which its file crosses, small or large."""
    app = FastAPI(exception_handlers=exception_handlers)
    app.post("/one")(size_of)

    async def of_list(files: list[UploadFile]) -> int:
        return await pool.run(all_sizes, files)

    async def of_form(form: Annotated[Filled, Form()]) -> int:
        return await pool.run(all_sizes, form)

    app.post("/list")(of_list)
    app.post("/form")(of_form)
    client = TestClient(app, raise_server_exceptions=False)
    for path, field in (("/one", "file"), ("/list", "files"), ("/form", "file")):
        caplog.clear()
        with caplog.at_level(logging.ERROR):
            response = client.post(path, files={field: io.BytesIO(b"x" * size)})
        assert response.status_code == 500
        assert "spool_upload" in caplog.text, path


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.anyio
async def test_upload_of_starlette_is_refused_likewise(pool: Pool) -> None:
    """The class that FastAPI's stems from is told by its own name."""
    with pytest.raises(ArgumentError, match=r"'files', at files\['a'\],.*spool_upload"):
        await pool.run(all_sizes, {"a": StarletteUpload(io.BytesIO(b"x"))})


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.anyio
async def test_generic_models_cross(pool: Pool) -> None:
    """`Page[Item]` is no name in any module, and arrives as what it is, both ways."""
    page = generics.Page[generics.Item](items=[generics.Item(name="a")])
    values: list[Any] = [
        page,
        {"deep": [page]},
        generics.Page[int](items=[1]),
        generics.Page[list[int]](items=[[1]]),
        generics.Page[generics.Page[int]](items=[generics.Page[int](items=[1])]),
        generics.Pair[int, str](first=1, second="b"),
        generics.Named(items=[2]),
        generics.Page[int],
    ]
    for value in values:
        found = await pool.run(generics.same, value)
        assert found == value
        assert type(found) is type(value)
    assert await pool.run(generics.make, 2) == generics.Page[int](items=[0, 1])


ROUTED: list[tuple[str, Callable[[Any], Any]]] = [
    ("get", lambda app: app.get("/x")),
    ("post", lambda app: app.post("/x")),
    ("router", lambda app: app.router.get("/x")),
]


@pytest.mark.parametrize("name, decorator", ROUTED, ids=[name for name, _ in ROUTED])
def test_decorator_above_the_one_of_a_route_is_told(
    name: str, decorator: Callable[[Any], Any], caplog: pytest.LogCaptureFixture
) -> None:
    """`@offload` above `@app.get` offloads nothing, and says so at once, with what to write."""
    app = FastAPI()
    names: dict[str, Any] = {"__name__": __name__, "app": app}
    exec(f"def {name}_x(n: int = 1) -> int: return n", names)  # noqa: S102 - at the top of a module
    function = names[f"{name}_x"]
    with caplog.at_level(logging.WARNING, "offload.pool"):
        offload(decorator(app)(function))
    assert f"{name}_x is an endpoint already" in caplog.text
    caplog.clear()
    exec(f"def {name}_y(n: int = 1) -> int: return n", names)  # noqa: S102 - as above
    with caplog.at_level(logging.WARNING, "offload.pool"):
        decorator(app)(offload(names[f"{name}_y"]))
    assert not caplog.records
