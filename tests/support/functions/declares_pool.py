"""A module that declares a pool and an offloaded function, as one of a server does."""

import sys

from offload import Pool, offload

pool = Pool("declared with a function", max_workers=1)


@offload(pool=pool)
def imported(*names: str) -> list[str]:
    return [name for name in names if name in sys.modules]
