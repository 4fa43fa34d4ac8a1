"""What an engine keeps of schedules, for all schedulers that share it.

```
 schedule/state/NAME     up to which fire time all are decided, how many ran, the last run
 schedule/spec/NAME      whether it is paused; all of a schedule that was made at run time
 schedule/fire/ID        who has taken a fire that runs in memory
 schedule/lease/NAME     who runs it in memory now
 schedule/next/NAME      which fire waits for that run to end
 schedule/version        changes with each spec
```

A fire is taken by its id, which is the same everywhere: so one scheduler of many has it, whatever
their clocks show. The last fire time that is decided is read only by schedulers that start or
are very late. A wrong clock may set it too far ahead; that never hides a fire from another one.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

from offload.jobs._notes import Swap

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from offload.jobs import Jobs
    from offload.jobs._notes import Notes

__all__ = [
    "KEEP_SECONDS",
    "LEASE_SECONDS",
    "ScheduleStore",
    "SpecNote",
    "StoredProgress",
    "StoredRun",
]

# The id of a fire that was taken is remembered for at least this long. That must exceed what clocks
# differ by, and how late a scheduler may be without asking which fire times are decided.
KEEP_SECONDS: Final = 86400.0
# After a process died that ran a fire in memory, others may run the schedule again.
LEASE_SECONDS: Final = 10.0

_STATE: Final = "schedule/state/"
_SPEC: Final = "schedule/spec/"
_FIRE: Final = "schedule/fire/"
_LEASE: Final = "schedule/lease/"
_NEXT: Final = "schedule/next/"
_VERSION: Final = "schedule/version"


# What reading a note raises that somebody else has written.
_UNREADABLE: Final = (
    AttributeError,
    LookupError,
    TypeError,
    ValueError,
    ArithmeticError,
    RecursionError,
)


@dataclass(frozen=True, slots=True)
class StoredRun:
    """The last run of a schedule, as others see it: that has ended, or whose job was stored.

    Attributes:
        id: of the fire.
        fire_time: ISO 8601.
        reason: why it ran.
        started_at: ISO 8601; of a job, when it was stored.
        outcome: how it ended; empty for jobs, which tell it themselves.
        ended_at: ISO 8601; empty for jobs.
        error: text of what it raised.
    """

    id: str
    fire_time: str
    reason: str
    started_at: str
    outcome: str = ""
    ended_at: str = ""
    error: str = ""


@dataclass(frozen=True, slots=True)
class StoredProgress:
    """How far a schedule is.

    Attributes:
        until: every fire time up to here has been decided by somebody.
        executions: how often it has run by schedule.
        times: its fire times, in words: where others are declared, those count from then on.
        last: the last run.
    """

    until: datetime
    executions: int = 0
    times: str = ""
    last: StoredRun | None = None

    def merged(self, other: StoredProgress) -> StoredProgress:
        """Return what both know."""
        return StoredProgress(
            max(self.until, other.until),
            max(self.executions, other.executions),
            other.times or self.times,
            other.last or self.last,
        )

    def text(self) -> str:
        """Return it as a note."""
        fields: dict[str, Any] = {
            "until": self.until.isoformat(),
            "executions": self.executions,
            "times": self.times,
        }
        if self.last is not None:
            fields["last"] = asdict(self.last)
        return json.dumps(fields)

    @classmethod
    def of(cls, text: str) -> StoredProgress | None:
        """Return what a note says; None: nothing that this version understands."""
        try:
            fields = json.loads(text)
            last = fields.get("last")
            until = datetime.fromisoformat(fields["until"]).astimezone(UTC)
            run = None if last is None else StoredRun(**{k: str(v) for k, v in last.items()})
            return cls(until, int(fields["executions"]), str(fields["times"]), run)
        except _UNREADABLE:
            return None


@dataclass(frozen=True, slots=True)
class SpecNote:
    """What is kept of how a schedule is to be.

    Attributes:
        is_paused: whether it fires nowhere.
        declaration: of one that was made at run time; None of one that programs declare.
    """

    is_paused: bool = False
    declaration: Mapping[str, Any] | None = None

    def text(self) -> str:
        """Return it as a note."""
        return json.dumps({"paused": self.is_paused, "declaration": self.declaration})

    @classmethod
    def of(cls, text: str) -> SpecNote:
        """Return what a note says; of one that this version does not understand, the defaults."""
        try:
            fields = json.loads(text)
            declaration = fields["declaration"]
            if not isinstance(declaration, dict):
                declaration = None
            return cls(bool(fields["paused"]), declaration)
        except _UNREADABLE:
            return cls()


class ScheduleStore:
    """Schedules in one engine. All methods raise `JobsUnavailableError`.

    Args:
        jobs: whose engine it is.
        owner: this process, for others.
    """

    def __init__(self, jobs: Jobs, owner: str) -> None:
        self.jobs: Final = jobs
        self.owner: Final = owner
        # As last seen: most changes need no look before them.
        self._texts: dict[str, str] = {}
        self._leases: dict[str, str] = {}

    async def _notes(self) -> Notes:
        return (await self.jobs.engine()).notes

    # How far

    async def states(self, names: Sequence[str]) -> dict[str, StoredProgress]:
        """Return how far schedules are, of those that have been seen before."""
        notes = await self._notes()
        texts = await notes.read([_STATE + name for name in names])
        found: dict[str, StoredProgress] = {}
        for name, text in zip(names, texts, strict=True):
            state = None if text is None else StoredProgress.of(text)
            if state is not None:
                found[name] = state
        return found

    async def begin(self, names: Mapping[str, str], until: datetime) -> None:
        """Note that schedules exist from now on: what they miss after this is known.

        Args:
            names: the schedules, new ones or with other fire times than before, in words.
            until: now.
        """
        notes = await self._notes()
        states = {name: StoredProgress(until, times=times) for name, times in names.items()}
        swaps = [Swap(_STATE + name, None, state.text()) for name, state in states.items()]
        are_new = await notes.swap(swaps)
        for (name, state), is_new in zip(states.items(), are_new, strict=True):
            if not is_new:
                await self._renew(notes, name, state)

    async def _renew(self, notes: Notes, name: str, state: StoredProgress) -> None:
        while True:
            (text,) = await notes.read([_STATE + name])
            old = None if text is None else StoredProgress.of(text)
            if old is not None and old.times == state.times:
                # Another scheduler was first.
                return
            new = replace(state, last=None if old is None else old.last).text()
            if (await notes.swap([Swap(_STATE + name, text, new)]))[0]:
                self._texts[name] = new
                return

    async def note(self, name: str, state: StoredProgress) -> None:
        """Note how far a schedule is, if nobody has noted more."""
        notes = await self._notes()
        await self._merge(notes, name, state)

    async def _merge(self, notes: Notes, name: str, state: StoredProgress) -> None:
        text = self._texts.get(name)
        while True:
            new = _merged(text, state).text()
            if new == text or (await notes.swap([Swap(_STATE + name, text, new)]))[0]:
                self._texts[name] = new
                return
            (text,) = await notes.read([_STATE + name])

    async def is_decided(self, name: str, fire_time: datetime) -> bool:
        """Return whether a fire time lies before what all schedulers have decided."""
        state = (await self.states([name])).get(name)
        return state is not None and state.until >= fire_time

    # Fires in memory

    async def take(self, name: str, fire: str, state: StoredProgress) -> bool:
        """Take a fire, and note how far the schedule is; False: another process has it."""
        notes = await self._notes()
        text = self._texts.get(name)
        new = _merged(text, state).text()
        # In one step: whoever dies in between would leave a fire that is taken and not noted.
        is_taken, is_noted = await notes.swap(
            [
                Swap(_FIRE + fire, None, self.owner, KEEP_SECONDS),
                Swap(_STATE + name, text, new),
            ]
        )
        if is_noted:
            self._texts[name] = new
        else:
            await self._merge(notes, name, state)
        return is_taken

    async def hold(self, name: str, fire: str) -> bool:
        """Hold a schedule while it runs here; False: it runs elsewhere."""
        value = f"{self.owner} {fire}"
        notes = await self._notes()
        (is_held,) = await notes.swap([Swap(_LEASE + name, None, value, LEASE_SECONDS)])
        if is_held:
            self._leases[name] = value
        return is_held

    async def let_go(self, name: str) -> None:
        """Hold a schedule no longer."""
        value = self._leases.pop(name, None)
        if value is not None:
            notes = await self._notes()
            await notes.swap([Swap(_LEASE + name, value, None)])

    async def take_place(self, name: str, fire: str, *, replaces: bool) -> bool:
        """Have a fire be the one that runs next; False: another one is, and is not replaced."""
        value = f"{self.owner} {fire}"
        notes = await self._notes()
        before: str | None = None
        while not (await notes.swap([Swap(_NEXT + name, before, value, LEASE_SECONDS)]))[0]:
            if not replaces:
                return False
            (before,) = await notes.read([_NEXT + name])
        return True

    async def keep_place(self, name: str, fire: str) -> bool:
        """Go on waiting; False: a later fire has the place, or it has lapsed."""
        value = f"{self.owner} {fire}"
        notes = await self._notes()
        (text,) = await notes.read([_NEXT + name])
        return (
            text == value
            and (await notes.swap([Swap(_NEXT + name, value, value, LEASE_SECONDS)]))[0]
        )

    async def leave_place(self, name: str, fire: str) -> None:
        """Wait no longer."""
        notes = await self._notes()
        await notes.swap([Swap(_NEXT + name, f"{self.owner} {fire}", None)])

    async def is_waited_for(self, name: str) -> bool:
        """Return whether a fire waits for the run of a schedule to end."""
        notes = await self._notes()
        return (await notes.read([_NEXT + name]))[0] is not None

    async def extend(self) -> list[str]:
        """Go on holding what is held, in one round trip; return what is another's by now."""
        held = dict(self._leases)
        if not held:
            return []
        notes = await self._notes()
        replies = await notes.swap(
            [Swap(_LEASE + name, value, value, LEASE_SECONDS) for name, value in held.items()]
        )
        lost: list[str] = []
        for name, is_ours in zip(held, replies, strict=True):
            if not is_ours and self._leases.get(name) == held[name]:
                # It lapsed: ours again, unless somebody has it.
                again = Swap(_LEASE + name, None, held[name], LEASE_SECONDS)
                if not (await notes.swap([again]))[0]:
                    self._leases.pop(name, None)
                    lost.append(name)
        return lost

    # How schedules are to be

    async def version(self) -> str | None:
        """Return what changes whenever a spec does."""
        notes = await self._notes()
        return (await notes.read([_VERSION]))[0]

    async def specs(self) -> dict[str, SpecNote]:
        """Return what is kept of how schedules are to be, by name."""
        notes = await self._notes()
        found = await notes.find(_SPEC)
        return {name.removeprefix(_SPEC): SpecNote.of(text) for name, text in found.items()}

    async def spec(self, name: str) -> SpecNote | None:
        """Return what is kept of how a schedule is to be."""
        notes = await self._notes()
        (text,) = await notes.read([_SPEC + name])
        return None if text is None else SpecNote.of(text)

    async def change_spec(self, name: str, old: SpecNote | None, new: SpecNote | None) -> bool:
        """Change it, if nobody else has; None: there is none."""
        notes = await self._notes()
        before, after = (None if each is None else each.text() for each in (old, new))
        (is_changed,) = await notes.swap([Swap(_SPEC + name, before, after)])
        if is_changed:
            await self._tell_version(notes)
        return is_changed

    async def _tell_version(self, notes: Notes) -> None:
        new = uuid4().hex
        while True:
            (text,) = await notes.read([_VERSION])
            if (await notes.swap([Swap(_VERSION, text, new)]))[0]:
                return

    async def pause(self, name: str, *, is_paused: bool) -> None:
        """Have a schedule fire nowhere, or everywhere again."""
        while True:
            old = await self.spec(name)
            new: SpecNote | None = replace(old or SpecNote(), is_paused=is_paused)
            if new == SpecNote():
                # As every schedule is that nobody has paused.
                new = None
            if old == new or await self.change_spec(name, old, new):
                return

    async def forget(self, name: str) -> None:
        """Forget a schedule."""
        notes = await self._notes()
        while True:
            old = await self.spec(name)
            if old is None or await self.change_spec(name, old, None):
                break
        self._texts.pop(name, None)
        while True:
            (text,) = await notes.read([_STATE + name])
            if text is None or (await notes.swap([Swap(_STATE + name, text, None)]))[0]:
                return


def _merged(text: str | None, state: StoredProgress) -> StoredProgress:
    old = None if text is None else StoredProgress.of(text)
    return state if old is None else old.merged(state)
