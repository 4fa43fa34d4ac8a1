"""The way of a call from its function to a pool, by the shortest path that there is for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from offload._child.context import process, running_task
from offload._child.main_module import inline
from offload._pool.invocation import Invocation
from offload._pool.request_meta import is_plain
from offload._pool.scope import current_scope
from offload._values.outcome import Outcome
from offload._wire.frames import Flag, Kind
from offload._wire.lean import pickle
from offload._wire.pickling import is_of_signal

if TYPE_CHECKING:
    from collections.abc import Callable

    from offload._pool.periods import Periods
    from offload._pool.target import Target
    from offload._values.options import CallOptions, ResolvedOptions

    class Definition(Protocol):
        """What is to be run, and where."""

        function: Callable[..., Any]

        def resolve(self) -> tuple[Any, Target]:
            """Return the pool and the target, as they are now."""
            ...


__all__ = ["Plan", "Prepared", "call"]


class Plan(NamedTuple):
    """Where a call goes.

    Attributes:
        pool: a `Pool`.
        target: the function.
        options: with nothing left to inherit.
        may_be_short: whether a call of these options may take the short cut.
        periods: of the pool.
    """

    pool: Any
    target: Target
    options: ResolvedOptions
    may_be_short: bool
    periods: Periods


class Prepared:
    """A definition with its options, and the plan that was made of them last."""

    __slots__ = ("definition", "options", "plan")

    def __init__(self, definition: Definition, options: CallOptions) -> None:
        self.definition = definition
        self.options = options
        self.plan: Plan | None = None

    def resolve(self) -> Plan:
        """Make the plan.

        To be asked again while the pool has no workers: it may have been closed, and its name may
        be that of another now.
        """
        pool, target = self.definition.resolve()
        options = pool.resolve(self.options)
        plan = Plan(pool, target, options, is_plain(options), pool._periods)  # noqa: SLF001 - of this package, read on the path of each call
        # What is sent by value is so as it is at each call.
        self.plan = None if target.by_value else plan
        return plan


async def call(prepared: Prepared, /, *args: Any, **kwargs: Any) -> Any:  # noqa: C901 - as below
    """Run a call on a worker and return its result; in a worker, here and now."""
    if process.is_worker or running_task.get(None) is not None:
        # Nested: the worker is where heavy work belongs already.
        return inline(prepared.definition.function)(*args, **kwargs)
    plan = prepared.plan
    # One that is closing may have a successor of its name.
    running = None if plan is None or plan.periods.is_closed else plan.periods.running
    if plan is None or running is None:
        plan = prepared.resolve()
    pool, target, options, may_be_short, _ = plan
    scope = current_scope.get()
    if scope is not None:
        return await scope.run(pool, Invocation(target, args, kwargs, options))
    if running is None or running.running_loop() is None:
        return await pool.run_invocation(Invocation(target, args, kwargs, options))
    task = None
    if may_be_short and running.takes_short_cut:
        task = running.begin(target, args, kwargs, options)
    if task is None:
        return await running.run_long(Invocation(target, args, kwargs, options))
    # Here and not in a coroutine of the pool: each layer of coroutines costs as much as all of the
    # decisions.
    try:
        await task.future
    except GeneratorExit:
        running.drop(task)
        raise
    except BaseException:
        running.leave(task)
        raise
    frame = task.frame
    if frame is not None and frame.kind == Kind.RESULT and not frame.flags & Flag.NOT_INLINE:
        try:
            value = pickle.loads(frame.body)
        except BaseException as error:
            if not isinstance(error, Exception) and is_of_signal(error):
                running.leave(task)
                raise
            # Said below, as of every other reply.
        else:
            # `call_ended`, without the call: what has ended is folded with the call's attempt.
            task.lane.account.ended.append(Outcome.COMPLETED)
            return value
    return await running.value_of(task, target)
