"""What goes into a frozen program beside what its modules import: some names are looked up late."""

from PyInstaller.utils.hooks import collect_submodules  # type: ignore[import-untyped]

_ROOMS = ("_child", "_decisions", "_pool", "_values", "_wire", "_workers")
_MODULES = ("errors", "executor", "function", "pool", "resources", "stream")


def _is_needed(name: str) -> bool:
    return name.partition(".")[2].partition(".")[0] in (*_ROOMS, *_MODULES)


hiddenimports = collect_submodules("offload", filter=_is_needed, on_error="ignore")
