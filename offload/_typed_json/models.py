"""Coders of what another library knows: pydantic's models and types, msgspec's Structs.

Neither is imported before a type needs it.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

from offload._typed_json.coder import (
    KINDS,
    Coder,
    MismatchError,
    UnsupportedTypeError,
    are_same,
    kind_of,
    name_of_type,
)
from offload._typed_json.records import changed
from offload._typed_json.text import TextError, dump, load

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["is_model", "is_struct", "model_coder", "struct_coder"]

_EXTRA = "install the extra: pip install 'offload[jobs]'"


class LibraryCoder(Coder):
    """A type whose JSON another library writes and reads.

    The library may have its own idea of what is the same, and the type its own code, so each value
    is read again when it is written, and refused if it differs.

    Args:
        name: as of `Coder`.
        exact: the only type that is accepted, None where the library decides.
        kinds: as of `Coder`.
        write: makes JSON text.
        read: makes the value of JSON text.
        explain: gives path and text of an error that `read` raised.
    """

    __slots__ = ("_exact", "_explain", "_read", "_write")

    def __init__(
        self,
        name: str,
        exact: type | None,
        *,
        kinds: frozenset[str],
        write: Callable[[Any], bytes],
        read: Callable[[str], Any],
        explain: Callable[[Exception], tuple[str, str]],
    ) -> None:
        types = None if exact is None else frozenset({exact})
        super().__init__(name, kinds=kinds, types=types)
        self._exact = exact
        self._write = write
        self._read = read
        self._explain = explain

    def encode(self, value: Any, /) -> Any:
        if self._exact is not None and type(value) is not self._exact:
            advice = "Annotate the subclass." if isinstance(value, self._exact) else ""
            raise self.mismatch(value, advice)
        try:
            text = self._write(value).decode()
            encoded = load(text)
        except TextError as error:
            raise MismatchError(f"value that JSON cannot hold ({error})", self.name) from None
        except Exception as error:
            if self._exact is None:
                raise self.mismatch(value) from error
            found = f"value that cannot be written ({type(error).__name__}: {error!s:.300})"
            raise MismatchError(found, self.name) from error
        if kind_of(encoded) not in self.kinds:
            found = f"value that is written as {kind_of(encoded)}, against its own schema"
            raise MismatchError(found, self.name)
        if not are_same(self._decode_text(text, encoded), value):
            raise changed(self)
        return encoded

    def decode(self, value: Any, /) -> Any:
        return self._decode_text(dump(value), value)

    def _decode_text(self, text: str, value: Any) -> Any:
        try:
            return self._read(text)
        except Exception as error:
            path, reason = self._explain(error)
            found = f"{kind_of(value)} that does not fit ({reason:.300})"
            raise MismatchError(found, self.name).inside(path) from error


def is_model(cls: Any) -> bool:
    """Tell whether a class is a pydantic model or a pydantic dataclass."""
    return isinstance(cls, type) and hasattr(cls, "__pydantic_validator__")


def is_struct(cls: Any) -> bool:
    """Tell whether a class is a msgspec Struct."""
    # A Struct exists only where msgspec has been imported.
    msgspec: Any = sys.modules.get("msgspec")
    return msgspec is not None and isinstance(cls, type) and issubclass(cls, msgspec.Struct)


def model_coder(hint: Any) -> Coder:
    """Return the coder of a type that pydantic knows.

    Raises:
        UnsupportedTypeError: pydantic is not installed, or does not know the type.
    """
    name = name_of_type(hint) if isinstance(hint, type) else str(hint)
    try:
        pydantic: Any = importlib.import_module("pydantic")
    except ImportError:
        raise UnsupportedTypeError(
            f"{name} is not among the types that work without pydantic; {_EXTRA}"
        ) from None
    try:
        adapter = pydantic.TypeAdapter(hint)
    except Exception as error:
        raise UnsupportedTypeError(
            f"{name} has no JSON that pydantic knows ({type(error).__name__}: {error!s:.200});"
            " use a dataclass, a TypedDict or a pydantic model"
        ) from error

    def write(value: Any) -> bytes:
        # By name, since a field's alias for input may be another than that for output.
        text: bytes = adapter.dump_json(value, by_alias=False, round_trip=True, warnings="error")
        return text

    def read(text: str) -> Any:
        return adapter.validate_json(text, by_alias=True, by_name=True)

    def explain(error: Exception) -> tuple[str, str]:
        problem: Any = error
        if not isinstance(problem, pydantic.ValidationError):
            return "", f"{type(error).__name__}: {error}"
        first: dict[str, Any] = problem.errors(include_url=False, include_input=False)[0]
        parts = [f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"]]
        return "".join(parts), str(first["msg"])

    exact = hint if is_model(hint) else None
    return LibraryCoder(
        name, exact, kinds=_kinds_of(adapter, exact), write=write, read=read, explain=explain
    )


_SCHEMA_KINDS = {
    "null": {"null"},
    "boolean": {"bool"},
    "integer": {"int"},
    "number": {"int", "float"},
    "string": {"str"},
    "array": {"array"},
    "object": {"object"},
}


def _kinds_of(adapter: Any, model: Any) -> frozenset[str]:
    """Return which kinds of JSON a type has, so that a union knows it without a tag."""
    if model is not None and not getattr(model, "__pydantic_root_model__", False):
        decorators = model.__pydantic_decorators__
        return KINDS if decorators.model_serializers else frozenset({"object"})
    try:
        schema = adapter.json_schema(mode="serialization")
    except Exception:  # noqa: BLE001 - a type without a schema may be anything
        return KINDS
    return frozenset(_SCHEMA_KINDS.get(str(schema.get("type")), KINDS))


def struct_coder(hint: Any, cls: type) -> Coder:
    """Return the coder of a msgspec Struct, or of a generic one with its arguments."""
    msgspec: Any = importlib.import_module("msgspec")
    try:
        decoder = msgspec.json.Decoder(hint)
    except Exception as error:
        raise UnsupportedTypeError(f"{name_of_type(cls)}: {error}") from error
    config: Any = getattr(cls, "__struct_config__")  # noqa: B009 - unknown to type checkers
    return LibraryCoder(
        name_of_type(cls),
        cls,
        kinds=frozenset({"array" if config.array_like else "object"}),
        write=msgspec.json.Encoder().encode,
        read=decoder.decode,
        explain=lambda error: ("", f"{type(error).__name__}: {error}"),
    )
