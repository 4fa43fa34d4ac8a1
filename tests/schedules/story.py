"""What tests of schedules share: a clock that they move, and the events of a scheduler."""

from datetime import UTC, datetime, timedelta
from typing import Self

import anyio

from offload.schedules import Scheduler
from tests.support.processes import PATIENCE, until

BASE = datetime(2026, 11, 30, 12, 0, 0, 500_000, tzinfo=UTC)


class Clock:
    """A clock on the wall that only the test moves, forward and back."""

    def __init__(self) -> None:
        self.now = BASE
        self.schedulers: list[Scheduler] = []

    def __call__(self) -> datetime:
        return self.now

    def move(self, seconds: float) -> None:
        """Set it, and have the schedulers see that, as they do by themselves within a second."""
        self.now += timedelta(seconds=seconds)
        for each in self.schedulers:
            if each.levers.running is not None:
                each.levers.running.changed()

    def scheduler(self, jobs=None, **options) -> Scheduler:
        """Return a scheduler that goes by this clock."""
        made = Scheduler(jobs, **options)
        made.levers.clock = self
        self.schedulers.append(made)
        return made


async def ready(scheduler: Scheduler) -> None:
    """Wait until all schedules have been taken up."""
    await until(lambda: all(scheduler.levers.state_of(each.name) is not None for each in scheduler))


class Story:
    """The events of a scheduler, in order."""

    def __init__(self, scheduler: Scheduler, name: str | None = None) -> None:
        self.events = scheduler.events(name)
        self.told = []

    async def __aenter__(self) -> Self:
        await self.events.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.events.__aexit__(None, None, None)

    async def until(self, kind, count: int = 1):
        """Return the event with which there are so many of a kind."""
        seen = sum(each.kind is kind for each in self.told)
        with anyio.fail_after(PATIENCE):
            while seen < count:
                self.told.append(await anext(self.events))
                seen += self.told[-1].kind is kind
        return self.told[-1]

    @property
    def kinds(self) -> list[str]:
        """What has been told so far, and what is still to be heard."""
        self.told += self.events._kept
        self.events._kept.clear()
        return [each.kind.value for each in self.told]
