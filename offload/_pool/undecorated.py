"""Functions that are given to a pool directly, and not called by way of their decorator."""

from __future__ import annotations

from types import BuiltinFunctionType, FunctionType
from typing import TYPE_CHECKING, Any

from offload._pool.short_cut import Prepared
from offload._pool.target import options_of, plain_function, target_of
from offload._values.options import NO_OPTIONS

if TYPE_CHECKING:
    from collections.abc import Callable

    from offload._pool.target import Target
    from offload._values.options import CallOptionsDict

__all__ = ["PreparedFunctions"]

# Of how many functions it is remembered where they are.
_MOST = 1000


class _Undecorated:
    """A function, the pool that it was given to, and how many may run there at once."""

    __slots__ = ("function", "max_concurrency", "pool", "target")

    def __init__(
        self, function: Callable[..., Any], pool: Any, max_concurrency: int | None
    ) -> None:
        self.function = function
        self.pool = pool
        self.max_concurrency = max_concurrency
        self.target: Target | None = None

    def resolve(self) -> tuple[Any, Target]:
        """Return where to run what."""
        if self.target is None:
            self.target = target_of(self.function, max_concurrency=self.max_concurrency)
        return self.pool, self.target


class PreparedFunctions:
    """The functions that were given to one pool, each prepared once."""

    def __init__(self, pool: Any) -> None:
        self._pool = pool
        self._prepared: dict[Any, Prepared] = {}
        # Those of plain functions without options: a key of options takes longer to hash than all
        # else that is done here.
        self._plain: dict[FunctionType | BuiltinFunctionType, Prepared] = {}

    def of(self, function: Any, changes: CallOptionsDict | None = None) -> Prepared:
        """Return what calls a function, decorated or not.

        Args:
            function: a decorated one keeps the options of its decorator.
            changes: options that go before those.
        """
        is_plain = changes is None and isinstance(function, (FunctionType, BuiltinFunctionType))
        if is_plain and (known := self._plain.get(function)) is not None:
            return known
        plain = plain_function(function)
        options, max_concurrency = options_of(function) or (NO_OPTIONS, None)
        if changes:
            options = options.merged(changes)
        key: Any = None
        # What else can be called may compare equal to another.
        if isinstance(plain, (FunctionType, BuiltinFunctionType)):
            key = plain, options, max_concurrency
            prepared = self._prepared.get(key)
            if prepared is not None:
                return prepared
        prepared = Prepared(_Undecorated(plain, self._pool, max_concurrency), options)
        # A function that is sent by value is so as it is now, with what it refers to.
        if key is not None and not prepared.definition.resolve()[1].by_value:
            if len(self._prepared) >= _MOST:  # somebody makes them by the thousand
                self._prepared.clear()
                self._plain.clear()
            self._prepared[key] = prepared
            if is_plain:
                self._plain[function] = prepared
        return prepared
