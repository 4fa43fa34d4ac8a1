"""Loads what the workers of a pool share, or each of them has of its own."""

from __future__ import annotations

__all__ = ["preload"]


def preload(modules: list[str]) -> str:
    """Import or load what all workers need.

    Args:
        modules: names of modules, and `module:qualname` of resources.

    Returns:
        The traceback of what failed first, or "".
    """
    import gc
    import importlib

    for module in modules:
        try:
            if ":" in module:
                from offload._child.resource import load

                load(module)
            else:
                importlib.import_module(module)
        except BaseException:
            import traceback

            return f"preloading {module!r} failed:\n{traceback.format_exc()}"
    # What exists now is shared with the workers until somebody writes to it: keep the collector
    # from touching every object's header (gc.freeze was made for this).
    gc.collect()
    gc.freeze()
    return ""
