"""The standard library without its import time.

The time from a cold pool to its first result is mostly imports, and the friendly modules (`pickle`,
`socket`, `signal`, `struct`, `contextvars`) load `re`, `enum`, `collections` and `selectors` for
things that a worker never uses: 20 ms, where the modules below them take one. Their interface is
what CPython's own friendly modules re-export unchanged, so another interpreter, which has no such
modules, gets the friendly ones.
"""

from __future__ import annotations

__all__ = ["contextvars", "pickle", "signal", "socket", "struct"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    import contextvars
    import pickle
    import signal
    import socket
    import struct
else:
    try:
        import _contextvars as contextvars
        import _pickle as pickle
        import _signal as signal
        import _socket as socket
        import _struct as struct
    except ImportError:
        import contextvars
        import pickle
        import signal
        import socket
        import struct
