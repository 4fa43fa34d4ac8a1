"""Functions of modules that were loaded from a file, and not found by their name."""

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from offload import Pool

MODULE = """
from offload import offload

class Row:
    def __init__(self, n):
        self.n = n

@offload(pool="places")
def double(row):
    return getattr(row, "n", row) * 2
"""


def load(name: str, file: Path) -> ModuleType:
    """Load a module from a file under any name, as pytest and others do."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(MODULE)
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def modules(tmp_path: Path) -> Iterator[list[ModuleType]]:
    """Load modules at the top, below a package that is nowhere, and twice of one file name."""
    names = ["placed_alone", "placed.unit.test_a", "placed.test_a", "placed-with-dashes"]
    yield [load(name, tmp_path / str(n) / "test_a.py") for n, name in enumerate(names)]
    for name in names:
        del sys.modules[name]


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.anyio
async def test_workers_find_modules_that_were_loaded_from_files(
    modules: list[ModuleType], method: str
) -> None:
    """A function, and the class of its argument, is found in the file that the server has."""
    async with Pool("places", max_workers=1, start_method=method, os_priority="normal"):
        assert await modules[0].double(modules[0].Row(4)) == 8
        assert [await each.double(4) for each in modules] == [8] * len(modules)
