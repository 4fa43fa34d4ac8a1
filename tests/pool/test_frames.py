"""Data frames and Arrow tables: their columns cross beside the pickle, and come back equal."""

import asyncio
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from offload import Pool
from offload._wire.large import decode_large, encode_large, layout_of
from tests.support.functions import crossing as functions

# In the group `test-all` only.
pd = pytest.importorskip("pandas")
pa = pytest.importorskip("pyarrow")

ROWS = 200_000


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    """One pool for all tests of this module."""
    pool = Pool("frames", max_workers=1)
    asyncio.run(pool.open())
    yield pool
    asyncio.run(pool.aclose(drain=5.0))


def frame(rows: int = ROWS) -> pd.DataFrame:
    """Return a data frame of numbers and times."""
    numbers = np.arange(rows)
    return pd.DataFrame(
        {
            "id": numbers,
            "value": numbers / 7,
            "flag": numbers % 2 == 0,
            "at": pd.Timestamp("2026-01-01") + pd.to_timedelta(numbers, unit="s"),
            "kind": pd.Categorical.from_codes(numbers % 3, ["a", "b", "c"]),
        }
    )


def table(rows: int = ROWS) -> pa.Table:
    """Return an Arrow table with text and missing values."""
    numbers = range(rows)
    return pa.table(
        {
            "id": list(numbers),
            "name": [f"näme {number}" for number in numbers],
            "value": [None if number % 5 == 0 else number / 3 for number in numbers],
        }
    )


FRAMES = {
    "frame": frame,
    "one row": lambda: frame(1),
    "no rows": lambda: frame(0),
    "transposed": lambda: frame(2_000)[["id", "value"]].astype("f8").T,
    "every third row": lambda: frame()[::3],
    "series": lambda: frame()["value"],
    "text": lambda: pd.DataFrame({"name": [f"näme {number}" for number in range(20_000)]}),
    "indexed": lambda: frame(50_000).set_index(["kind", "id"]),
}


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("kind", FRAMES)
async def test_frames_come_back_equal(pool: Pool, kind: str) -> None:
    """Whatever the columns and their layout, the same frame comes back, and can be written to."""
    value = FRAMES[kind]()
    again = await pool.run(functions.echo, value)
    check: Any = (
        pd.testing.assert_series_equal
        if isinstance(value, pd.Series)
        else pd.testing.assert_frame_equal
    )
    check(again, value)
    if kind == "frame":
        again.loc[0, "value"] = 5.0
        assert (again.loc[0, "value"], value.loc[0, "value"]) == (5.0, 0.0)


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("rows", [0, 1, 1_000, ROWS])
async def test_arrow_tables_come_back_equal(pool: Pool, rows: int) -> None:
    """Tables, slices of them and single columns cross."""
    value = table(rows)
    for part in (value, value.slice(rows // 3, rows // 2), value["name"]):
        assert (await pool.run(functions.echo, {"deep": [part]}))["deep"][0].equals(part)


# But for times: numpy exports no buffer of those.
@pytest.mark.parametrize("make", [lambda: frame().drop(columns="at"), table])
def test_columns_are_out_of_band(make: Any) -> None:
    """What is pickled is the description; the columns are mapped where they arrive, not copied."""
    value = make()
    body, fd, size = encode_large(value)
    stream, layout, _ = layout_of(body, fd)
    assert stream < 20_000
    assert sum(length for _, length in layout) > 0.98 * size
    again = decode_large(body, fd)
    assert again.equals(value)
