"""Generic models, and functions that workers run with them."""

from typing import Generic, TypeVar

from pydantic import BaseModel

T = TypeVar("T")
S = TypeVar("S")


class Page(BaseModel, Generic[T]):
    items: list[T]


class Pair(BaseModel, Generic[T, S]):
    first: T
    second: S


class Item(BaseModel):
    name: str


class Named(Page[int]):
    """A class of its own name, of a generic one."""


def same(value):
    """Return what was given."""
    return value


def make(count):
    """Return a model that the server may never have made."""
    return Page[int](items=list(range(count)))
