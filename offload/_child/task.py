"""Runs one request and makes its reply; the same code in a worker of our own and of an executor."""

from __future__ import annotations

import sys

from offload._child import context
from offload._child.functions import NotFoundError, find, resolve
from offload._wire.exceptions import may_be_raised, message_of, summary, trace, type_name
from offload._wire.frames import Kind
from offload._wire.lean import contextvars, pickle
from offload._wire.raised import dump_raised

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


class Failure(Exception):  # noqa: N818 - carries a finished reply to the place that sends it
    """The request ended in a reply of this kind."""

    def __init__(self, kind: int, detail: tuple[Any, ...]) -> None:
        super().__init__(kind, detail)
        self.kind = kind
        self.detail = detail
        # What went wrong, where that was an exception.
        self.of: type[BaseException] = BaseException


def prepare(
    load: Callable[[bytes], Any], body: bytes
) -> tuple[
    contextvars.Context,
    Callable[..., Any],
    tuple[Any, ...],
    dict[str, Any],
    dict[str, Any] | None,
]:
    """Unpickle a request and find its function.

    Args:
        load: makes (reference, arguments, keywords, meta) of the body.
        body: of the request.

    Returns:
        The context to run it in, which nothing survives; the function, its arguments and keywords;
        the request's meta data, if it has any.

    Raises:
        Failure: the arguments do not unpickle, or the function is not found.
    """
    try:
        reference, arguments, keywords, meta = load(body)
    except NotFoundError as error:
        # The class of an argument is in a main module that cannot be run here.
        raise Failure(Kind.NOT_FOUND, (str(error), trace(error))) from None
    except BaseException as error:
        # BaseException: an argument's __setstate__ may do anything, sys.exit() included.
        raise Failure(Kind.BAD_ARGUMENT, (summary(error), trace(error))) from None
    try:
        function = resolve(reference)
    except NotFoundError as error:
        raise Failure(Kind.NOT_FOUND, (str(error), trace(error))) from None
    if isinstance(arguments, bytes):
        # Sent by value: unpickled only now, when the classes that came with the function exist.
        try:
            arguments, keywords = pickle.loads(arguments)
        except BaseException as error:
            raise Failure(Kind.BAD_ARGUMENT, (summary(error), trace(error))) from None
    scope = contextvars.copy_context()
    if meta is None:
        scope.run(context.enter, context.TaskContext(reference, None))
    else:
        name = meta.get("name", reference)
        task = context.TaskContext(name, meta["timeout"], meta.get("deadline"))
        scope.run(context.enter, task)
        for home, value in meta.get("context", {}).items():
            try:
                variable = find(home)
            except NotFoundError as error:
                raise Failure(Kind.NOT_FOUND, (str(error), trace(error))) from None
            scope.run(variable.set, value)
        if "carriers" in meta:
            # What surrounds the function, as an observer of the pool wanted it; left in `leave`.
            meta["entered"] = [
                manager
                for carrier in meta["carriers"]
                if (manager := scope.run(_enter, carrier)) is not None
            ]
    return scope, function, arguments, keywords, meta


def _enter(carrier: dict[str, str]) -> Any:
    """Enter what an observer's carrier asks for; None, and a log record, if that fails."""
    import importlib

    try:
        manager = importlib.import_module(carrier["hook"]).enter(carrier)
        manager.__enter__()
    except BaseException as error:
        _log_failed_hook(error)
        return None
    return manager


def _log_failed_hook(error: BaseException) -> None:
    import logging

    logging.getLogger("offload.workers").error("the hook of an observer failed", exc_info=error)


def leave(
    scope: contextvars.Context, meta: dict[str, Any] | None, error: BaseException | None
) -> None:
    """Leave what surrounded the function, telling it what the function raised."""
    if meta is None or "entered" not in meta:
        return
    how = (None, None, None) if error is None else (type(error), error, error.__traceback__)
    for manager in reversed(meta.pop("entered")):
        try:
            scope.run(manager.__exit__, *how)
        except BaseException as failure:
            _log_failed_hook(failure)


def raised(
    error: BaseException, *, skip: int = 1, cross: Callable[[Exception], object] | None = None
) -> Failure:
    """Return the reply for what the function raised.

    Args:
        error: as caught.
        skip: how many frames of ours are on top of its traceback.
        cross: returns what is sent of it beside its text; by default a pickle.
    """
    traceback = error.__traceback__
    for _ in range(skip):
        traceback = traceback.tb_next if traceback is not None else None
    text = trace(error.with_traceback(traceback))
    data: object = None
    if may_be_raised(error):
        data = (cross or _pickled)(error)
    failure = Failure(Kind.RAISED, (data, type_name(error), message_of(error), text))
    failure.of = type(error)
    return failure


def _pickled(error: Exception) -> bytes | None:
    return dump_raised(error) or _by_value(error)


def _by_value(error: Exception) -> bytes | None:
    """Pickle an exception whose class came by value, with its function: it goes back likewise."""
    cloudpickle = sys.modules.get("cloudpickle")
    if cloudpickle is None:
        return None
    try:
        data: bytes = cloudpickle.dumps(error, 5)
        return data if type(pickle.loads(data)) is type(error) else None
    except BaseException:
        return None
