"""Pages that show what pools and jobs do, live: see `Dashboard`."""

try:
    from offload.dashboard._app import Dashboard
except ModuleNotFoundError as _error:
    if _error.name is None or _error.name.partition(".")[0] != "starlette":
        raise
    raise ModuleNotFoundError(
        "offload.dashboard needs Starlette: pip install 'offload[dashboard]'", name=_error.name
    ) from None

__all__ = ["Dashboard"]
