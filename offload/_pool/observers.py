"""Tells observers of calls; what they raise is logged and goes no further."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from offload._workers.logs import log_safely

if TYPE_CHECKING:
    from collections.abc import Callable

    from offload._values.call_record import CallRecord, Observer

__all__ = ["tell_ended", "tell_submitted"]

_logger = logging.getLogger("offload.pool")


def tell_submitted(observers: tuple[Observer, ...], record: CallRecord) -> list[dict[str, str]]:
    """Tell observers of a call that is made; return what its worker is to be told."""
    carriers: list[dict[str, str]] = []
    for observer in observers:
        carrier = _ask(observer.submitted, record, dict)
        if carrier:
            carriers.append(carrier)
    return carriers


def tell_ended(observers: tuple[Observer, ...], record: CallRecord) -> None:
    """Tell observers of the end of a call."""
    for observer in observers:
        _ask(observer.ended, record)


def _ask(
    method: Callable[[CallRecord], Any],
    record: CallRecord,
    kind: Callable[[Any], Any] = lambda answer: answer,
) -> Any:
    try:
        answer = method(record)
        return kind(answer) if answer else None
    except Exception:  # noqa: BLE001 - it is logged
        log_safely(
            _logger,
            logging.ERROR,
            "an observer of pool %r failed",
            record.pool,
            exc_info=True,
            extra={"offload_pool": record.pool, "offload_function": record.function},
        )
        return None
