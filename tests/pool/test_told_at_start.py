"""What goes wrong in workers before the first call is told at the start, where the server logs."""

import logging
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from offload import Pool
from tests.support.functions import hostile as hostile_functions
from tests.support.functions import pool as functions
from tests.support.processes import until

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("anyio_backend", ["asyncio"])]

MODULE = """
from offload import offload, in_worker

@offload(pool={pool})
def told(_):
    return 1

if in_worker():
    {broken}
"""


@pytest.mark.parametrize("broken", ["import nothing_like_this", "raise SystemExit(3)", "1 / 0"])
@pytest.mark.parametrize("is_named", ["named", "given"])
async def test_module_that_does_not_import_in_a_worker_is_told_at_the_start(
    broken: str,
    is_named: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The log has it once, however many workers there are, before any call has failed."""
    name = f"told_{len(broken)}_{is_named}"
    monkeypatch.syspath_prepend(tmp_path)
    given = "__import__('offload').Pool.named('told')" if is_named == "given" else "'told'"
    (tmp_path / f"{name}.py").write_text(MODULE.format(pool=given, broken=broken))
    pool = Pool("told", max_workers=2, min_workers=2, os_priority="normal")
    __import__(name)
    with caplog.at_level(logging.ERROR, "offload.workers"):
        async with pool:
            assert await pool.run(functions.echo, 1) == 1
        await until(lambda: caplog.records)
    told = [record for record in caplog.records if name in record.getMessage()]
    assert len(told) == 1
    assert "does not import in a worker" in told[0].getMessage()
    assert "Traceback" in str(told[0].exc_text)


@pytest.mark.parametrize("how", ["dictConfig", "basicConfig", "fileConfig", "by hand"])
async def test_initializer_that_sets_up_logging_takes_no_record_away(
    how: str, tmp_path: Path, new_pool: Callable[..., Pool], caplog: pytest.LogCaptureFixture
) -> None:
    """The server hears what workers log, and the worker's own file has it as well."""
    path = tmp_path / "worker.log"
    pool = new_pool(
        max_workers=1, initializer=hostile_functions.set_up_logging, initargs=(how, str(path))
    )
    with caplog.at_level(logging.INFO):
        async with pool:
            await pool.run(hostile_functions.say, "heard")
        await until(lambda: caplog.records)
    assert "heard" in caplog.text
    assert "heard" in path.read_text()


async def test_record_is_shown_once_where_worker_and_server_are_set_up_alike(
    tmp_path: Path, new_pool: Callable[..., Pool], capfd: pytest.CaptureFixture[str]
) -> None:
    """An initializer that does what the server does to its logging doubles no line."""
    console = logging.StreamHandler(sys.stderr)
    logging.root.addHandler(console)
    try:
        pool = new_pool(
            max_workers=1,
            initializer=hostile_functions.set_up_logging,
            initargs=("console", str(tmp_path / "none")),
        )
        async with pool:
            await pool.run(hostile_functions.say, "only once")
    finally:
        logging.root.removeHandler(console)
    assert capfd.readouterr().err.count("only once") == 1
