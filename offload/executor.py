"""A pool as a `concurrent.futures.Executor`, for sync frameworks and libraries that take one."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
import weakref
from collections import deque
from concurrent import futures
from concurrent.futures import Executor, Future
from functools import partial
from types import MethodType
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeVar, overload

from offload._child.context import in_worker
from offload._child.functions import apply
from offload._child.main_module import inline
from offload._pool.accepted import accepted
from offload._pool.fanout import Width, is_refusal
from offload._pool.invocation import Invocation, InvocationRunner
from offload._pool.scope import current_scope
from offload._pool.target import (
    Target,
    bound_arguments,
    options_of,
    plain_function,
    reference_of,
    target_of,
)
from offload._values.options import NO_OPTIONS
from offload._workers.keeper import keeper
from offload._workers.logs import log_safely

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Iterator

    from offload._values.options import CallOptions, CallOptionsDict, ResolvedOptions

__all__ = ["PoolExecutor"]

_logger = logging.getLogger("offload.pool")

P = ParamSpec("P")
R = TypeVar("R")


class ViewedPool(InvocationRunner, Protocol):
    """A pool, as its view sees it."""

    max_workers: int

    def promise(self, future: Future[Any]) -> bool:
        """Note a call that was accepted: a pool that is closed lets it end, like all others.

        Returns:
            False if the pool is closed already.
        """
        ...

    async def run_promised(
        self, invocation: Invocation, may_start: Callable[[], bool] | None = None
    ) -> Any:
        """Run a call that was promised; see `InvocationRunner`."""
        ...

    def resolve(self, options: CallOptions) -> ResolvedOptions:
        """Return `options` with what they inherit from the pool."""
        ...


class PoolExecutor(Executor):
    """A view of a pool with the interface and semantics of `concurrent.futures.Executor`.

    Made by `Pool.executor()`; usable on any thread, and with `loop.run_in_executor`. Shutting the
    view down ends the view, not the pool. Unlike stdlib's process pool, it also takes functions
    that are decorated with `@offload`, never breaks, and refuses with `QueueFullError` (as the
    exception of the future) past the pool's `max_queued`. A call that was accepted is run, also if
    nobody waits for it: the interpreter ends when it has ended, and so does a pool that is closed
    with `aclose(drain=None)`. (Python 3.12 starts no thread once the main module has ended: there a
    pool on an executor must have its workers by then.) In a worker a call is run here and now, and
    its future is done.
    """

    def __init__(self, pool: ViewedPool, options: CallOptionsDict | None = None) -> None:
        self._pool = pool
        # What goes before the options of a function's decorator.
        self._changes: CallOptionsDict = options or {}
        self._lock = threading.Lock()
        self._is_shut = False
        self._pending: weakref.WeakSet[Future[Any]] = weakref.WeakSet()
        # On the keeper's thread only: items of `map` that wait for their turn, and how many of
        # them are under way.
        self._items: deque[_Call] = deque()
        self._under_way = 0
        # Two more than workers, so that none of them waits for that thread to hand it the next.
        self._width = Width(pool.max_workers + 2)
        self._mapping = _Mapping(self)

    # What `@offload` made is called on a worker, and its result is no coroutine there.
    @overload
    def submit(
        self, fn: Callable[P, Coroutine[Any, Any, R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Future[R]: ...
    @overload
    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]: ...
    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Schedule a call.

        Args:
            fn: a function, decorated or not; or another callable that pickles, such as a bound
                method or a partial.
            *args: its arguments.
            **kwargs: its keyword arguments.

        Returns:
            A future; its `cancel()` takes a call out of the queue, and returns False once it runs.

        Raises:
            RuntimeError: the view was shut down, or the interpreter ends.
            FunctionError: `fn` cannot be sent to a worker.
        """
        return self._schedule(self._begin, fn, args, kwargs)

    def map(
        self,
        fn: Callable[..., R],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        **options: Any,
    ) -> Iterator[R]:
        """Call `fn` for each item; results come in the order of the items.

        The items do not count as calls that wait in the pool: only so many are handed to it at
        once as keep every worker busy.

        Args:
            fn: as for `submit`.
            *iterables: its arguments, one iterable for each.
            timeout: seconds until the iterator raises `TimeoutError`; None: no limit.
            chunksize: accepted for compatibility; each item is a call of its own here.
            **options: what newer versions of `Executor.map` take, such as `buffersize`.

        Raises:
            ValueError: `chunksize` is below 1.
        """
        if chunksize < 1:
            message = "chunksize must be >= 1."
            raise ValueError(message)
        return self._mapping.map(fn, *iterables, timeout=timeout, **options)

    @property
    def _max_workers(self) -> int:
        # Not public in stdlib's executors either, but dask and pipefunc ask for it.
        return self._pool.max_workers

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT001, FBT002 - stdlib's signature
        """End the view; the pool goes on.

        Args:
            wait: return only when the calls of this view are done.
            cancel_futures: cancel those that wait.
        """
        with self._lock:
            self._is_shut = True
            pending = list(self._pending)
        if cancel_futures:
            for future in pending:
                future.cancel()
        if wait:
            futures.wait(pending)

    def _schedule(
        self,
        begin: Callable[[_Call], None],
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Future[Any]:
        target, args = _target_and_arguments(fn, args)
        invocation = Invocation(target, args, kwargs, self._options(fn))
        is_here = in_worker()
        with self._lock:
            if self._is_shut:
                message = "cannot schedule new futures after shutdown"
                raise RuntimeError(message)
            if not is_here:
                return self._accept(begin, invocation)
        return _done_here(target, args, kwargs)

    def _accept(self, begin: Callable[[_Call], None], invocation: Invocation) -> Future[Any]:
        """Take a call; under the lock."""
        call = _Call(invocation)
        future = call.future
        assert future is not None  # it has not been settled
        accepted.add(future)
        call.is_promised = self._pool.promise(future)
        self._pending.add(future)
        # Until the call has ended, and everybody who waits for it was told.
        keeper.hold()
        keeper.post(begin, call)
        return future

    def _options(self, fn: Callable[..., Any]) -> ResolvedOptions:
        """Return the options of a call that is made here and now: within a deadline, if any is."""
        options, _ = options_of(fn) or (NO_OPTIONS, None)
        resolved = self._pool.resolve(options.merged(self._changes))
        scope = current_scope.get()
        return resolved if scope is None else scope.earliest(resolved)

    def schedule_item(self, fn: Callable[..., Any], args: tuple[Any, ...]) -> Future[Any]:
        """Schedule a call that waits here until it is its turn; for `map`."""
        return self._schedule(self._begin_item, fn, args, {})

    # --- on the keeper's thread ---

    def _begin_item(self, call: _Call) -> None:
        self._items.append(call)
        self._feed()

    def _feed(self) -> None:
        while self._items and self._under_way < self._width.now:
            self._under_way += 1
            call = self._items.popleft()
            call.is_item = True
            self._begin(call, partial(self._item_ended, call))

    def _item_ended(self, call: _Call) -> None:
        self._under_way -= 1
        refusal, call.refusal = call.refusal, None
        if refusal is None:
            self._width.ended()
        elif not self._under_way:
            call.settle(None, refusal)  # nothing of ours fills the queue
        else:
            self._width.refused(self._under_way)
            self._items.appendleft(call)
            keeper.hold()  # `_begin` lets go of it
        if not self._under_way and not self._items:
            # All maps are over: the next one starts afresh, with the workers that there are then.
            self._width = Width(self._pool.max_workers + 2)
        self._feed()

    def _begin(self, call: _Call, ended: Callable[[], None] | None = None) -> None:
        # In the context of whoever submitted it, and not of the item that has just ended.
        call.task = keeper.loop.create_task(call.run(self._pool), context=call.context)

        def done(_: object) -> None:
            call.task = None
            if ended is not None:
                ended()
            keeper.release()

        call.task.add_done_callback(done)


class _Call:
    """One call of a view: a future that somebody has, and the asyncio task that serves it."""

    def __init__(self, invocation: Invocation) -> None:
        # Until it is settled: whoever has it lets go of its result when he likes.
        self.future: Future[Any] | None = Future()
        self.context = contextvars.copy_context()
        # A loop only holds its tasks weakly.
        self.task: asyncio.Task[None] | None = None
        self._invocation = invocation
        self._has_told = False
        # Whether the pool is not to be closed before this has ended.
        self.is_promised = False
        # Whether it is left to the view what becomes of it when it is refused; how it was.
        self.is_item = False
        self.refusal: BaseException | None = None

    async def run(self, pool: ViewedPool) -> None:
        """Make the call and settle the future, whatever happens."""
        loop = asyncio.get_running_loop()
        future, task = self.future, asyncio.current_task()
        assert future is not None
        assert task is not None

        def cancel(done: Future[Any]) -> None:
            if done.cancelled():
                loop.call_soon_threadsafe(task.cancel)

        error: BaseException | None = None
        value: Any = None
        try:
            future.add_done_callback(cancel)
            is_wanted = not future.cancelled()
            del future
            if is_wanted:
                run = pool.run_promised if self.is_promised else pool.run_invocation
                value = await run(self._invocation, self._starts)
        except asyncio.CancelledError:
            error = futures.CancelledError()
        except BaseException as raised:  # noqa: BLE001 - goes to whoever waits for the future
            error = raised
        if self.is_item and error is not None and is_refusal(error):
            self.refusal = error
        else:
            self.settle(value, error)
        del error  # it refers to this frame by way of its traceback

    def settle(self, value: Any, error: BaseException | None) -> None:
        """Tell whoever has the future."""
        # Also of a cancelled future: `wait` and `as_completed` count it only when it was told.
        if not self._starts():
            return
        future, self.future = self.future, None
        assert future is not None
        try:
            if error is None:
                future.set_result(value)
            else:
                future.set_exception(error)
        except BaseException:  # noqa: BLE001 - it is logged
            # Of a callback; stdlib catches no more than `Exception`. This thread is ours.
            log_safely(
                _logger,
                logging.ERROR,
                "a callback of a future of %s raised",
                self._invocation.target.name,
                exc_info=True,
            )

    def _starts(self) -> bool:
        """Make the future run, if it does not yet; False if it was cancelled."""
        future = self.future
        assert future is not None
        if self._has_told:
            return not future.cancelled()
        self._has_told = True
        return future.set_running_or_notify_cancel()


class _Mapping(Executor):
    """Stdlib's `map`, on calls that wait for their turn."""

    def __init__(self, view: PoolExecutor) -> None:
        self._view = view

    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Schedule one item."""
        del kwargs
        return self._view.schedule_item(fn, args)


def _done_here(target: Target, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Future[Any]:
    """Return the future of a call that is made in a worker: it is run at once, by this thread.

    A worker that waited for another of the same pool could wait for itself.
    """
    future: Future[Any] = Future()
    future.set_running_or_notify_cancel()
    function = inline(target.function)
    try:
        value = function(*args, **kwargs)
    except BaseException as error:  # noqa: BLE001 - goes to whoever waits for the future
        future.set_exception(error)
    else:
        future.set_result(value)
    return future


def _target_and_arguments(
    fn: Callable[..., Any], args: tuple[Any, ...]
) -> tuple[Target, tuple[Any, ...]]:
    """Return what a worker calls for `fn(*args)`.

    Raises:
        FunctionError: a worker could not find the function.
    """
    told = options_of(fn)
    if told is not None:
        target = target_of(plain_function(fn), max_concurrency=told[1])
        return target, (*bound_arguments(fn), *args)
    if not isinstance(fn, (type, MethodType)) and isinstance(
        getattr(fn, "__module__", None) and getattr(fn, "__qualname__", None), str
    ):
        return target_of(fn), args
    # Not to be found by name, but perhaps to be pickled: stdlib's pool takes it, so a library that
    # was given an executor may send it.
    name = getattr(fn, "__qualname__", None) or f"{type(fn).__qualname__} object"
    return Target(apply, reference_of(apply)._replace(name=name)), (fn, *args)
