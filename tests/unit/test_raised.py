"""Exceptions cross as they are: their class, their text and their attributes."""

import pickle
from typing import Any, NoReturn, Self

import httpx
import pydantic
import pytest
from fastapi import HTTPException
from starlette.exceptions import HTTPException as StarletteError

from offload._wire.raised import dump_raised


class KeywordOnlyError(Exception):
    """Takes what it does not pass on."""

    def __init__(self, name: str, *, size: int) -> None:
        super().__init__(f"{name} is bad ({size})")
        self.name, self.size = name, size


class PrefixedError(Exception):
    """Could be made of its `args`, and would say something else then."""

    def __init__(self, name: str) -> None:
        super().__init__(f"no {name}")


class SilentError(Exception):
    """Passes nothing on."""

    def __init__(self, first: int, second: int) -> None:
        self.both = first, second

    def __str__(self) -> str:
        return f"{self.both}"


class SlottedError(Exception):
    """Keeps what it has in slots, too."""

    __slots__ = ("place",)

    def __init__(self, *, place: str) -> None:
        super().__init__("slotted")
        self.place = place


class OwnNewError(Exception):
    """Is made by a `__new__` of its own."""

    def __new__(cls, *, needed: int) -> Self:
        made = super().__new__(cls)
        made.needed = needed
        return made

    def __init__(self, *, needed: int) -> None:
        super().__init__(f"needs {needed}")

    needed: int


class FileError(OSError):
    """Has an `errno` and a file, and takes them in another way."""

    def __init__(self, *, path: str) -> None:
        super().__init__(2, "not there", path)
        self.path = path


class ModuleError(ImportError):
    """Has the name of a module, in C."""

    def __init__(self, module: str) -> None:
        super().__init__(f"no {module}", name=module)


class TextError(UnicodeDecodeError):
    """Has what a decoder says, in C."""

    def __init__(self, data: bytes) -> None:
        super().__init__("utf-8", data, 0, 1, "odd")


class KnowingError(Exception):
    """Says itself how it is pickled."""

    def __init__(self, *, value: int) -> None:
        super().__init__(value)
        self.value = value

    def __reduce__(self) -> Any:
        return _knowing, (self.value + 1,)


def _knowing(value: int) -> KnowingError:
    return KnowingError(value=value)


class MistakenError(KeywordOnlyError):
    """Says itself how it is pickled, and is wrong."""

    def __reduce__(self) -> Any:
        return type(self), (self.name,)


class CircularError(Exception):
    """Refers to itself."""

    def __init__(self, *, note: str) -> None:
        super().__init__(note)
        self.itself = self


def _invalid() -> Exception:
    try:
        pydantic.TypeAdapter(int).validate_python("x")
    except pydantic.ValidationError as error:
        return error
    raise AssertionError


def _response_error() -> Exception:
    request = httpx.Request("GET", "http://localhost/")
    return httpx.HTTPStatusError(
        "bad", request=request, response=httpx.Response(500, request=request)
    )


ERRORS = [
    HTTPException(status_code=422, detail={"no": "image"}, headers={"a": "b"}),
    StarletteError(status_code=418, detail="tea"),
    KeywordOnlyError("cat", size=3),
    PrefixedError("cat"),
    SilentError(1, 2),
    SlottedError(place="here"),
    OwnNewError(needed=3),
    FileError(path="cat.png"),
    ModuleError("cats"),
    TextError(b"\xff"),
    MistakenError("cat", size=4),
    CircularError(note="round"),
    ValueError("plain"),
    KeyError("key"),
    OSError(28, "full", "cat.png"),
    ExceptionGroup("some", [KeywordOnlyError("a", size=1), PrefixedError("b")]),
    Exception(KeywordOnlyError("inside", size=1)),
    _invalid(),
    _response_error(),
]


def _told(error: BaseException) -> Any:
    """Return what can be compared of an exception."""
    own = {name: value for name, value in vars(error).items() if name in ("detail", "size", "name")}
    inner = [_told(each) for each in getattr(error, "exceptions", ())]
    kept = [getattr(error, name, None) for name in ("errno", "filename", "name", "place", "needed")]
    return type(error), str(error), own, kept, inner


@pytest.mark.parametrize(
    "error", ERRORS, ids=lambda error: f"{type(error).__module__}.{type(error).__name__}"
)
def test_exception_arrives_as_what_it_was(error: Exception) -> None:
    """Class, text and attributes are the same, whatever its `__init__` takes."""
    error.add_note("noted")
    data = dump_raised(error)
    assert data is not None
    found = pickle.loads(data)
    assert _told(found) == _told(error)
    if not isinstance(error, pydantic.ValidationError):  # it has a way of its own
        assert found.__notes__ == ["noted"]


def test_class_that_knows_how_it_is_pickled_is_pickled_so() -> None:
    """A `__reduce__` of its own goes before ours."""
    data = dump_raised(KnowingError(value=1))
    assert data is not None
    assert pickle.loads(data).value == 2


def test_exception_with_a_part_that_does_not_pickle_does_not_cross() -> None:
    """None of it is left out silently: it is told as a `RemoteError` instead."""

    class Stubborn:
        def __reduce__(self) -> NoReturn:
            raise SystemExit

    error = KeywordOnlyError("cat", size=1)
    error.size = Stubborn()  # type: ignore[assignment]
    assert dump_raised(error) is None
