"""What the workers behind the dashboard under test run."""

from typing import NoReturn

from offload import offload

POOL = "paged"


@offload(pool=POOL)
def fail(text: str) -> NoReturn:
    raise ValueError(text)


@offload(pool=POOL)
def double(number: int) -> int:
    return 2 * number


@offload(pool=POOL)
def spin() -> NoReturn:
    while True:
        pass
