"""Pickling as both ends do it: what the C pickler takes, and a few things that it does not.

`memoryview` objects cross, as views of the same format and shape, and a large `str` that is an
argument or a result itself crosses in pieces.
"""

from __future__ import annotations

import sys

from offload._wire.frames import INLINE_BYTES
from offload._wire.lean import pickle, signal
from offload._wire.source import Source

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

# The pickler passes buffers of this size on as they are, beside its own frames, which begin so.
_FRAME_BYTES = 64 * 1024
_FRAME_OPCODE = 0x95
# Text is encoded and decoded by so many characters at a time, each of them less than a millisecond.
_TEXT_CHARACTERS = 256 * 1024


class TooLarge(Exception):  # noqa: N818 - a signal between a pickler and its caller
    """The payload does not go this way."""


class TooManyBytes(Exception):  # noqa: N818 - as TooLarge
    """The payload is larger than the caller allows."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.size = size


class Sink:
    """Collects what a pickler writes, and stops it at the first byte over a limit."""

    __slots__ = ("limit", "loose", "parts", "size")

    def __init__(self, limit: int = INLINE_BYTES, loose: int = INLINE_BYTES) -> None:
        self.limit = limit
        # How much may be of small objects, which take long to pickle for their size.
        self.loose = loose
        self.parts: list[bytes] = []
        self.size = 0

    def write(self, data: Any) -> None:
        # The C pickler passes a large buffer itself here, uncopied: it is refused by its length
        # before anything has been touched, and copied if it may change.
        size = len(data) if type(data) is bytes else memoryview(data).nbytes
        self.size += size
        if self.size > self.limit:
            raise TooLarge
        if type(data) is not bytes:
            data = bytes(data)
        if size < _FRAME_BYTES or data[0] == _FRAME_OPCODE or not self.parts:
            self.loose -= size
            if self.loose < 0:
                raise TooLarge
        self.parts.append(data)


# Reducers that only our picklers use: one that copyreg knew would change what `copy.copy` does with
# the type in the whole process. Empty as a rule, since a dispatch table makes pickling slower.
_reducers: dict[type, Callable[[Any], Any]] = {}
_dispatch_table: dict[type, Callable[[Any], Any]] = {}
_known: dict[type, Callable[[Any], Any]] = {}


# Where there are models of which generic ones may be; of each, the metaclass is asked for.
_MODELS = (("pydantic", "BaseModel"), ("sqlmodel", "SQLModel"))


def register_reducer(kind: type, reduce: Callable[[Any], Any]) -> None:
    """Let objects of exactly this type cross as `reduce(object)` says, as `__reduce__` would."""
    _reducers[kind] = reduce
    _known.clear()


def pickler(sink: Any, in_band: Callable[[Any], Any] | None = None) -> pickle.Pickler:
    """Return what pickles into `sink`; buffers of which `in_band` says so stay out of it."""
    made = pickle.Pickler(sink, 5, buffer_callback=in_band)
    if _reducers:
        import copyreg

        global _dispatch_table, _known  # noqa: PLW0603 - remembered, since merging takes time
        # Whole and plain, since the pickler looks here for every object that is not a builtin.
        if copyreg.dispatch_table != _known or not _known:
            _known = dict(copyreg.dispatch_table)
            _dispatch_table = {**_known, **_reducers}
        made.dispatch_table = _dispatch_table
    return made


def register_missing_reducer(error: Exception) -> bool:
    """Register a reducer when a pickler has failed for want of it.

    They are those of `memoryview`, and of classes that pydantic makes of a generic model.

    Args:
        error: a `TypeError` or a `PicklingError`.

    Returns:
        Whether it was registered by this, so that pickling again may succeed.
    """
    # Not at import: a dispatch table costs time for each object that is looked up in it.
    if isinstance(error, pickle.PicklingError):
        return "[" in str(error) and _register_models()
    if memoryview in _reducers or "memoryview" not in str(error):
        return False
    register_reducer(memoryview, _reduce_view)
    return True


def _register_models() -> bool:
    found = {
        type(model)
        for module, name in _MODELS
        if (model := getattr(sys.modules.get(module), name, None)) is not None
    }
    missing = found - _reducers.keys()
    for metaclass in missing:
        register_reducer(metaclass, _reduce_model)
    return bool(missing)


def _reduce_model(model: Any) -> Any:
    """Let `Page[Item]` cross as `Page` and `Item`: no module has it under a name."""
    made_of: dict[str, Any] = getattr(model, "__pydantic_generic_metadata__", None) or {}
    args = made_of.get("args")
    if not args:
        return model.__qualname__  # as any class
    return _parametrized, (made_of["origin"], args)


def _parametrized(model: Any, args: Any) -> Any:
    if len(args) == 1:
        (args,) = args
    return model[args]


def _reduce_view(view: memoryview) -> tuple[Any, ...]:
    if view.c_contiguous:
        return _make_view, (pickle.PickleBuffer(view), view.format, view.shape)
    return _make_view, (pickle.PickleBuffer(view.tobytes()), view.format, view.shape)


def _make_view(buffer: Any, form: Any, shape: tuple[int, ...]) -> memoryview:
    flat = memoryview(buffer).cast("B")
    if len(shape) != 1:
        return flat.cast(form, shape)
    return flat if form == "B" else flat.cast(form)


class Text:
    """A large `str` that is an argument or a result itself, pickled so that the GIL goes round.

    The pickler would make its UTF-8, and the unpickler the `str` again, in one piece each: at
    64 MiB the GIL is held for a tenth of a second, twice.
    """

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as pieces."""
        text, step = self._text, _TEXT_CHARACTERS
        starts = range(0, len(text), step)
        return _join, ([text[at : at + step].encode("utf-8", "surrogatepass") for at in starts],)


def _join(pieces: list[bytes]) -> str:
    # What is left to do in one piece is a copy. (`text += piece` would grow in place, or copy all
    # of it for each piece: it depends on what lies behind it in memory.)
    return "".join([str(piece, "utf-8", "surrogatepass") for piece in pieces])


def in_pieces(value: Any) -> Any:
    """Return a large `str` as what crosses in pieces, anything else as it is."""
    return Text(value) if type(value) is str and len(value) > _TEXT_CHARACTERS else value


def without_exits(load: Callable[..., Any], *arguments: Any) -> Any:
    """Return `load(*arguments)`, raising nothing that would end the process or an event loop.

    A pickle may call anything, `sys.exit` included.

    Raises:
        Exception: whatever unpickling raises.
    """
    try:
        return load(*arguments)
    except Exception:
        raise
    except BaseException as error:
        if is_of_signal(error):
            raise
        message = f"it raises {type(error).__name__} when it is unpickled"
        raise pickle.UnpicklingError(message) from None


def dump_without_exits(dump: Callable[..., Any], *arguments: Any) -> Any:
    """Return `dump(*arguments)`, which pickles, as `without_exits` does what unpickles.

    Raises:
        Exception: whatever pickling raises.
    """
    try:
        return dump(*arguments)
    except Exception:
        raise
    except BaseException as error:
        if is_of_signal(error):
            raise
        message = f"it raises {type(error).__name__} when it is pickled"
        raise pickle.PicklingError(message) from None


def is_of_signal(error: BaseException) -> bool:
    """Return whether an exception was raised by a signal handler, not by what it interrupted.

    Ctrl+C, and `sys.exit()` in a handler of SIGTERM, may come while a result is unpickled.

    Args:
        error: as caught, in the frame that called the unpickler.
    """
    import threading
    import traceback

    if threading.current_thread() is not threading.main_thread():
        return False  # none is run here
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    if len(frames) <= 1:
        # In no frame but that of the caller, which raises nothing.
        return isinstance(error, (KeyboardInterrupt, SystemExit))
    if isinstance(error, KeyboardInterrupt):
        # Python's own handler has no frame, and whatever is unpickled has no business with it.
        return signal.getsignal(signal.SIGINT) is signal.default_int_handler
    handlers = map(signal.getsignal, range(1, signal.NSIG))
    codes = {getattr(getattr(each, "func", each), "__code__", None) for each in handlers}
    return any(frame.f_code in codes for frame in frames)


class MemorySource(Source):
    """Reads from memory by way of Python, so that the unpickler gives up the GIL now and then."""

    __slots__ = ("_data",)

    def __init__(self, data: bytes) -> None:
        super().__init__(len(data))
        self._data = memoryview(data)

    def _read_at(self, position: int, size: int) -> bytes:
        return bytes(self._data[position : position + size])

    def _read_into(self, target: memoryview, position: int) -> int:
        data = self._data[position : position + target.nbytes]
        target[: data.nbytes] = data
        return data.nbytes


def loads_releasing_gil(data: bytes) -> Any:
    """Unpickle in a thread, letting other threads have the GIL in between.

    Raises:
        Exception: whatever unpickling raises.
    """
    return pickle.Unpickler(MemorySource(data)).load()


def dumps(value: object) -> bytes:
    """Pickle a value of any size into memory.

    Raises:
        Exception: whatever pickling raises.
    """
    try:
        if not _reducers:
            return pickle.dumps(value, 5)
        return collected(value, Sink(sys.maxsize, sys.maxsize))
    except (TypeError, pickle.PicklingError) as error:
        if not register_missing_reducer(error):
            raise
    return dumps(value)


def encode(value: object) -> bytes:
    """Pickle a small value.

    Raises:
        TooLarge: its pickle is larger than a frame; `encode_large` takes it.
        Exception: whatever pickling raises.
    """
    try:
        return collected(value, Sink())
    except (TypeError, pickle.PicklingError) as error:
        if not register_missing_reducer(error):
            raise
    return encode(value)


class _Counter:
    """Counts what a pickler writes."""

    __slots__ = ("size",)

    def __init__(self) -> None:
        self.size = 0

    def write(self, data: Any) -> None:
        self.size += len(data) if type(data) is bytes else memoryview(data).nbytes


def pickled_size(value: object) -> int:
    """Return how many bytes a value takes when pickled, holding none of them.

    Raises:
        Exception: whatever pickling raises.
    """
    counter = _Counter()

    def count(buffer: pickle.PickleBuffer) -> None:
        counter.size += buffer.raw().nbytes

    try:
        pickler(counter, count).dump(value)
    except (TypeError, pickle.PicklingError) as error:
        if not register_missing_reducer(error):
            raise
        return pickled_size(value)
    return counter.size


def collected(value: object, sink: Sink) -> bytes:
    """Pickle into a sink and return all of it."""
    pickler(sink).dump(value)
    parts = sink.parts
    return parts[0] if len(parts) == 1 else b"".join(parts)
