"""What the workers behind the dashboard under test run."""

from typing import NoReturn

from offload import offload, task_context

POOL = "paged"


@offload(pool=POOL)
def fail(text: str) -> NoReturn:
    raise ValueError(text)


@offload(pool=POOL)
def double(number: int) -> int:
    return 2 * number


@offload(pool=POOL)
def spin(_: str = "") -> NoReturn:
    while True:
        pass


@offload(pool=POOL)
def tell_and_spin(name: str) -> NoReturn:
    task = task_context()
    assert task is not None
    task.progress(1, 4)
    spin(name)
