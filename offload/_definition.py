"""What `@offload` was given: the function, where it runs, and what its calls are told."""

from __future__ import annotations

import sys
from types import FunctionType
from typing import TYPE_CHECKING, Any, cast

from offload._child.functions import remember
from offload._pool.short_cut import call
from offload._pool.target import Target, check, is_offloaded, reference_of
from offload.errors import FunctionError

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CodeType

    from offload._values.reference import Reference
    from offload.jobs import Jobs
    from offload.pool import Pool

__all__ = ["Definition"]

_CO_COROUTINE = 0x80


class Definition:
    """One decoration: shared by all objects that stem from it, with other options or bound."""

    __slots__ = (
        "_code",
        "_reference",
        "_target",
        "binds_class",
        "call",
        "function",
        "jobs",
        "max_concurrency",
        "pool",
    )

    def __init__(
        self, function: Any, pool: Pool | str, max_concurrency: int | None, jobs: Jobs | None
    ) -> None:
        self.binds_class: bool | None = None  # None: an instance method or a plain function
        if isinstance(function, (staticmethod, classmethod)):
            self.binds_class = isinstance(function, classmethod)
            function = cast("Any", function).__func__
        if is_offloaded(function):
            message = f"{function!r} is offloaded already; decorate it once"
            raise FunctionError(message)
        check(function)
        self.function: Callable[..., Any] = function
        self.pool: Pool | str = pool
        self.max_concurrency: int | None = max_concurrency
        self.jobs: Jobs | None = jobs
        self.call: FunctionType = _named_after(function)
        self._code: CodeType | None = None
        self._reference: Reference | None = None
        self._target: Target | None = None

    @property
    def name(self) -> str:
        """`module:qualname` of the function, for people."""
        return f"{self.function.__module__}:{self.function.__qualname__}"

    @property
    def pool_name(self) -> str:
        """The name of the pool, there or not."""
        return self.pool if isinstance(self.pool, str) else self.pool.name

    @property
    def reference(self) -> Reference:
        """What the function is found by; looked up when every module is complete.

        One that is sent by value is so as it is now, with what it refers to: of a notebook, any
        cell may have been run again.
        """
        if self._reference is None or self._reference.is_by_value:
            self._reference = reference_of(self.function)
        return self._reference

    def resolve(self) -> tuple[Pool, Target]:
        """Return where to run what; asked at the first call, when every module is complete.

        Raises:
            PoolNotFoundError: there is no pool of that name (yet).
            FunctionError: a worker could not find the function.
        """
        pool = self.pool
        if isinstance(pool, str):
            from offload.pool import Pool

            pool = Pool.named(pool)
        if self._target is None or self._target.by_value:
            self._target = Target(
                self.function, self.reference, max_concurrency=self.max_concurrency
            )
        return pool, self._target

    def code(self, *, is_coroutine: bool) -> CodeType:
        """Return the code of the function, for those who ask the object that was made of it.

        Args:
            is_coroutine: whether its flags say `async def`.
        """
        if self._code is None:
            code: CodeType | None = getattr(self.function, "__code__", None)
            if code is None:  # written in C, or an object that is called
                code = self.call.__code__
            elif is_coroutine:
                code = code.replace(co_flags=code.co_flags | _CO_COROUTINE)
            self._code = code
        return self._code

    def is_in_classmethod(self) -> bool:
        """Return whether `@classmethod` stands above `@offload`, where its class says so."""
        found: Any = sys.modules.get(self.function.__module__)
        for name in self.function.__qualname__.split("."):
            found = getattr(found, "__dict__", {}).get(name)
        return isinstance(found, classmethod)

    def remember(self, made: Any) -> None:
        """Have workers find `made` by the name of the function, whatever else stands under it."""
        remember(self.name, made)


def _named_after(function: Any) -> FunctionType:
    """Return `call` under the name of a user's function.

    A coroutine takes its name from the function that makes it: "coroutine 'report' was never
    awaited", and tasks and debuggers show whose call it is. The code is shared, and no call pays.
    """
    qualname: str = function.__qualname__
    name = qualname.rpartition(".")[2]
    made = FunctionType(call.__code__, call.__globals__, name, call.__defaults__, call.__closure__)
    made.__kwdefaults__ = call.__kwdefaults__
    made.__qualname__ = qualname
    return made
