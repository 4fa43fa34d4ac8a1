"""What type checkers must refuse: each line has the error it needs, and is an error without it.

mypy's `warn_unused_ignores` and pyright's `reportUnnecessaryTypeIgnoreComment` make a suppression
that suppresses nothing an error. Checked, never run.
"""

# pyright: reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

from collections.abc import Iterator

from offload import Offloaded, Pool, offload
from offload.jobs import Jobs  # noqa: TC001 - this file is checked, never run


@offload
def resize(photo: bytes, width: int = 100) -> bytes:
    """Take a photo."""
    return photo[:width]


@offload
def letters(text: str) -> Iterator[str]:
    """Yield letters."""
    yield from text


class Scale:
    """A method."""

    @offload
    def times(self, value: int) -> int:
        """Return the argument."""
        return value


async def arguments() -> None:
    """Call in the wrong way."""
    await resize("text")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await resize(b"", "1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await resize()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await resize(b"", height=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await resize(b"", 1, 2)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await resize.options(timeout=1)("text")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await Scale().times("text")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def results() -> None:
    """Take the result for something else."""
    photo: str = await resize(b"")  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    plain: bytes = resize(b"")  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    del photo, plain


async def options() -> None:
    """Give options that do not exist, or of the wrong type."""
    resize.options(timout=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    resize.options(timeout="1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    resize.options(pool="images")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    offload(max_workers=2)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    offload("images")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    Pool("x", os_priority="high")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def kinds() -> None:
    """Take one kind for the other."""
    await letters("abc")  # type: ignore[operator]  # pyright: ignore[reportCallIssue]
    resize.stream(b"")  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    await letters.map(["abc"])  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    other: Offloaded[[str], bytes] = resize  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    del other


async def maps() -> None:
    """Map what does not fit."""
    await resize.map(["text"])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
    await resize.map(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def pools(pool: Pool) -> None:
    """Run with arguments that do not fit."""
    await pool.run(len, 5)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    await pool.run(resize, "text")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]


async def jobs(some: Jobs) -> None:
    """Enqueue with arguments and options that do not fit."""
    await some.enqueue(resize, "text")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    await resize.enqueue("text")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    some.options(later=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
