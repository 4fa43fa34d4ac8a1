"""What `@offload` makes stands where a coroutine function of that name would, for every tool."""

import asyncio
import copy
import doctest
import functools
import inspect
import pickle
import pydoc
import sys
import types
import typing
import warnings
import weakref
from unittest import mock

import pytest

from offload import FunctionError, Offloaded, Pool, offload
from offload._pool.target import reference_of
from tests.support.functions import lookalike as functions
from tests.support.functions.lookalike import Price

PRICE = Price()
ALL = {
    "function": functions.report,
    "options": functions.report.options(timeout=1),
    "bound": PRICE.times,
    "unbound": Price.times,
    "class method": Price.kind,
    "builtin": functions.packed,
}


@pytest.fixture(scope="module", autouse=True)
def _pool():
    """Keep one warm pool for all tests of this module, as a server does."""
    asyncio.run(Pool.named().open())
    yield
    asyncio.run(Pool.named().aclose(drain=0.0))


class TestKind:
    @pytest.mark.parametrize("function", ALL.values(), ids=ALL)
    def test_everybody_who_asks_sees_a_coroutine_function(self, function):
        """However it was made and bound, it is a coroutine function, and a routine."""
        assert inspect.iscoroutinefunction(function)
        assert inspect.isroutine(function)
        assert not inspect.isgeneratorfunction(function)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # from Python 3.14 on
            assert asyncio.iscoroutinefunction(function)

    def test_it_is_a_function_and_a_method_where_it_is_bound(self):
        """`isinstance` takes it for what it stands for, and for what it is."""
        assert inspect.isfunction(functions.report)
        assert inspect.ismethod(PRICE.times)
        assert not inspect.isfunction(PRICE.times)
        assert inspect.ismethod(Price.kind)
        assert not isinstance(functions.report, functools.partial)
        for function in ALL.values():
            assert isinstance(function, Offloaded)

    def test_generator_function_is_one(self):
        """A generator function is not taken for what can be awaited."""
        assert inspect.isgeneratorfunction(functions.items)
        assert not inspect.iscoroutinefunction(functions.items)

    def test_method_has_its_object_and_its_function(self):
        """A bound method has what methods have; a function has it not."""
        assert PRICE.times.__self__ is PRICE
        assert PRICE.times.__func__ is Price.times
        assert Price.kind.__self__ is Price
        for name in ("__self__", "__func__", "cache_clear"):
            assert not hasattr(functions.report, name)

    def test_methods_of_one_object_are_equal(self):
        """They compare and hash as methods do."""
        assert PRICE.times == PRICE.times
        assert len({PRICE.times, PRICE.times}) == 1
        assert PRICE.times != Price().times
        assert PRICE.times != PRICE.times.options(timeout=1)
        assert functions.report != functions.renamed


class TestLooks:
    def test_code_is_where_the_function_is(self):
        """File, line and parameters of `__code__` are those that were written."""
        code, plain = functions.report.__code__, functions.report.__wrapped__.__code__
        assert (code.co_filename, code.co_firstlineno) == (plain.co_filename, plain.co_firstlineno)
        assert code.co_varnames == plain.co_varnames
        assert functions.report.__defaults__ == (None,)

    def test_annotations_survive_a_look_at_the_class(self):
        """Asking the class for annotations takes those of the functions from nobody."""
        assert type(functions.report).__annotations__ == {}
        assert functions.report.__annotations__["number"] is int
        hints = typing.get_type_hints(functions.deferred)
        assert hints == {"value": functions.Later, "return": int}
        assert inspect.get_annotations(PRICE.times) == {"number": int, "return": int}

    @pytest.mark.skipif(sys.version_info < (3, 14), reason="annotationlib is new in Python 3.14")
    def test_annotations_are_evaluated_when_they_are_asked_for(self):
        """A function may be annotated with what is defined further below (PEP 649)."""
        import annotationlib

        module = types.ModuleType("tests.deferred_module")
        exec("def f(value: Missing) -> int: ...", module.__dict__)  # noqa: S102 - as if imported
        module.f.__module__ = module.__name__
        made = offload(module.f)
        with pytest.raises(NameError, match="Missing"):
            _ = made.__annotations__
        strings = annotationlib.get_annotations(made, format=annotationlib.Format.STRING)
        assert strings == {"value": "Missing", "return": "int"}

    def test_help_and_doctest_find_it(self):
        """`help()` shows an async function with its text, and doctest runs its examples."""
        page = pydoc.render_doc(functions.report, renderer=pydoc.plaintext)
        assert "async report(number: int" in page
        assert "Sum the numbers" in page
        assert doctest.testmod(functions).attempted == 1

    def test_wraps_takes_its_looks_and_nothing_else(self):
        """`functools.wraps` makes a wrapper look like the function, with no attribute of ours."""

        @functools.wraps(functions.report)
        def wrapper(): ...

        assert (wrapper.__name__, wrapper.__doc__) == ("report", functions.report.__doc__)
        assert wrapper.__wrapped__ is functions.report
        assert set(vars(wrapper)) == {"__doc__", "__module__", "__wrapped__"}

    def test_autospec_makes_what_can_be_awaited(self):
        """`create_autospec` makes a function that checks arguments and returns what is awaited."""
        made = mock.create_autospec(functions.report, return_value=7)
        assert asyncio.run(made(1)) == 7
        with pytest.raises(TypeError):
            asyncio.run(made(1, 2, 3))  # when called, or when awaited: as of any `async def`
        made = mock.create_autospec(Price)
        assert isinstance(made.times, mock.AsyncMock)

    def test_attributes_of_the_function_are_its_own(self):
        """What was set on the function is there, and what is set on it stays."""

        def plain(): ...

        plain.__qualname__ = "plain"
        plain.short_description = "text"
        made = offload(plain)
        assert made.short_description == "text"
        made.short_description = made.__name__ = "other"
        assert (made.short_description, made.__name__) == ("other", "other")
        assert plain.short_description == "text"

    def test_copies_are_itself(self):
        """Copying copies no function; a method is that of the copied object."""
        for function in (functions.report, functions.packed, functions.report.options(timeout=1)):
            assert copy.copy(function) is function
            assert copy.deepcopy(function) is function
        copied = copy.deepcopy(PRICE.times)
        assert copied.__func__ is Price.times
        assert copied.__self__ is not PRICE
        assert weakref.ref(functions.report)() is functions.report


class TestForgottenAwait:
    @pytest.mark.parametrize(
        "call,name",
        [
            (lambda: functions.report(1), "report"),
            (lambda: PRICE.times(2), "Price.times"),
            (Price.kind, "Price.kind"),
            (lambda: functions.packed(b""), "compress"),
            (lambda: functions.report.options(timeout=1)(1), "report"),
            (lambda: functions.report.map([1]), "report.map"),
        ],
        ids=["function", "method", "class method", "builtin", "options", "map"],
    )
    def test_it_is_told_by_the_name_of_the_function(self, call, name):
        """Python's warning names what was not awaited, as of any `async def`."""
        with pytest.warns(RuntimeWarning, match=f"^coroutine '{name}' was never awaited"):
            call()  # what it returns is dropped at once

    def test_task_shows_the_name(self):
        """A task of asyncio says whose call it is."""

        async def main():
            task = asyncio.ensure_future(functions.report(1))
            text = repr(task)
            task.cancel()
            return text

        assert "coro=<report() " in asyncio.run(main())


class TestFrameworks:
    def test_starlette_routes_to_it(self):
        """A route calls it as an endpoint, and does not take it for an ASGI application."""
        from starlette._utils import is_async_callable
        from starlette.routing import Route

        assert is_async_callable(functions.report)
        assert is_async_callable(PRICE.times)
        route = Route("/report", functions.report)
        assert (route.name, route.methods) == ("report", {"GET", "HEAD"})

    def test_pydantic_validates_its_arguments(self):
        """`validate_call` above `@offload` works, and a model may have offloaded methods."""
        pydantic = pytest.importorskip("pydantic")
        validated = pydantic.validate_call(functions.renamed)
        assert inspect.iscoroutinefunction(validated)

        class Model(pydantic.BaseModel):
            price: int
            total = Price.__dict__["times"]

        assert list(Model.model_fields) == ["price"]

    def test_litestar_and_django_await_it(self):
        """Their own ways to ask are answered, too."""
        utils = pytest.importorskip("litestar.utils")
        asgiref = pytest.importorskip("asgiref.sync")
        for function in (functions.report, PRICE.times):
            assert utils.is_async_callable(function)
            assert asgiref.iscoroutinefunction(function)

    def test_fastapi_takes_it_for_endpoint_dependency_and_background_task(self):
        """Wherever FastAPI takes an async function, it takes this, with its parameters."""
        fastapi = pytest.importorskip("fastapi")
        from fastapi.testclient import TestClient

        app = fastapi.FastAPI()
        app.get("/method")(PRICE.times)

        @app.get("/dependency")
        async def dependency(total: int = fastapi.Depends(PRICE.times)):
            return total

        @app.get("/background")
        async def background(tasks: fastapi.BackgroundTasks):
            tasks.add_task(functions.report, 3)

        with TestClient(app) as client:
            assert client.get("/method?number=4").json() == 8
            assert client.get("/dependency?number=5").json() == 10
            assert client.get("/background").status_code == 200
            assert client.get("/method").status_code == 422


class TestNames:
    @pytest.mark.parametrize(
        "call,expected",
        [
            (lambda: functions.wrapped_without_name(1), 2),
            (lambda: functions.renamed(3), 6),
            (lambda: PRICE.hidden(1), 3),
            (lambda: functions.cached(1), 1),
        ],
        ids=["wrapper without a name", "another name", "private name", "cache above"],
    )
    def test_worker_finds_what_was_decorated(self, call, expected):
        """What stands under the name of the function is no matter: a worker runs the function."""
        assert asyncio.run(call()) == expected

    def test_wrapper_without_a_name_below_is_refused(self):
        """The error names the decorator that hides the name, and says what to write there."""
        with pytest.raises(FunctionError, match=r"decorator doubled made of .*:double.*wraps"):
            offload(functions.doubled(functions.double))

    def test_pickle_knows_it_by_what_was_decorated(self):
        """A decorated function that has another name, or none, unpickles as a decorated one."""
        restored = pickle.loads(pickle.dumps(functions.renamed))
        assert restored is functions.renamed

    def test_reference_needs_no_import(self):
        """A reference is made of a name alone, and is the one that the function has."""
        from offload._values.reference import Reference

        reference = Reference.named("tests.support.functions.lookalike:Price.times")
        assert reference == reference_of(Price.times.__wrapped__)
        assert reference.module == "tests.support.functions.lookalike"
        assert not reference.is_by_value
        assert Reference.named("no.such.module:function").name == "no.such.module:function"
        assert pickle.loads(pickle.dumps(reference)) == reference

    @pytest.mark.parametrize("name", ["", "module", "module:", ":function", "a b:c", "a:<lambda>"])
    def test_reference_has_a_form(self, name):
        """What is no `module:qualname` is refused."""
        from offload._values.reference import Reference

        with pytest.raises(ValueError, match="module:qualname"):
            Reference.named(name)


class TestUnknownOptions:
    @pytest.mark.parametrize(
        "name,text",
        [
            ("time_out", "did you mean 'timeout'"),
            ("max_workers", r"an option of the pool, as Pool\('name', max_workers=…\)"),
            ("max_worker", "did you mean 'max_workers'.*an option of the pool"),
            ("max_concurrency", r"where the function is decorated, as @offload\(max_concurrency=…"),
            ("pool", r"where the function is decorated, as @offload\(pool=…"),
            ("jobs", r"where the function is decorated, as @offload\(jobs=…"),
            ("nonsense", "; options of a call are timeout, "),
        ],
    )
    def test_error_says_where_an_option_belongs(self, name, text):
        """An option that is not one of a call is told with its place, or the nearest name."""
        with pytest.raises(TypeError, match=f"unknown option '{name}'.*{text}"):
            functions.report.options(**{name: 1})
        if name not in ("pool", "max_concurrency", "jobs"):
            with pytest.raises(TypeError, match=f"unknown option '{name}'.*{text}"):
                offload(**{name: 1})
