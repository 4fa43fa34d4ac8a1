"""Lines of several programs, on the terminal of one."""

import asyncio
import os
import sys

import pytest

from offload._run.output import Prefixed

WRITTEN = [
    ([b"one\ntwo\n"], b"web | one\nweb | two\n"),
    ([b"on", b"e\ntw", b"o\n"], b"web | one\nweb | two\n"),
    ([b"no end of line"], b"web | no end of line\n"),
    ([b"\n\n"], b"web | \nweb | \n"),
    ([b"50 %\r100 %\r\n"], b"web | 50 %\r100 %\r\n"),
    ([b"\xff\xfe\n"], b"web | \xff\xfe\n"),
    ([b"x" * 100_000 + b"\n"], b"web | " + b"x" * 65536 + b"\nweb | " + b"x" * 34464 + b"\n"),
]


@pytest.fixture
def stream(tmp_path):
    """Return a stream such as `sys.stdout`."""
    with (tmp_path / "out").open("w", encoding="utf-8") as file:
        yield file


def copied(output, chunks, stream):
    """Copy what a program writes."""

    async def copy():
        reader = asyncio.StreamReader()
        for chunk in chunks:
            reader.feed_data(chunk)
            await asyncio.sleep(0)
        reader.feed_eof()
        await output.copy("web", reader, stream)

    asyncio.run(copy())


@pytest.mark.parametrize("chunks,shown", WRITTEN, ids=range(len(WRITTEN)))
def test_each_line_has_its_name(monkeypatch, stream, tmp_path, chunks, shown):
    """However it was written: in pieces, without an end, without a limit, in no known encoding."""
    monkeypatch.setattr(sys, "stdout", stream)
    copied(Prefixed(["web"], pytest.fail), chunks, stream)
    assert (tmp_path / "out").read_bytes() == shown


def test_names_are_as_wide_as_the_widest(monkeypatch, stream, tmp_path):
    """So that lines stand below each other."""
    monkeypatch.setattr(sys, "stderr", stream)
    output = Prefixed(["web", "worker"], pytest.fail)
    output.say("web", "up")
    output.say("worker", "up")
    assert (tmp_path / "out").read_text() == "web    | up\nworker | up\n"


def test_stream_that_nobody_reads_is_told_of_once(monkeypatch):
    """A pipe whose reader has left ends the whole, and what is left in it does no harm."""
    reader, writer = os.pipe()
    os.close(reader)
    failures = []
    with os.fdopen(writer, "w", encoding="utf-8") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        output = Prefixed(["web"], lambda: failures.append("failed"))
        copied(output, [b"one\ntwo\n"], stream)
        copied(output, [b"three\n"], stream)
    assert failures == ["failed"]
