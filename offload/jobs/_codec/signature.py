"""A function's parameters and result as JSON text: the codec as the job layer sees it."""

from __future__ import annotations

import hashlib
import inspect
import json
import typing
import weakref
from typing import Any, ClassVar, NoReturn, get_args, get_origin

from offload._typed_json.annotations import signature_of
from offload._typed_json.coder import Coder, MismatchError, UnsupportedTypeError, name_of
from offload._typed_json.compiler import Compiler
from offload._typed_json.containers import ANY, ArrayCoder, DictCoder
from offload._typed_json.results import innermost, scope_of
from offload._typed_json.scalars import STR
from offload._typed_json.text import TextError, dump, load
from offload.jobs._codec.binding import MISSING, Binder, Parameter
from offload.jobs._codec_errors import JobArgumentError, JobResultError

if typing.TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Signature"]


class Signature:
    """What a function takes and returns, as JSON.

    Arguments are an object by name of parameter, such as `{"month": "2026-11", "*rest": [1]}`.
    Parameters that were left to their defaults are not in it. Annotations are evaluated, and coders
    compiled, when a value for them is first seen.
    """

    _known: ClassVar[weakref.WeakKeyDictionary[Any, dict[bool, Signature]]] = (
        weakref.WeakKeyDictionary()
    )

    def __init__(self, function: Callable[..., Any]) -> None:
        raw = innermost(function)
        self.function = f"{raw.__module__}:{raw.__qualname__}"
        signature = signature_of(function)
        self._scope = scope_of(raw)
        self._binder = Binder(signature, raw.__qualname__)
        self._returns = signature.return_annotation
        self._parameters = {each.key: each for each in self._binder.parameters}
        self._keys = list(self._parameters)
        self._coders: dict[str, Coder] = {}
        self._result: Coder | None = None

    @classmethod
    def of(cls, function: Callable[..., Any]) -> Signature:
        """Return the signature of a function, made once for each function.

        Args:
            function: a function, bound method of a class, or what `@offload` made of one.
        """
        # Bound methods are new objects at each access.
        inner: Any = getattr(function, "__func__", function)
        try:
            known = cls._known.setdefault(inner, {})
        except TypeError:
            return cls(function)
        is_bound = inner is not function
        found = known.get(is_bound)
        if found is None:
            found = known[is_bound] = cls(function)
        return found

    def encode_arguments(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], *, max_bytes: int | None = None
    ) -> str:
        """Return the arguments of a call as JSON, the same text for the same call.

        Args:
            args: positional arguments.
            kwargs: keyword arguments.
            max_bytes: limit of the text in UTF-8, None for no limit.

        Raises:
            JobArgumentError: the call does not fit the function, a value does not fit its
                annotation or has no JSON, or the text is longer than `max_bytes`.
        """
        try:
            bound = self._binder.bind(*args, **kwargs)
        except TypeError as error:
            raise JobArgumentError(str(error), function=self.function) from None
        out: dict[str, Any] = {}
        coders = self._coders
        key = ""
        try:
            for key, value in zip(self._keys, bound, strict=True):
                # Stars are always bound, mostly to nothing.
                if value is not MISSING and (value or key[0] != "*"):
                    coder = coders.get(key) or self._coder(key)
                    out[key] = coder.encode(value)
        except MismatchError as error:
            self._refuse(key, error)
        except RecursionError:
            self._refuse(key, MismatchError("value nested too deeply", self._coder(key).name))
        return self._text_of(out, max_bytes)

    def decode_arguments(
        self, text: str, *, max_bytes: int | None = None
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return positional and keyword arguments from JSON.

        Args:
            text: what `encode_arguments` returned, or JSON of the same form from elsewhere.
            max_bytes: limit of the text in UTF-8, None for no limit.

        Raises:
            JobArgumentError: the text is no JSON, or does not fit the function as it is here.
        """
        try:
            _check_size(text, max_bytes)
            data = load(text)
        except TextError as error:
            self._fail(f"stored arguments cannot be read: {error}")
        if type(data) is not dict:
            self._fail(f"stored arguments are {name_of(data)}, not an object by parameter")
        bound: dict[str, Any] = {}
        key = ""
        try:
            for key, value in data.items():
                if key not in self._parameters:
                    self._fail(f"stored arguments have a parameter {key!r:.80} that is not there")
                coder = self._coders.get(key) or self._coder(key)
                bound[key] = coder.decode(value)
        except MismatchError as error:
            self._refuse(key, error, is_stored=True)
        except RecursionError:
            deep = MismatchError("value nested too deeply", self._coder(key).name)
            self._refuse(key, deep, is_stored=True)
        try:
            return self._binder.call_of(bound)
        except TypeError as error:
            self._fail(f"stored arguments do not fit: {error}")

    def encode_result(self, value: Any, *, max_bytes: int | None = None) -> str:
        """Return a result as JSON.

        Args:
            value: what the function returned.
            max_bytes: limit of the text in UTF-8, None for no limit.

        Raises:
            JobResultError: the value does not fit the annotation, has no JSON, or is too long.
        """
        coder = self._result_coder()
        try:
            text = dump(coder.encode(value))
        except MismatchError as error:
            self._refuse_result(error)
        except RecursionError:
            self._refuse_result(MismatchError("value nested too deeply", coder.name))
        except TextError as error:
            self._refuse_result(MismatchError(f"value that JSON cannot hold ({error})", coder.name))
        if max_bytes is not None and _size_of(text) > max_bytes:
            raise JobResultError(
                f"{self.function}: result takes {_size_of(text):,} bytes as JSON, more than the"
                f" {max_bytes:,} that are allowed; store it elsewhere and return a reference to it",
                function=self.function,
            )
        return text

    def decode_result(self, text: str, *, max_bytes: int | None = None) -> Any:
        """Return a result from JSON.

        Args:
            text: what `encode_result` returned.
            max_bytes: limit of the text in UTF-8, None for no limit.

        Raises:
            JobResultError: the text is no JSON, or does not fit the annotation.
        """
        coder = self._result_coder()
        try:
            _check_size(text, max_bytes)
            return coder.decode(load(text))
        except MismatchError as error:
            self._refuse_result(error, is_stored=True)
        except RecursionError:
            deep = MismatchError("value nested too deeply", coder.name)
            self._refuse_result(deep, is_stored=True)
        except TextError as error:
            raise JobResultError(
                f"{self.function}: stored result cannot be read: {error}", function=self.function
            ) from None

    def fingerprint(self, text: str) -> str:
        """Return a digest of function and arguments, for a key that finds equal jobs.

        Args:
            text: what `encode_arguments` returned.
        """
        # The order of a dict's keys makes no other job.
        canonical = json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(f"{self.function}{canonical}".encode()).hexdigest()

    def problems(self) -> list[JobArgumentError | JobResultError]:
        """Return an error for each annotation that no value could satisfy; for a check at start."""
        found: list[JobArgumentError | JobResultError] = []
        for key in self._keys:
            try:
                self._coder(key)
            except JobArgumentError as error:
                found.append(error)
        try:
            self._result_coder()
        except JobResultError as error:
            found.append(error)
        return found

    def _coder(self, key: str) -> Coder:
        parameter = self._parameters[key]
        try:
            coder = self._compile(parameter)
        except UnsupportedTypeError as error:
            raise JobArgumentError(
                f"{self.function}: parameter {key}: {error}",
                function=self.function,
                parameter=parameter.name,
                path=parameter.name,
            ) from error.__cause__
        self._coders[key] = coder
        return coder

    def _compile(self, parameter: Parameter) -> Coder:
        hint = parameter.annotation
        if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            item = self._compile_hint(hint)
            return ArrayCoder(f"tuple[{item.name}, ...]", tuple, item, tuple)
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            resolved = hint if hint is inspect.Parameter.empty else self._scope.resolve(hint)
            if get_origin(resolved) is typing.Unpack:
                return self._compile_hint(get_args(resolved)[0])
            item = self._compile_hint(resolved)
            return DictCoder(f"dict[str, {item.name}]", STR, item)
        return self._compile_hint(hint)

    def _compile_hint(self, hint: Any) -> Coder:
        if hint is inspect.Parameter.empty:
            return ANY
        if hint is None:
            hint = type(None)
        try:
            return Compiler().coder(hint, self._scope)
        except RecursionError:
            raise UnsupportedTypeError("its annotation has no end") from None

    def _result_coder(self) -> Coder:
        if self._result is None:
            try:
                self._result = self._compile_hint(self._returns)
            except UnsupportedTypeError as error:
                raise JobResultError(
                    f"{self.function}: result: {error}", function=self.function
                ) from error.__cause__
        return self._result

    def _text_of(self, out: dict[str, Any], max_bytes: int | None) -> str:
        try:
            text = dump(out)
        except TextError as error:
            key = next(key for key in out if not _is_text(out[key]))
            found = f"value that JSON cannot hold ({error})"
            self._refuse(key, MismatchError(found, self._coder(key).name))
        if max_bytes is not None and _size_of(text) > max_bytes:
            sizes = {key: _size_of(dump(value)) for key, value in out.items()}
            key = max(sizes, key=sizes.__getitem__)
            raise JobArgumentError(
                f"{self.function}: arguments take {_size_of(text):,} bytes as JSON, more than the"
                f" {max_bytes:,} that are allowed; {sizes[key]:,} of them are {key}: store it"
                " elsewhere and pass a reference to it",
                function=self.function,
                parameter=self._parameters[key].name,
                path=self._parameters[key].name,
            )
        return text

    def _fail(self, text: str) -> NoReturn:
        raise JobArgumentError(f"{self.function}: {text}", function=self.function) from None

    def _refuse(self, key: str, error: MismatchError, *, is_stored: bool = False) -> NoReturn:
        parameter = self._parameters[key]
        path = parameter.name + error.path
        start = "stored argument" if is_stored else "argument"
        raise JobArgumentError(
            f"{self.function}: {start} {path}: {_described(error)}",
            function=self.function,
            parameter=parameter.name,
            path=path,
            found=error.found,
            expected=error.expected,
        ) from error.__cause__

    def _refuse_result(self, error: MismatchError, *, is_stored: bool = False) -> NoReturn:
        path = "result" + error.path
        start = "stored " if is_stored else ""
        raise JobResultError(
            f"{self.function}: {start}{path}: {_described(error)}",
            function=self.function,
            path=path,
            found=error.found,
            expected=error.expected,
        ) from error.__cause__


def _described(error: MismatchError) -> str:
    text = f"expected {error.expected}, found {error.found}"
    return f"{text}. {error.advice}" if error.advice else text


def _size_of(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def _check_size(text: str, max_bytes: int | None) -> None:
    if max_bytes is not None and _size_of(text) > max_bytes:
        raise TextError(f"{_size_of(text):,} bytes, more than the {max_bytes:,} that are allowed")


def _is_text(value: Any) -> bool:
    try:
        dump(value)
    except TextError:
        return False
    return True
