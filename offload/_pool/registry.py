"""The pools of this process: their names, who observes all of them, its end and its forks."""

from __future__ import annotations

import atexit
import os
import sys
import threading
import weakref
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from offload._values.call_record import Observer
    from offload._workers.code_on_disk import CodeOnDisk

__all__ = ["ObserverList", "Registered", "Registry"]


class Registered(Protocol):
    """A pool, as the registry knows it."""

    name: str

    @property
    def is_closed(self) -> bool:
        """Whether it was closed, so that its name is free."""
        ...

    def kill(self) -> Future[None]:
        """End all workers now."""
        ...

    def tell_observers(self) -> None:
        """Take note of who observes all pools."""
        ...

    def renew(self) -> None:
        """Have all later calls run by new workers."""
        ...

    def forget_workers(self) -> None:
        """Let go of workers that are not ours: this is a forked copy of the process."""
        ...


T = TypeVar("T", bound=Registered)


class _Listener:
    """One time that an observer was given: it may be given twice."""

    def __init__(self, observer: Observer) -> None:
        self.submitted = observer.submitted
        self.ended = observer.ended


class ObserverList:
    """Observers, in the order in which they were given.

    Args:
        changed: called after each change.
    """

    def __init__(self, changed: Callable[[], None]) -> None:
        self.now: tuple[Observer, ...] = ()
        self._changed = changed

    def add(self, observer: Observer) -> Callable[[], None]:
        """Add an observer; return what takes it back."""
        listener: Observer = _Listener(observer)
        self.now = (*self.now, listener)
        self._changed()

        def end() -> None:
            self.now = tuple(each for each in self.now if each is not listener)
            self._changed()

        return end


class _ImportWatch:
    """Notices that a module is being imported or reloaded, and finds none.

    `importlib.reload`, and whatever uses it (`%autoreload`), asks all finders for the new code of a
    module that is there. Workers have the old one.
    """

    def __init__(self, code: CodeOnDisk, reloaded: Callable[[], None]) -> None:
        self._code = code
        self._reloaded = reloaded

    def find_spec(self, name: str, _path: object = None, target: object = None) -> None:
        """Take note of an import, which has no `target`, or a reload."""
        if target is None:
            self._code.note_import()
        else:
            self._code.forget(name)
            self._reloaded()


class Registry(Generic[T]):
    """Pools by name. All of it may be used on any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._named: dict[str, T] = {}
        # Also those whose name is another's by now: what is open must be closed.
        self._everyone: weakref.WeakSet[T] = weakref.WeakSet()
        self.observers = ObserverList(self._tell_observers)
        self._is_watching = False

    def add(self, pool: T) -> None:
        """Register a pool under its name.

        Raises:
            ValueError: another one has it, and is not closed.
        """
        with self._lock:
            other = self._named.get(pool.name)
            if other is not None and not other.is_closed:
                message = (
                    f"there is a pool named {pool.name!r} already; "
                    f"Pool.named({pool.name!r}) returns it"
                )
                raise ValueError(message)
            self._named[pool.name] = pool
            self._everyone.add(pool)

    def get(self, name: str) -> T | None:
        """Return the pool of this name, None if there is none."""
        return self._named.get(name)

    def discard(self, pool: T) -> None:
        """Free the name of a pool, if it still has it."""
        with self._lock:
            if self._named.get(pool.name) is pool:
                del self._named[pool.name]

    def all(self) -> list[T]:
        """Return the pools by name."""
        with self._lock:
            return [pool for _, pool in sorted(self._named.items())]

    def watch_process(self) -> None:
        """Arrange, once, for what happens to open pools when this process ends or is forked.

        Not at import: exit hooks run last in, first out, and ours must come before those of what an
        open pool imports, while threads still run.
        """
        if self._is_watching:
            return
        self._is_watching = True
        # Not in a worker, which opens no pool: it would import asyncio for it.
        from offload._workers.code_on_disk import code_on_disk

        atexit.register(self._at_exit)
        sys.meta_path.insert(0, _ImportWatch(code_on_disk, self._renew))
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=code_on_disk.begin_anew)
            os.register_at_fork(after_in_child=self._after_fork)

    def _at_exit(self) -> None:
        from concurrent.futures import wait

        ends = [pool.kill() for pool in list(self._everyone)]
        # The supervisors would see to it by themselves; waiting a moment makes the end orderly.
        wait(ends, timeout=2.0)

    def _after_fork(self) -> None:
        for pool in list(self._everyone):
            pool.forget_workers()

    def _renew(self) -> None:
        for pool in list(self._everyone):
            pool.renew()

    def _tell_observers(self) -> None:
        for pool in self.all():
            pool.tell_observers()
