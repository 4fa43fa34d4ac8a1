"""What calls need, imported before the first of them."""

from __future__ import annotations

from offload._child.context import in_worker

__all__ = ["import_what_calls_need"]


def import_what_calls_need(*, with_executors: bool = False, with_data: bool = False) -> None:
    """Import what calls need while modules are being imported: the first call is on a loop.

    Does nothing in a worker, where nothing is called.

    Args:
        with_executors: also import what workers on executors need, which is `multiprocessing`.
        with_data: also import what reads data.
    """
    if in_worker():
        return
    from importlib import import_module

    import_module("offload._pool.running_pool")
    import_module("offload._workers.process")
    if with_executors:
        import_module("offload._workers.executor")
    if with_data:
        import_module("offload._pool.data_replies")
        import_module("offload._workers.data_logs")
