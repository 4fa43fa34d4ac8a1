"""`@offload`: what may be decorated, what comes of it, how it is called, and how it fails."""

import asyncio
import contextlib
import copy
import functools
import gc
import inspect
import operator
import os
import pickle
import sys
import threading
import time
import traceback
import typing
import uuid
from pathlib import Path

import anyio
import pytest

import offload as package
from offload import (
    ArgumentError,
    FunctionError,
    FunctionNotFoundError,
    Offloaded,
    OffloadedGenerator,
    Pool,
    PoolClosedError,
    PoolNotFoundError,
    RemoteError,
    RemoteTraceback,
    ResultError,
    TaskTimeoutError,
    in_worker,
    offload,
)
from offload.stream import Stream
from tests.support import inside
from tests.support.functions import decorated as functions
from tests.support.functions.decorated import DoubleScale, Scale
from tests.support.processes import PATIENCE


@pytest.fixture(scope="module")
def pool():
    """Keep one warm pool for all tests of this module, as a server does."""
    pool = Pool.named()
    asyncio.run(pool.open())
    yield pool
    asyncio.run(pool.aclose(drain=0.0))


pytestmark = pytest.mark.usefixtures("pool")


async def until(condition):
    """Wait for what another process does."""
    with anyio.fail_after(PATIENCE):
        while not condition():  # noqa: ASYNC110 - there is no event between processes
            await anyio.sleep(0.005)


@pytest.mark.anyio
class TestCall:
    async def test_call_runs_in_another_process(self):
        """The awaited call gives what the function returns, made in a worker."""
        assert await functions.process_id() != os.getpid()

    @pytest.mark.parametrize(
        "args,kwargs,expected",
        [
            ((1,), {}, 11),
            ((1, 2), {}, 3),
            ((), {"left": 1, "right": 2}, 3),
            ((1,), {"scale": 3}, 33),
            ((1, 2), {"scale": 3}, 9),
        ],
    )
    async def test_arguments_arrive_as_given(self, args, kwargs, expected):
        """Positional, keyword, keyword-only and omitted arguments mean what they mean in Python."""
        assert await functions.add(*args, **kwargs) == expected

    async def test_any_number_of_arguments_arrives(self):
        """A function of `*args` and `**kwargs` gets them all, in order."""
        keywords = {f"k{number}": number for number in range(20)}
        assert await functions.many(*range(20), **keywords) == (tuple(range(20)), keywords)

    async def test_no_keyword_is_reserved(self):
        """A function may have parameters named as our options are."""
        assert await functions.options_as_keywords(timeout=1, pool=2, priority=3) == (1, 2, 3)

    async def test_wrong_arguments_are_a_type_error(self):
        """A call that does not fit the signature fails as it would without the decorator."""
        with pytest.raises(TypeError, match="missing 1 required positional argument: 'left'"):
            await functions.add()
        with pytest.raises(TypeError, match="unexpected keyword argument 'wrong'"):
            await functions.add(1, wrong=2)

    async def test_calls_run_at_once(self, tmp_path):
        """A call does not wait for another while there is a free worker."""
        results = []

        async def call(value):
            results.append(
                await functions.mark_and_wait(tmp_path / str(value), tmp_path / "go", value)
            )

        async with anyio.create_task_group() as group:
            group.start_soon(call, 1)
            group.start_soon(call, 2)
            await until(lambda: (tmp_path / "1").exists() and (tmp_path / "2").exists())
            (tmp_path / "go").touch()
        assert sorted(results) == [1, 2]

    async def test_plain_function_is_at_hand(self):
        """`__wrapped__` runs it here and now."""
        assert functions.add.__wrapped__(1, 2) == 3
        assert functions.process_id.__wrapped__() == os.getpid()

    async def test_current_task_tells_the_function(self):
        """The function can ask what it runs as, and there is no task outside of a worker."""
        assert await functions.task_name() == "tests.support.functions.decorated:task_name"
        assert functions.task_name.__wrapped__() is None
        assert not in_worker()

    async def test_nested_calls_run_inline(self):
        """What is called, mapped or streamed inside a worker runs in that same worker."""
        here, inside, (there, items, squares, total) = await functions.nested(1, 2)
        assert inside
        assert here == there != os.getpid()
        assert (items, squares, total) == ([0, 1, 2], [1, 4, 9], 3)

    async def test_plain_function_inside_a_function_is_itself(self):
        """`__wrapped__` works in a worker as it does here."""
        assert await functions.call_plain(1, 2) == 3

    @pytest.mark.parametrize(
        "value",
        [
            None,
            True,
            3.5,
            10**100,
            "text\ud800",
            b"bytes",
            ["list", {"of": ("nested", {1, 2})}],
            functions.Color.BLUE,
            functions.Point(1, 2),
            functions.Slotted([functions.Point(1, 2)]),
            Path("path"),
            operator.itemgetter(1),
            functools.partial(int, base=2),
            int,
            len,
            ...,
        ],
        ids=lambda value: type(value).__name__,
    )
    async def test_values_cross_both_ways(self, value):
        """What pickles comes back as it was, of the same class."""
        result = await functions.echo(value)
        assert type(result) is type(value)
        if not isinstance(value, (functools.partial, operator.itemgetter)):
            assert result == value

    async def test_enum_members_stay_themselves(self):
        """A member of an enum comes back as the same object."""
        assert await functions.echo(functions.Color.RED) is functions.Color.RED

    async def test_offloaded_function_is_an_argument_like_another(self):
        """A decorated function pickles by its name, and arrives as the decorated function."""
        assert await functions.echo(functions.add) is functions.add
        assert await functions.module_of(functions.add) == "offload.function"


@pytest.mark.anyio
class TestOptions:
    async def test_options_leave_the_original_alone(self):
        """`options` returns another object for the same function."""
        quick = functions.with_options.options(timeout=1)
        assert quick is not functions.with_options
        assert await quick(5) == await functions.with_options(5) == 5
        assert inside.options_of(quick).timeout == 1
        assert inside.options_of(quick).queue_timeout == 30
        assert inside.options_of(functions.with_options).timeout == 30

    async def test_options_add_up(self):
        """Options of options keep what is not given again."""
        twice = functions.add.options(timeout=1).options(priority=2)
        assert (inside.options_of(twice).timeout, inside.options_of(twice).priority) == (1, 2)

    async def test_timeout_of_a_call_counts(self, tmp_path):
        """A call's own timeout stops the function, and the error says so."""
        waiting = functions.waiting.options(timeout=0.1)
        with pytest.raises(TaskTimeoutError, match=r"timeout of 0\.1 s") as caught:
            await waiting(tmp_path / "never")
        assert caught.value.timeout == 0.1
        assert isinstance(caught.value, TimeoutError)

    async def test_options_of_a_method_keep_the_object(self):
        """`obj.method.options(…)` is still bound."""
        assert await Scale(3).times.options(timeout=30)(5) == 15
        assert await DoubleScale.class_below.options(timeout=30)(5) == ("DoubleScale", 5)

    async def test_missing_pool_is_named(self):
        """A pool that does not exist is an error that names it, those there are, and what to do."""
        with pytest.raises(PoolNotFoundError) as caught:
            await functions.on_missing_pool(1)
        assert caught.value.pool == "no such pool"
        assert isinstance(caught.value, LookupError)
        text = str(caught.value)
        assert "there is no pool named 'no such pool'" in text
        assert "'default'" in text
        assert "Pool('no such pool', …)" in text

    async def test_pool_is_found_by_name(self):
        """`pool="images"` is the pool of that name at the first call, however late it was made."""
        with pytest.raises(PoolNotFoundError):
            await functions.on_pictures(1)
        name = f"pictures {uuid.uuid4()}"
        late = offload(pool=name)(functions.on_pictures.__wrapped__)
        async with Pool(name, max_workers=1) as pictures:
            value, pid = await late(1)
            assert value == 1
            assert pid in {worker.pid for worker in pictures.statistics().workers}

    async def test_closed_pool_serves_again_once_opened(self):
        """A function finds its pool again after that was closed and opened anew."""
        images = inside.known("images") or Pool("images", max_workers=1)
        for _ in range(2):
            async with images:
                _, pid = await functions.on_images(1)
                assert pid in {worker.pid for worker in images.statistics().workers}
            with pytest.raises(PoolClosedError, match="pool 'images' is closed"):
                await functions.on_images(1)

    async def test_new_pool_takes_the_name_of_a_closed_one(self):
        """After a pool was closed and dropped, functions that name it find its successor."""
        for _ in range(2):
            async with Pool("pictures", max_workers=1) as pictures:
                _, pid = await functions.on_pictures(1)
                assert pid in {worker.pid for worker in pictures.statistics().workers}


class TestWrongOptions:
    @pytest.mark.parametrize(
        "options,kind,text",
        [
            ({"timout": 1}, TypeError, "unknown option 'timout': did you mean 'timeout'"),
            ({"timeout": 0}, ValueError, "timeout must be above 0"),
            ({"timeout": "1"}, TypeError, "timeout must be a number of seconds, not '1'"),
            ({"timeout": True}, TypeError, "timeout must be a number of seconds"),
            ({"timeout": float("nan")}, ValueError, "timeout must be finite"),
            ({"queue_timeout": -1}, ValueError, "queue_timeout must be at least 0"),
            ({"grace": None}, TypeError, "grace must be a number"),
            ({"priority": 1.5}, TypeError, "priority must be an int"),
            ({"max_crash_retries": -1}, ValueError, "max_crash_retries must be at least 0"),
        ],
    )
    def test_wrong_option_is_refused_by_name(self, options, kind, text):
        """A mistake in an option is found where it is written, by both ways to write it."""
        with pytest.raises(kind, match=text):
            offload(**options)
        with pytest.raises(kind, match=text):
            functions.add.options(**options)

    @pytest.mark.parametrize("value", [0, -1, 1.5, "2", True])
    def test_wrong_max_concurrency_is_refused(self, value):
        """The decorator's own option is checked like those of a call."""
        with pytest.raises((TypeError, ValueError), match="max_concurrency must be"):
            offload(max_concurrency=value)

    @pytest.mark.parametrize("value", [None, 5, Pool])
    def test_pool_is_a_pool_or_a_name(self, value):
        """Anything else as `pool` is refused when decorated."""
        with pytest.raises(TypeError, match="pool must be a Pool or the name of one"):
            offload(pool=value)

    def test_pool_is_no_option_of_a_call(self):
        """A call cannot move to another pool."""
        with pytest.raises(TypeError, match="unknown option 'pool'"):
            functions.add.options(pool="images")

    def test_nothing_positional_but_the_function(self):
        """`@offload("images")` is an error that says that a function is needed."""
        with pytest.raises(FunctionError, match="needs a function, not 'images'"):
            offload("images")


class TestIdentity:
    def test_bare_and_with_options_are_alike(self):
        """`@offload`, `@offload()` and `@offload(…)` make the same kind of object."""
        for decorator in (offload, offload(), offload(timeout=1)):
            assert type(decorator(functions.plain_square)) is Offloaded

    def test_it_is_a_coroutine_function(self):
        """Frameworks that ask take it for `async def`."""
        for function in (functions.add, functions.add.options(timeout=1), Scale(2).times):
            assert inspect.iscoroutinefunction(function)
            assert callable(function)

    def test_it_looks_like_its_function(self):
        """Name, qualified name, module, docstring, annotations and signature are the function's."""
        made, plain = functions.add, functions.add.__wrapped__
        for function in (made, made.options(timeout=1)):
            for name in ("__name__", "__qualname__", "__module__", "__doc__", "__annotations__"):
                assert getattr(function, name) == getattr(plain, name)
            assert inspect.signature(function) == inspect.signature(plain)
            assert typing.get_type_hints(function) == typing.get_type_hints(plain)
            assert inspect.unwrap(function) is plain
        assert inspect.getdoc(made) == "Add two numbers."
        assert inspect.getsource(made) == inspect.getsource(plain)

    def test_bound_method_hides_self(self):
        """The signature of a bound method is what a caller has to give."""
        assert list(inspect.signature(Scale(2).times).parameters) == ["value"]
        assert list(inspect.signature(Scale.class_below).parameters) == ["value"]
        assert list(inspect.signature(Scale.times).parameters) == ["self", "value"]
        assert list(inspect.signature(Scale.static_below).parameters) == ["value"]

    def test_repr_tells_function_and_pool(self):
        """Somebody who prints it sees what it is."""
        assert repr(functions.on_images) == (
            "<Offloaded tests.support.functions.decorated:on_images pool='images'>"
        )
        assert repr(functions.count) == (
            "<OffloadedGenerator tests.support.functions.decorated:count pool='default'>"
        )

    @pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
    def test_it_pickles_by_name(self, protocol):
        """A decorated function survives pickling as the same object."""
        for function in (functions.add, functions.count, Scale.times):
            assert pickle.loads(pickle.dumps(function, protocol)) is function
        assert copy.copy(functions.add) is functions.add
        assert copy.deepcopy([functions.add]) == [functions.add]

    def test_its_options_pickle_with_it(self):
        """Other options, and the object that a method is bound to, survive pickling."""
        quick = pickle.loads(pickle.dumps(functions.add.options(timeout=5)))
        assert inside.options_of(quick) == inside.options_of(functions.add.options(timeout=5))
        assert inside.options_of(quick.options(priority=1)).timeout == 5
        plain = pickle.loads(pickle.dumps(functions.add)).options(priority=1)
        assert inside.options_of(plain) == inside.options_of(functions.add.options(priority=1))
        bound = pickle.loads(pickle.dumps(Scale(7).times))
        assert bound.bound == (Scale(7),)
        assert pickle.loads(pickle.dumps(DoubleScale.class_below)).bound == (DoubleScale,)
        assert pickle.loads(pickle.dumps(Scale.static_above)) is Scale.static_above

    def test_generator_function_is_not_called(self):
        """A generator function has no single result, and its error says how to iterate."""
        assert type(functions.count) is OffloadedGenerator
        with pytest.raises(FunctionError, match=r"async for item in count\.stream"):
            functions.count(3)

    def test_public_names_are_there(self):
        """`offload.__all__` is sorted and complete."""
        assert package.__all__ == sorted(package.__all__)
        for name in package.__all__:
            assert getattr(package, name) is not None


@pytest.mark.anyio
class TestMethods:
    async def test_instance_method_takes_its_object_along(self):
        """The object is sent, and the method runs on its copy."""
        assert await Scale(3).times(5) == 15
        assert await Scale.times(Scale(3), 5) == 15

    @pytest.mark.parametrize("name", ["static_below", "static_above"])
    async def test_static_method_works_both_ways_round(self, name):
        """`@offload` may stand above or below `@staticmethod`, on class and object."""
        assert await getattr(Scale, name)(5) == ("static", 5)
        assert await getattr(Scale(2), name)(5) == ("static", 5)
        assert await getattr(DoubleScale, name)(value=5) == ("static", 5)

    @pytest.mark.parametrize("name", ["class_below", "class_above"])
    async def test_class_method_works_both_ways_round(self, name):
        """`@offload` may stand above or below `@classmethod`; cls is the class that was asked."""
        assert await getattr(Scale, name)(5) == ("Scale", 5)
        assert await getattr(DoubleScale, name)(5) == ("DoubleScale", 5)
        assert await getattr(DoubleScale(2), name)(value=5) == ("DoubleScale", 5)

    async def test_class_method_keeps_its_class_or_says_so(self):
        """Below `@classmethod` from Python 3.13 on, `.options` and `.map` cannot know the class."""
        assert await DoubleScale.class_below.options(timeout=5.0)(5) == ("DoubleScale", 5)
        if sys.version_info < (3, 13):
            assert await DoubleScale.class_above.options(timeout=5.0)(5) == ("DoubleScale", 5)
            assert await DoubleScale.class_above.map([5]) == [("DoubleScale", 5)]
            return
        with pytest.raises(FunctionError, match="write @offload above @classmethod"):
            DoubleScale.class_above.options(timeout=5.0)
        with pytest.raises(FunctionError, match="write @offload above @classmethod"):
            await DoubleScale.class_above.map([5])

    async def test_nested_class_is_found(self):
        """A method of a class inside a class has a name that a worker can follow."""
        assert await Scale.Inner.deep(5) == ("deep", 5)

    async def test_override_wins(self):
        """The method of the subclass runs, and can use that of its base."""
        assert await DoubleScale(3).times(5) == ("double", 30)
        assert await super(DoubleScale, DoubleScale(3)).times(5) == 15

    async def test_method_maps(self):
        """A bound method has `map`, as a function has."""
        assert await Scale(3).times.map([1, 2, 3]) == [3, 6, 9]
        assert await DoubleScale.class_below.map([1]) == [("DoubleScale", 1)]

    async def test_method_streams(self):
        """Generator methods stream, bound to an object or a class."""
        assert [item async for item in Scale(3).multiples.stream(3)] == [0, 3, 6]
        assert [item async for item in DoubleScale.class_items.stream(2)] == [
            ("DoubleScale", 0),
            ("DoubleScale", 1),
        ]

    async def test_object_that_does_not_pickle_is_named(self):
        """A bound method of an unpicklable object fails with the path to what is in the way."""
        with pytest.raises(
            ArgumentError, match=r"argument 'self', at self\.lock, cannot"
        ) as caught:
            await functions.Unpicklable().method(1)
        assert caught.value.parameter == "self"
        assert caught.value.function == "tests.support.functions.decorated:Unpicklable.method"

    async def test_accessing_a_method_is_cheap(self):
        """Binding does not look at signatures: it happens at each call of a method."""
        scale = Scale(3)
        began = time.thread_time()
        for _ in range(1000):
            _ = scale.times
        # 3 µs each here; reading a signature would make it 50.
        assert time.thread_time() - began < 0.025


@pytest.mark.anyio
class TestDecorators:
    async def test_decorator_below_runs_in_the_worker(self):
        """A decorator between ours and the function is part of what runs."""
        assert await functions.decorated_below(1) == 4

    async def test_decorator_above_runs_here(self):
        """A decorator above ours wraps the call, and the worker finds the function through it."""
        assert await functions.decorated_above(1) == 4

    async def test_decorators_on_both_sides_work(self):
        """Each side's decorator runs once."""
        assert await functions.decorated_around(1) == 8

    async def test_decorated_plain_function_runs_whole(self, pool):
        """`pool.run` of a function that others have decorated runs the decorators too."""
        assert await pool.run(functions.decorated_plain, 1) == 4

    async def test_pool_runs_decorated_and_plain_functions(self, pool):
        """`pool.run` takes a function with or without `@offload`."""
        assert await pool.run(functions.plain_square, 3) == 9
        assert await pool.run(functions.add, 3, right=4) == 7

    async def test_pool_runs_bound_methods(self, pool):
        """`pool.run` of a decorated method takes its object along."""
        assert await pool.run(Scale(3).times, 5) == 15


async def coroutine_function():
    """Stand for what runs on the loop already."""


async def async_generator_function():
    """Stand for what iterates on the loop already."""
    yield


class AsyncCallable:
    async def __call__(self):
        """Stand for an `async def` in disguise."""


def local():
    """Return what a worker cannot import."""

    def inner(): ...

    return inner


NO_MODULE = functools.partial(functions.plain_square, 2)


class TestRefusals:
    @pytest.mark.parametrize(
        "function,text",
        [
            (coroutine_function, "coroutine_function is async def.*plain, CPU-bound part"),
            (async_generator_function, "async_generator_function is async def"),
            (AsyncCallable(), "is async def"),
            (lambda value: value, "is a lambda: a worker cannot import it by name; write a def"),
            (local(), "inner is defined inside a function.*move it to the top level"),
            (Scale, "Scale is a class; write a function"),
            (int, "int is a class"),
            (NO_MODULE, "has no module and name.*write a plain function that calls it"),
            (functools.partial(coroutine_function), "is async def|has no module and name"),
            (functions.Callable_(), "has no module and name"),
            (str.upper, "has no module and name"),
            (5, "needs a function, not 5"),
            (None, "needs a function, not None"),
            (functions.add, "is offloaded already; decorate it once"),
            (functions.count, "is offloaded already"),
            (staticmethod(functions.add), "is offloaded already"),
            (classmethod(functions.add), "is offloaded already"),
            (Scale(2).times, "is offloaded already"),
            (staticmethod(coroutine_function), "is async def"),
            (property(functions.plain_square), "needs a function"),
            ([].append, "is bound to|has no module"),
            (functions.Bag(values=1).__init__, "is bound to"),
        ],
        ids=lambda value: None if isinstance(value, str) else type(value).__name__,
    )
    def test_what_cannot_be_sent_is_refused_when_decorated(self, function, text):
        """The mistake is told when the module is imported, with what to do instead."""
        with pytest.raises(FunctionError, match=text) as caught:
            offload(timeout=1)(function)
        assert isinstance(caught.value, TypeError)

    def test_lambda_is_refused_bare(self):
        """The bare decorator refuses as that with options does."""
        with pytest.raises(FunctionError, match="is a lambda"):
            offload(lambda: None)

    @pytest.mark.anyio
    @pytest.mark.parametrize(
        "function,text",
        [
            (coroutine_function, "is async def"),
            (lambda: None, "is a lambda"),
            (local(), "is defined inside a function"),
            (Scale, "is a class"),
        ],
        ids=["async", "lambda", "local", "class"],
    )
    async def test_pool_refuses_the_same(self, pool, function, text):
        """`pool.run` checks at the call what the decorator checks before."""
        with pytest.raises(FunctionError, match=text):
            await pool.run(function)

    @pytest.mark.anyio
    async def test_function_that_workers_do_not_have_is_told(self, monkeypatch):
        """A function that exists in the server only is an error that says where it was missed."""

        def made_up(): ...

        made_up.__qualname__ = "made_up"
        made_up.__module__ = "tests.support.functions.decorated"
        monkeypatch.setattr(functions, "made_up", made_up, raising=False)
        with pytest.raises(FunctionNotFoundError, match="has no 'made_up' in the worker") as caught:
            await offload(made_up)()
        assert isinstance(caught.value, LookupError)
        made_up.__module__ = "tests.no_such_module"
        with pytest.raises(FunctionNotFoundError, match=r"importing 'tests\.no_such_module' in"):
            await offload(made_up)()

    def test_builtin_function_with_a_name_is_taken(self):
        """A function that is written in C and has a module is a function like another."""
        assert type(offload(operator.add)) is Offloaded


@pytest.mark.anyio
class TestBuiltin:
    async def test_builtin_function_runs(self):
        """A decorated builtin runs on a worker."""
        assert await offload(operator.add)(1, 2) == 3


@pytest.mark.anyio
class TestMap:
    async def test_results_come_in_order(self):
        """The list has the results in the order of the items."""
        assert await functions.square.map(range(50)) == [number**2 for number in range(50)]

    async def test_nothing_maps_to_nothing(self):
        """No items, no calls."""
        assert await functions.square.map([]) == []

    async def test_items_are_taken_as_calls_are_made(self, tmp_path):
        """An endless or expensive source is not read ahead of what is under way."""
        taken = []

        def items():
            for number in range(10):
                taken.append(number)
                yield tmp_path / "go"

        async def call():
            await functions.waiting.map(items(), max_concurrency=3)

        async with anyio.create_task_group() as group:
            group.start_soon(call)
            await until(lambda: len(taken) == 3)
            await anyio.wait_all_tasks_blocked()
            assert taken == [0, 1, 2]
            (tmp_path / "go").touch()
        assert taken == list(range(10))

    async def test_no_more_than_the_limit_is_under_way(self, pool, tmp_path):
        """`max_concurrency=1` runs one after the other, however many workers are free."""

        def items():
            for number in range(5):
                seen.append(pool.statistics().busy + pool.statistics().queued)
                yield number

        seen = []
        before = pool.statistics().busy
        assert await functions.square.map(items(), max_concurrency=1) == [0, 1, 4, 9, 16]
        assert seen == [before] * 5

    async def test_first_failure_cancels_the_rest(self, pool, tmp_path):
        """One failure ends the map with that very exception, and stops what is running."""
        (tmp_path / "started").mkdir()
        with pytest.raises(ValueError, match="zero"):
            await functions.fail_or_wait_of.map(
                [(number, tmp_path / "started", tmp_path / "go") for number in range(50)]
            )
        assert len(list((tmp_path / "started").iterdir())) < 10
        await until(lambda: pool.statistics().busy == pool.statistics().queued == 0)

    async def test_failing_source_fails_as_itself(self):
        """What the iterator of items raises comes out as it is, not in a group."""

        def items():
            yield 1
            message = "no more"
            raise LookupError(message)

        with pytest.raises(LookupError, match="no more"):
            await functions.square.map(items())

    async def test_source_that_is_no_iterable_is_told(self):
        """`map(5)` is a TypeError."""
        with pytest.raises(TypeError, match="not iterable"):
            await functions.square.map(5)

    @pytest.mark.parametrize("value", [0, -1, 1.5, True])
    async def test_wrong_limit_is_refused(self, value):
        """A limit that makes no sense is refused before anything runs."""
        with pytest.raises((TypeError, ValueError), match="max_concurrency must be"):
            await functions.square.map([1], max_concurrency=value)

    async def test_cancelled_map_cancels_its_calls(self, pool, tmp_path):
        """A map that is not wanted any more stops what is running, and makes no more calls."""
        started = tmp_path / "started"
        started.mkdir()
        items = [(number, started, tmp_path / "go") for number in range(1, 50)]
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as group:
                group.start_soon(functions.fail_or_wait_of.map, items)
                await until(lambda: list(started.iterdir()))
                scope.cancel()
        await until(lambda: pool.statistics().busy == pool.statistics().queued == 0)
        assert len(list(started.iterdir())) < 10


@pytest.mark.anyio
class TestStream:
    async def test_items_come_in_order(self):
        """A stream gives every item once, in order, made in one worker."""
        assert [item async for item in functions.count.stream(100)] == list(range(100))
        pids = [pid async for pid in functions.process_ids.stream(3)]
        assert len(set(pids)) == 1
        assert pids[0] != os.getpid()

    async def test_arguments_arrive_as_given(self):
        """Keywords and defaults work as for a call."""
        assert [item async for item in functions.count.stream(5, start=3)] == [3, 4]

    async def test_empty_stream_ends_at_once(self):
        """A generator that yields nothing is an empty stream."""
        assert [item async for item in functions.count.stream(0)] == []

    async def test_async_with_gives_the_stream(self):
        """The context manager gives the stream itself."""
        async with functions.letters.stream("abc") as items:
            assert isinstance(items, Stream)
            assert aiter(items) is items
            assert [item async for item in items] == ["a", "b", "c"]

    async def test_ended_stream_stays_ended(self):
        """A stream that has ended gives nothing more, and can be closed any number of times."""
        stream = functions.count.stream(1)
        assert [item async for item in stream] == [0]
        assert [item async for item in stream] == []
        await stream.aclose()
        await stream.aclose()

    async def test_stream_that_was_not_begun_can_be_closed(self, tmp_path):
        """Nothing runs before the first item is asked for."""
        async with functions.noting.stream(tmp_path, 3):
            pass
        assert list(tmp_path.iterdir()) == []

    async def test_producer_waits_for_the_consumer(self, tmp_path):
        """The worker is never more than a few items ahead, however slow the consumer is."""

        def made():
            return len(list(tmp_path.glob("made-*")))

        async with functions.noting.stream(tmp_path, 1000) as items:
            taken = 0
            async for number in items:
                assert number == taken
                taken += 1
                assert made() <= taken + 16
                if taken == 30:
                    break
            # The worker stands still now: what it makes is bounded by what was taken.
            assert 30 <= made() <= 46

    async def test_early_exit_closes_the_generator(self, pool, tmp_path):
        """Leaving `async with` runs the generator's `finally` in the worker, which lives on."""
        crashed = pool.statistics().crashed
        async with functions.noting.stream(tmp_path, 1000) as items:
            async for number in items:
                if number == 3:
                    break
        await until((tmp_path / "closed").exists)
        await until(lambda: pool.statistics().busy == 0)
        assert len(list(tmp_path.glob("made-*"))) < 30
        assert pool.statistics().crashed == crashed
        assert await functions.add(1, 2) == 3

    async def test_break_without_context_manager_closes_too(self, pool, tmp_path):
        """A loop that is left by `break` closes the generator as soon as the stream is dropped."""
        async for number in functions.noting.stream(tmp_path, 1000):
            if number == 3:
                break
        gc.collect()
        await until((tmp_path / "closed").exists)
        await until(lambda: pool.statistics().busy == 0)

    async def test_exception_in_the_consumer_closes_the_generator(self, pool, tmp_path):
        """An exception in the body of the loop passes through and frees the worker."""
        with pytest.raises(KeyError, match="mine"):  # noqa: PT012 - the loop is the subject
            async with functions.noting.stream(tmp_path, 1000) as items:
                async for _ in items:
                    raise KeyError("mine")
        await until((tmp_path / "closed").exists)
        await until(lambda: pool.statistics().busy == 0)

    async def test_cancelled_consumer_frees_the_worker(self, pool, tmp_path):
        """A consumer that is cancelled while it waits for an item gives its worker back."""
        with anyio.move_on_after(0.2):
            async for _ in functions.never_yields.stream(tmp_path / "go"):
                pytest.fail("there is no item")
        await until(lambda: pool.statistics().busy == 0)
        assert await functions.add(1, 2) == 3

    async def test_exception_in_the_middle_comes_after_the_items(self):
        """What the generator raises is raised after the last item it made, with its traceback."""
        items = []
        with pytest.raises(LookupError, match="in the middle") as caught:  # noqa: PT012 - as above
            async for item in functions.fails_after.stream(20):
                items.append(item)  # noqa: PERF401 - what came before the exception counts
        assert items == list(range(20))
        assert "in fails_after" in remote_text(caught.value)

    async def test_failing_finally_does_not_cost_the_worker(self, pool, tmp_path):
        """A generator that raises while it is closed is just closed."""
        async with functions.fails_when_closed.stream(tmp_path) as items:
            assert await anext(items) == 1
        await until((tmp_path / "closed").exists)
        await until(lambda: pool.statistics().busy == 0)
        assert await functions.add(1, 2) == 3

    async def test_wrong_arguments_are_a_type_error(self, pool):
        """A stream that does not fit the signature fails as a call does, and costs no worker."""
        crashed = pool.statistics().crashed
        with pytest.raises(TypeError, match="missing 1 required positional argument: 'until'"):
            await anext(functions.count.stream())
        assert pool.statistics().crashed == crashed

    async def test_item_that_does_not_pickle_is_a_result_error(self):
        """The items before it arrive; then comes the error that names the function."""
        stream = functions.yields_lock.stream()
        assert await anext(stream) == 1
        with pytest.raises(ResultError, match="yields_lock ran, but its result cannot be sent"):
            await anext(stream)

    async def test_argument_that_does_not_pickle_is_named(self):
        """A stream names the culprit as a call does."""
        with pytest.raises(ArgumentError, match="argument 'until'"):
            await anext(functions.count.stream(threading.Lock()))

    async def test_big_items_arrive_whole(self):
        """Items larger than a socket's buffer cross as small ones do."""
        sizes = [(len(item), item[:1]) async for item in functions.big_items.stream(1_000_000, 12)]
        assert sizes == [(1_000_000, bytes([number])) for number in range(12)]

    async def test_generator_has_its_task_at_every_item(self):
        """`task_context()` is there from the first item to the last."""
        names = [name async for name in functions.task_names.stream()]
        assert names == ["tests.support.functions.decorated:task_names"] * 3

    async def test_generator_asked_to_stop_ends_the_stream_for_sure(self):
        """SystemExit in a generator ends the stream with an error, and nothing else."""
        stream = functions.yield_then_fail_as.stream("SystemExit")
        assert await anext(stream) == 1
        with pytest.raises(RemoteError, match="SystemExit"):
            await anext(stream)

    async def test_stream_runs_inline_in_this_process_inside_a_worker(self, monkeypatch):
        """Inside a worker a stream is the generator itself, closed with the stream."""
        from offload._child import context

        monkeypatch.setattr(context.process, "is_worker", True)
        closed = []

        def generator():
            try:
                yield from range(10)
            finally:
                closed.append(True)

        inside.replace_function(monkeypatch, functions.count, generator)
        async with functions.count.stream() as items:
            assert await anext(items) == 0
            assert not closed
        assert closed


@pytest.mark.anyio
class TestArguments:
    @pytest.mark.parametrize(
        "args,kwargs,parameter,text",
        [
            ((threading.Lock(),), {}, "left", r"argument 'left' cannot be pickled: it is .*lock"),
            ((1,), {"scale": threading.Lock()}, "scale", "argument 'scale' cannot be pickled"),
            (([1, threading.Lock()],), {}, "left", r"argument 'left', at left\[1\], cannot"),
            (({"a": {"b": [lambda: 1]}},), {}, "left", r"at left\['a'\]\['b'\]\[0\],"),
            (
                (functions.Bag(inner=functions.Bag(lock=threading.Lock())),),
                {},
                "left",
                r"at left\.inner\.lock,",
            ),
            ((functions.Slotted(threading.Lock()),), {}, "left", r"at left\.inner,"),
            ((1, 2, threading.Lock()), {}, "*2", r"argument '\*2' cannot"),
            (({threading.Lock(): 1},), {}, "left", "argument 'left'"),
            ((functions.BreaksWhenPickled(),), {}, "left", "does not want to travel"),
        ],
    )
    async def test_culprit_is_named_with_its_path(self, args, kwargs, parameter, text):
        """An argument that does not pickle is named, with the way to what is wrong inside it."""
        with pytest.raises(ArgumentError, match=text) as caught:
            await functions.add(*args, **kwargs)
        assert caught.value.parameter == parameter
        assert caught.value.function == "tests.support.functions.decorated:add"
        assert str(caught.value).startswith("tests.support.functions.decorated:add did not run: ")
        assert isinstance(caught.value, TypeError)

    async def test_large_argument_with_a_culprit_is_named_too(self):
        """What is pickled off the loop names its culprit as the rest does."""
        with pytest.raises(ArgumentError, match=r"argument 'left', at left\[700\],"):
            await functions.add([*range(700), threading.Lock()])

    async def test_argument_that_does_not_unpickle_did_not_run(self):
        """A value that cannot be rebuilt in the worker is an error with the worker's traceback."""
        with pytest.raises(ArgumentError, match="cannot be rebuilt") as caught:
            await functions.echo(functions.BreaksOnArrival())
        assert "did not run" in str(caught.value)
        assert "_break_in_a_worker" in remote_text(caught.value)

    async def test_argument_that_exits_on_arrival_costs_no_worker(self, pool):
        """Not even a value that calls `sys.exit()` when it is rebuilt ends the worker."""
        crashed = pool.statistics().crashed
        with pytest.raises(ArgumentError, match="SystemExit"):
            await functions.echo(functions.ExitsOnArrival())
        assert pool.statistics().crashed == crashed

    async def test_result_that_does_not_pickle_ran(self):
        """The error of such a result says that the function ran, and what it returned."""
        with pytest.raises(ResultError, match=r"make_lock ran, but .*lock") as caught:
            await functions.make_lock()
        assert caught.value.function == "tests.support.functions.decorated:make_lock"

    async def test_result_that_does_not_unpickle_ran(self):
        """A result that cannot be rebuilt here is the same error, and holds up nothing."""
        with pytest.raises(ResultError, match="ran, but its result cannot be unpickled here"):
            await functions.make_arrival_breaker()
        assert await functions.add(1, 2) == 3


def remote_text(error):
    """Return the worker's traceback as a user sees it in a log."""
    assert isinstance(error.__cause__, RemoteTraceback)
    return "".join(traceback.format_exception(error))


@pytest.mark.anyio
class TestExceptions:
    async def test_type_and_arguments_are_kept(self):
        """An exception of the function is raised here as what it was."""
        with pytest.raises(functions.PlainError) as caught:
            await functions.fail_plainly("boom")
        assert type(caught.value) is functions.PlainError
        assert caught.value.args == ("boom", 42)

    async def test_worker_traceback_is_shown(self):
        """The traceback of the worker, from the function on, is in the formatted exception."""
        with pytest.raises(functions.PlainError) as caught:
            await functions.fail_plainly("boom")
        text = remote_text(caught.value)
        assert "in fail_plainly" in text
        assert "raise PlainError(text, 42)" in text
        assert "_child" not in text

    async def test_notes_are_kept(self):
        """Notes of the exception arrive with it."""
        with pytest.raises(functions.PlainError) as caught:
            await functions.fail_with_notes()
        assert caught.value.__notes__ == ["the first note", "the second note"]
        assert "the second note" in remote_text(caught.value)

    async def test_group_is_kept(self):
        """An exception group arrives as such, for `except*`."""
        with pytest.raises(ExceptionGroup) as caught:
            await functions.fail_with_group()
        assert [type(each) for each in caught.value.exceptions] == [
            ValueError,
            functions.PlainError,
        ]

    async def test_cause_is_in_the_text(self):
        """What an exception was raised from is told in the worker's traceback."""
        with pytest.raises(ValueError, match="outer") as caught:
            await functions.fail_from_cause()
        text = remote_text(caught.value)
        assert "KeyError: 'missing'" in text
        assert "direct cause" in text

    @pytest.mark.parametrize("name", sorted(functions.FAILURES))
    async def test_whatever_is_raised_the_server_goes_on(self, pool, name):
        """Whatever a function raises is an ordinary `Exception` here, and costs no worker."""
        crashed = pool.statistics().crashed
        with pytest.raises(Exception) as caught:  # noqa: PT011 - any Exception
            await functions.fail_as(name)
        error = caught.value
        if name in ("BadStrError", "TwoArgumentsError", "concurrent.futures.CancelledError"):
            assert not isinstance(error, RemoteError)
        else:
            assert type(error) is RemoteError
            assert error.type_name.endswith(name)
            assert "in fail_as" in error.remote_traceback
            assert f"fail_as raised {error.type_name}" in str(error)
        assert "in fail_as" in remote_text(error)
        assert await functions.add(1, 2) == 3
        assert pool.statistics().crashed == crashed

    @pytest.mark.parametrize("name", sorted(functions.FAILURES))
    async def test_whatever_a_generator_raises_the_server_goes_on(self, name):
        """The same holds in the middle of a stream."""
        if name in ("StopIteration", "StopAsyncIteration"):
            expected = (RemoteError, RuntimeError)  # PEP 479 makes it a RuntimeError in the worker
        else:
            expected = Exception
        stream = functions.yield_then_fail_as.stream(name)
        assert await anext(stream) == 1
        with pytest.raises(expected) as caught:
            await anext(stream)
        assert not isinstance(caught.value, StopAsyncIteration)
        assert await functions.add(1, 2) == 3

    async def test_text_of_a_lost_exception_is_kept(self):
        """An exception that does not unpickle leaves its type and its text."""
        with pytest.raises(RemoteError) as caught:
            await functions.fail_as("LocksUpError")
        assert caught.value.type_name == "tests.support.functions.decorated.LocksUpError"
        assert caught.value.remote_message == "locked"

    async def test_exit_of_a_function_is_not_that_of_the_server(self):
        """`sys.exit()` in a function is an error of its call."""
        with pytest.raises(RemoteError, match="exit_by_sys raised SystemExit: 3"):
            await functions.exit_by_sys(3)

    async def test_remote_error_pickles(self):
        """The error can go on to another process."""
        with pytest.raises(RemoteError) as caught:
            await functions.exit_by_sys(3)
        again = pickle.loads(pickle.dumps(caught.value))
        assert (again.type_name, again.args) == ("SystemExit", caught.value.args)


def test_calls_need_an_event_loop():
    """Awaiting nothing runs nothing: the call is made when it is awaited."""
    coroutine = functions.add(1, 2)
    with contextlib.closing(coroutine):
        assert inspect.iscoroutine(coroutine)
