"""Every engine: events. Hints that something happened, in any process."""

import anyio
import pytest

from offload.jobs._values import Complete, EventKind, JobState
from tests.jobs.values import claim, look, new_job, put

pytestmark = pytest.mark.anyio


async def test_listener_hears_the_life_of_a_job(engine, other):
    """What happens in one process is told in another, in order."""
    async with other.events(["one"]) as events:
        await put(engine, new_job("one"), new_job("two"))
        held = await claim(engine)
        await engine.progress(held, "0.5")
        await engine.finish(held, Complete("1"))
        kinds = []
        with anyio.fail_after(30):
            async for event in events:
                assert event.id == "one"
                kinds.append(event.kind)
                if event.kind is EventKind.COMPLETED:
                    break
    assert kinds == [
        EventKind.WAITING,
        EventKind.ACTIVE,
        EventKind.PROGRESS,
        EventKind.COMPLETED,
    ]


async def test_listener_to_all_hears_of_every_job(engine):
    """Without ids, events of all jobs are told, also to who caused them."""
    async with engine.events() as events:
        await put(engine, new_job("one", queue="a"), new_job("two"))
        with anyio.fail_after(30):
            first, second = await anext(events), await anext(events)
    assert (first.id, first.queue, second.id) == ("one", "a", "two")


async def test_result_can_be_waited_for(engine, other):
    """Listening first and then looking misses no end of a job."""
    await engine.put([new_job("one")])
    results = []

    async def wait():
        async with other.events(["one"]) as events:
            while True:
                record = await look(other, "one")
                if record.state.is_over:
                    results.append(record.result)
                    return
                await anext(events)

    async with anyio.create_task_group() as group:
        group.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        await engine.finish(await claim(engine), Complete("1"))
    assert results == ["1"]
    assert (await look(other, "one")).state is JobState.COMPLETED


async def test_closing_ends_listening(place):
    """The iterator of a closed engine ends instead of waiting for ever."""
    engine = place.new()
    await engine.open()
    heard = []
    entered = anyio.Event()

    async def listen():
        async with engine.events() as events:
            entered.set()
            heard.extend([event async for event in events])
        heard.append("end")

    async with anyio.create_task_group() as group:
        group.start_soon(listen)
        await entered.wait()
        await engine.aclose()
    assert heard == ["end"]
