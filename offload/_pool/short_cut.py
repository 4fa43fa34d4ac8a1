"""The way of a call from its function to a pool, by the shortest path that there is for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from offload._child.context import in_worker
from offload._child.main_module import inline
from offload._pool.scope import current_guard
from offload._wire.frames import Flag, Kind
from offload._wire.lean import pickle
from offload._wire.pickling import is_of_signal

if TYPE_CHECKING:
    from collections.abc import Callable

    from offload._pool.target import Target
    from offload._values.options import CallOptions, ResolvedOptions

    class Definition(Protocol):
        """What is to be run, and where."""

        function: Callable[..., Any]

        def resolve(self) -> tuple[Any, Target]:
            """Return the pool and the target, as they are now."""
            ...


__all__ = ["Prepared", "call"]


class Prepared:
    """A definition with its options: where a call goes, found out once."""

    __slots__ = ("definition", "options", "plan")

    def __init__(self, definition: Definition, options: CallOptions) -> None:
        self.definition = definition
        self.options = options
        self.plan: tuple[Any, Target, ResolvedOptions, bool] | None = None

    def resolve(self) -> tuple[Any, Target, ResolvedOptions, bool]:
        """Return pool, target, options, and whether these are such that a call may be short.

        To be asked again while the pool has no workers: it may have been closed, and its name may
        be that of another now.
        """
        pool, target = self.definition.resolve()
        options = pool.resolve(self.options)
        is_plain = not options.single_flight and not options.max_crash_retries
        plan = self.plan = pool, target, options, is_plain
        return plan


async def call(prepared: Prepared, /, *args: Any, **kwargs: Any) -> Any:  # noqa: C901 - as below
    """Run a call on a worker and return its result; in a worker, here and now."""
    if in_worker():
        # Nested: the worker is where heavy work belongs already.
        return inline(prepared.definition.function)(*args, **kwargs)
    plan = prepared.plan
    # One that is closing may have a successor of its name.
    engine = None if plan is None or plan[0]._is_closed else plan[0]._running  # noqa: SLF001 - on the path of each call
    if plan is None or engine is None:
        plan = prepared.resolve()
    pool, target, options, is_plain = plan
    guard = current_guard.get()
    if guard is not None:
        return await guard.call(pool.run_target, target, args, kwargs, options)
    if engine is None or engine.running_loop() is None:
        return await pool.run_target(target, args, kwargs, options)
    begun = None
    if is_plain and engine.takes_short_cut:
        begun = engine.begin(target, args, kwargs, options)
    if begun is None:
        return await engine.run(target, args, kwargs, options)
    # Here and not in a coroutine of the engine: each layer of coroutines costs as much as all of
    # the decisions.
    try:
        await begun.future
    except GeneratorExit:
        engine.dropped(begun)
        raise
    except BaseException:
        engine.leave(begun)
        raise
    reply = begun.reply
    if reply is not None and reply.kind == Kind.RESULT and not reply.flags & Flag.NOT_INLINE:
        try:
            return pickle.loads(reply.body)
        except BaseException as error:
            if not isinstance(error, Exception) and is_of_signal(error):
                raise
            # Said below, as of every other reply.
    return await engine.value_of(begun, target)
