"""What workers are kept from; see `Hardening`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple, Self

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Hardening"]


class _Hardening(NamedTuple):
    network: bool = False
    writable: tuple[str, ...] = ()
    user: int | str | None = None
    strict: bool = True


class Hardening(_Hardening):
    """What the workers of a pool are kept from, by the kernel (Linux): `Pool(harden=Hardening(…))`.

    They change no file, make no socket, signal no process but those that they have started, read no
    other process's memory, have no capabilities and get none by programs that they start, make no
    namespaces, and leave no core dumps. So it is for all that they start, and for good. What they
    may *read* is not changed, nor what they have open: standard output and error.

    It holds from the start of a worker on, before its initializer and `preload` (with forkserver,
    `preload` is imported before that, by the supervisor). What this costs, and which kernel has
    what, is told in the page on operating. Immutable.

    Args:
        network: whether they may make sockets, as anybody. Else pairs of sockets for themselves.
        writable: files, and folders with all that is below them, in which they may write, and make
            and remove files; such as `(tempfile.gettempdir(),)`. They must be there. Modes, owners,
            times and attributes cannot be changed there either. `("/",)` is everything.
        user: the user that they run as, by number or name, with its groups: only a server that runs
            as root may ask for that. It must be able to read the code.
        strict: whether no worker is started where the system does not allow all of it. Else workers
            do with what there is; the log, `PoolStatistics.missing_walls`, `repr(pool)` and
            `offload doctor` tell what is missing.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: there is no such user number.
    """

    __slots__ = ()

    def __new__(
        cls,
        *,
        network: bool = False,
        writable: Iterable[str | os.PathLike[str]] = (),
        user: int | str | None = None,
        strict: bool = True,
    ) -> Self:
        """Check it."""
        flags: tuple[tuple[str, object], ...] = (("network", network), ("strict", strict))
        for name, value in flags:
            if not isinstance(value, bool):
                message = f"{name} must be True or False, not {value!r}"
                raise TypeError(message)
        if isinstance(writable, (str, os.PathLike)):
            message = f"writable must be several paths, such as [{os.fspath(writable)!r}], not one"
            raise TypeError(message)
        if user is not None and (isinstance(user, bool) or not isinstance(user, (int, str))):
            message = f"user must be the number or the name of a user, not {user!r}"
            raise TypeError(message)
        if isinstance(user, int) and user <= 0:
            message = f"user must be the number of a user who is not root, not {user}"
            raise ValueError(message)
        paths = tuple(os.path.abspath(os.fsdecode(path)) for path in writable)
        return super().__new__(cls, network, paths, user, strict)
