"""Random numbers of forked workers: each has its own, and not the copy of one state.

A fork copies the state of every generator that exists by then. Python sees to that of the module
`random` (`os.register_at_fork`); that of numpy, of torch, and generators that a preloaded module
keeps in a variable would give all workers the same numbers, and those that follow a recycled one
again.
"""

from __future__ import annotations

import sys
from functools import partial

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ["find_generators", "reseed"]

_found: dict[int, Any] = {}


def find_generators() -> None:
    """Note the generators that modules have in variables, in the process that is forked later."""
    kinds = tuple(
        kind
        for module, names in (
            ("random", ("Random",)),
            ("numpy.random", ("RandomState", "Generator")),
        )
        for name in names
        if (kind := getattr(sys.modules.get(module), name, None)) is not None
    )
    if not kinds:
        return
    for module in list(sys.modules.values()):
        for value in list(getattr(module, "__dict__", {}).values()):
            if isinstance(value, kinds):
                _found[id(value)] = value


def reseed() -> None:
    """Give this process, just forked, states of its own, from the operating system's entropy."""
    for module in ("numpy.random", "torch"):
        _do(getattr(sys.modules.get(module), "seed", None))
    for generator in _found.values():
        bits = getattr(generator, "bit_generator", None)
        if bits is None:
            _do(getattr(generator, "seed", None))
        else:
            _do(partial(_renew, bits))


def _renew(bits: Any) -> None:
    bits.state = type(bits)().state


def _do(seed: Callable[[], object] | None) -> None:
    try:
        if seed is not None:
            seed()
    except Exception:  # noqa: S110 - of a kind that cannot be seeded: as good as it was
        pass
