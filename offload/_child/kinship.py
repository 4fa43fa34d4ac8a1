"""What makes a worker a child of the server in the eyes of `multiprocessing`.

- It has the server's authentication key: proxies of a `Manager`, and what travels by connections,
  cross as arguments.
- Its shared memory is known to the server's resource tracker. With a tracker of its own, whatever
  the worker has attached would be unlinked when it ends (bpo-38119), under the eyes of whoever has
  made it; and whatever it has made and returned, too.
"""

from __future__ import annotations

import sys

from offload._child.import_hook import when_imported
from offload._wire.frames import Kind
from offload._wire.tracking import COMMANDS, RESOURCES, pack_news

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from offload._child.connection import Connection

__all__ = ["act_as_child"]


def act_as_child(connection: Connection, authkey: bytes) -> None:
    """Arrange for it, as soon as this process imports `multiprocessing`."""

    def take_key() -> None:
        sys.modules["multiprocessing"].current_process().authkey = authkey

    when_imported("multiprocessing", take_key)
    when_imported("multiprocessing.resource_tracker", lambda: _share_tracker(connection))


def _share_tracker(connection: Connection) -> None:
    """Tell the server what the tracker of this process would be told.

    Children of ours that `multiprocessing` starts in other ways than by a fork have a tracker as
    ever: that of this process, which is started for them.
    """
    module = sys.modules["multiprocessing.resource_tracker"]

    def told(command: str, original: Callable[[str, str], None]) -> Callable[[str, str], None]:
        def tell(name: str, rtype: str) -> None:
            news = pack_news(command, rtype, name)
            if rtype not in RESOURCES or not connection.send_news(Kind.TRACK, news):
                original(name, rtype)

        return tell

    for command in COMMANDS:
        tell = told(command, getattr(module, command))
        setattr(module, command, tell)
        setattr(module._resource_tracker, command, tell)  # noqa: SLF001
