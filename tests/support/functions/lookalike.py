"""Functions that tools look at; the tests say what they see."""

import functools
import zlib

from offload import offload


def timed(function):
    """Wrap without `functools.wraps`, as people do."""

    def inner(*args):
        return function(*args)

    return inner


def doubled(function):
    def inner(*args):
        return 2 * function(*args)

    return inner


@offload
def report(number: int, later: "Later | None" = None) -> int:
    """Sum the numbers below `number`.

    >>> report.__wrapped__(3)
    3
    """
    return sum(range(number))


@offload
def deferred(value: "Later") -> int:
    return value


class Later:
    pass


class Price:
    def __init__(self, factor=2):
        self.factor = factor

    @offload
    def times(self, number: int) -> int:
        """Multiply."""
        return number * self.factor

    @offload
    @classmethod
    def kind(cls):
        return cls.__name__

    @offload
    def __hidden(self, number):
        return number + self.factor

    def hidden(self, number):
        return self.__hidden(number)

    @offload
    def render(self):
        return "base"


class Invoice(Price):
    @offload
    def render(self):
        return super().render() + "+invoice"


@offload
def items(until):
    yield from range(until)


@offload
def order(quantities):
    """Call offloaded functions as one calls any."""
    return (
        sum(report(each) for each in quantities),
        Price(3).times(2),
        Price.kind(),
        report.options(timeout=5)(4),
        report.map(quantities),
        list(items(2)),
        list(items.stream(2)),
    )


@offload
def generator_of_calls(until):
    for number in range(until):
        yield report(number)


@timed
@offload
def wrapped_without_name(value):
    return value + 1


def double(value):
    return 2 * value


renamed = offload(timeout=30)(double)
packed = offload(zlib.compress)


@functools.lru_cache
@offload
def cached(value):
    return value
