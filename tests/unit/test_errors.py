"""Errors, those of jobs and schedules too: each pickles whole and says if the function ran."""

import copy
import inspect
import pickle
import re

import pytest

import offload
from offload import errors
from offload.errors import (
    ArgumentError,
    DeadlineError,
    FunctionError,
    FunctionNotFoundError,
    OffloadError,
    PoolClosedError,
    PoolNotFoundError,
    QueueTimeoutError,
    RemoteTraceback,
    ResultError,
    TaskTimeoutError,
)
from offload.jobs import _codec_errors as codec_errors
from offload.jobs import _errors as job_errors
from offload.schedules import _errors as schedule_errors

HOMES = (errors, job_errors, codec_errors, schedule_errors)
PUBLIC = [getattr(module, name) for module in HOMES for name in module.__all__]
OURS = [kind for kind in PUBLIC if issubclass(kind, OffloadError)]
COMMON = ("function", "pool", "may_have_run")
# A value for each type that an attribute may have; never the default.
SAMPLES = {
    "bool": False,
    "float": 1.5,
    "int": 7,
    "int | None": 7,
    "str": "text of its own",
    "str | None": "text of its own",
}


def sample(kind):
    """Return an error of this class with every attribute given, and its attributes."""
    common = {"function": "work:report", "pool": "reports", "may_have_run": not kind.may_have_run}
    attributes = {name: SAMPLES[of] for name, of in own_attributes(kind).items()}
    return kind("text", **attributes, **common), attributes | common


def own_attributes(kind):
    """Return the attributes that an error of this class has beside those of every error."""
    if kind is OffloadError:
        return {}
    return {
        parameter.name: parameter.annotation
        for parameter in inspect.signature(kind.__init__).parameters.values()
        if parameter.kind is parameter.KEYWORD_ONLY and parameter.name not in COMMON
    }


# Every public error, so that a new one is tested without being listed here.
each = pytest.mark.parametrize(
    "error,attributes", [pytest.param(*sample(kind), id=kind.__name__) for kind in OURS]
)


def assert_same(copied, error, attributes):
    """Two errors tell the same."""
    assert type(copied) is type(error)
    assert str(copied) == str(error) == "text"
    assert copied.args == error.args == ("text",)
    assert {name: getattr(copied, name) for name in attributes} == attributes


class TestEach:
    @each
    @pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
    def test_pickles_whole(self, error, attributes, protocol):
        """An error unpickles with its type, its text and each attribute."""
        assert_same(pickle.loads(pickle.dumps(error, protocol)), error, attributes)

    @each
    def test_crosses_twice(self, error, attributes):
        """What was unpickled pickles again, as it does on its way through several processes."""
        once = pickle.loads(pickle.dumps(error))
        assert_same(pickle.loads(pickle.dumps(once)), error, attributes)

    @each
    def test_copies_whole(self, error, attributes):
        """`copy` makes an error of its own that tells the same."""
        copied = copy.copy(error)
        assert_same(copied, error, attributes)
        copied.mark = True
        assert not hasattr(error, "mark")

    @each
    def test_keeps_notes(self, error, attributes):
        """Notes that were added on the way are not lost when it pickles."""
        noted = copy.copy(error)
        noted.add_note("seen by the proxy")
        assert pickle.loads(pickle.dumps(noted)).__notes__ == ["seen by the proxy"]

    @pytest.mark.parametrize(
        "kind,builtin",
        [
            (ArgumentError, TypeError),
            (DeadlineError, TimeoutError),
            (FunctionError, TypeError),
            (FunctionNotFoundError, LookupError),
            (PoolClosedError, RuntimeError),
            (PoolNotFoundError, LookupError),
            (QueueTimeoutError, TimeoutError),
            (ResultError, TypeError),
            (TaskTimeoutError, TimeoutError),
        ],
    )
    def test_is_caught_as_its_builtin(self, kind, builtin):
        """Code that knows only the fitting builtin catches it."""
        assert issubclass(kind, builtin)

    def test_subclass_of_a_user_pickles(self):
        """An error that a user derives, with attributes of its own, pickles as ours do."""
        error = pickle.loads(pickle.dumps(UsersError("text", timeout=1.0, tenant="t")))
        assert (str(error), error.timeout, error.tenant) == ("text", 1.0, "t")


class UsersError(TaskTimeoutError):
    def __init__(self, message, *, timeout, tenant):
        super().__init__(message, timeout=timeout)
        self.tenant = tenant


class TestDeclaration:
    @pytest.mark.parametrize("kind", OURS)
    def test_name_ends_in_error(self, kind):
        """An error is called one; what is not called one is not raised."""
        assert kind.__name__.endswith("Error")

    def test_traceback_is_no_error(self):
        """`RemoteTraceback` is the one public class that is not an `OffloadError`."""
        assert set(PUBLIC) - set(OURS) == {RemoteTraceback}

    @pytest.mark.parametrize("kind", [kind for kind in OURS if kind is not OffloadError])
    def test_docstring_says_whether_the_function_ran(self, kind):
        """The first paragraph of each docstring tells it: did not run, ran, or may have run."""
        summary = inspect.getdoc(kind).partition("\n\n")[0]
        assert re.search(r"\b(It|The call|The function) (did not run|ran|may have run)", summary)

    @pytest.mark.parametrize("kind", OURS)
    def test_docstring_lists_each_attribute(self, kind):
        """Each typed attribute is explained where the class is, and the common ones at the base."""
        _, _, listed = inspect.getdoc(kind).partition("Attributes:")
        expected = COMMON if kind is OffloadError else own_attributes(kind)
        assert re.findall(r"^    (\w+):", listed, re.MULTILINE) == list(expected)

    def test_all_are_exported(self):
        """Each public error can be imported from `offload` itself."""
        assert errors.__all__ == sorted(errors.__all__)
        for name in errors.__all__:
            assert getattr(offload, name) is getattr(errors, name)
            assert name in offload.__all__


class TestRemoteTraceback:
    def test_shows_the_text(self):
        """As a cause it prints the worker's traceback between quotes of its own."""
        assert str(RemoteTraceback("line one\nline two\n")) == '\n"""\nline one\nline two\n"""'

    def test_pickles(self):
        """It keeps its text across processes."""
        again = pickle.loads(pickle.dumps(RemoteTraceback("text")))
        assert type(again) is RemoteTraceback
        assert str(again) == str(RemoteTraceback("text"))
