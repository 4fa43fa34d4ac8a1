"""Every engine: notes, by which schedulers agree on what has fired."""

import anyio
import pytest

from offload.jobs._notes import Swap

pytestmark = pytest.mark.anyio


async def test_note_is_read_by_others(engine, other):
    """A note that one process makes is there for every other one, letter by letter."""
    text = '{"at": "2026-11-30T02:00:00+00:00", "☃": "\'%s\\n"}'

    assert await engine.notes.swap([Swap("a:b/ü@2026", None, text)]) == (True,)

    assert await other.notes.read(["none", "a:b/ü@2026"]) == (None, text)


async def test_one_of_many_makes_a_note(place, engine, other):
    """Of all who would make a note that is not there, one does, and is told so."""
    won = []

    async def make(which, owner):
        if (await which.notes.swap([Swap("fire", None, owner, 60.0)]))[0]:
            won.append(owner)

    async with anyio.create_task_group() as group:
        for number in range(20):
            group.start_soon(make, engine if number % 2 else other, f"owner {number}")

    assert len(won) == 1
    assert await engine.notes.read(["fire"]) == (won[0],)


async def test_note_that_is_not_as_expected_stays(engine):
    """A change that expects another text is refused, and the others of the same call are made."""
    await engine.notes.swap([Swap("a", None, "1"), Swap("b", None, "2")])

    swapped = await engine.notes.swap([Swap("a", "0", "3"), Swap("b", "2", "4")])

    assert swapped == (False, True)
    assert await engine.notes.read(["a", "b"]) == ("1", "4")


async def test_swap_can_be_repeated(engine):
    """Whoever does not know whether a change was made makes it again, and is told it is made."""
    first = [Swap("a", None, "1"), Swap("b", None, "1")]

    assert await engine.notes.swap(first) == (True, True)
    assert await engine.notes.swap(first) == (True, True)
    assert await engine.notes.swap([Swap("a", "1", None)] * 2) == (True, True)
    assert await engine.notes.read(["a", "b"]) == (None, "1")


async def test_note_is_forgotten_after_its_lifetime(engine, until):
    """A note with a lifetime ends by itself, and another one can be made."""
    assert await engine.notes.swap([Swap("lease", None, "mine", 0.05)]) == (True,)

    async def is_gone():
        return await engine.notes.read(["lease"]) == (None,)

    await until(is_gone)
    assert await engine.notes.swap([Swap("lease", None, "yours", 60.0)]) == (True,)
    assert await engine.notes.swap([Swap("lease", None, "mine", 60.0)]) == (False,)


async def test_lifetime_begins_anew(engine, until):
    """A lease that is extended does not end when it would have."""

    async def is_extended():
        await engine.notes.swap([Swap("lease", None, "mine", 0.2)])
        # A busy machine may be too late for the first of them.
        return (await engine.notes.swap([Swap("lease", "mine", "mine", 600.0)])) == (True,)

    await until(is_extended)
    await anyio.sleep(0.25)  # the time that the first lifetime has

    assert await engine.notes.read(["lease"]) == ("mine",)


async def test_find_gives_what_begins_so(engine):
    """Notes are found by how their names begin: those that last."""
    names = ["spec/a", "spec/a/b", "spec/ü", "spec", "state/a", "spez/a"]
    await engine.notes.swap([Swap(name, None, name.upper()) for name in names])
    await engine.notes.swap([Swap("spec/lease", None, "x", 60.0), Swap("spec/a", "SPEC/A", None)])

    assert await engine.notes.find("spec/") == {"spec/a/b": "SPEC/A/B", "spec/ü": "SPEC/Ü"}
    assert await engine.notes.find("nothing") == {}
