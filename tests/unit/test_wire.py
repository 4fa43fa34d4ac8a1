"""`offload._wire.frames`: frames and payloads come out as they went in, and nothing leaks."""

import collections
import dataclasses
import datetime as dt
import decimal
import gc
import math
import operator
import os
import pickle
import resource
import socket
import sys
import uuid
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from offload._wire import source as sources
from offload._wire.frames import (
    INLINE_BYTES,
    Assembler,
    Flag,
    Frame,
    pack_descriptors,
    pack_frame,
)
from offload._wire.large import decode_large, encode_large
from offload._wire.memory_file import anonymous_file
from offload._wire.page import BUFFER_BYTES
from offload._wire.payload import Request, Way, request_in_thread, way_of
from offload._wire.pickling import TooLarge, encode
from offload._wire.shared_file import SharedFile
from tests.support import inside

pytestmark = pytest.mark.skipif(
    sys.platform == "win32", reason="workers with a socket of their own are for POSIX"
)


@dataclasses.dataclass(frozen=True)
class Point:
    x: object
    y: object


class Pair(NamedTuple):
    left: object
    right: object


scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.complex_numbers(allow_nan=False)
    | st.text()
    | st.binary()
    | st.binary().map(bytearray)
    | st.decimals(allow_nan=False)
    | st.fractions()
    | st.uuids()
    | st.datetimes(timezones=st.just(dt.UTC))
    | st.timedeltas()
    | st.sampled_from((Ellipsis, int, os.path.join, decimal.ROUND_UP))
)
# Every picklable value that compares by what is in it.
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(st.text(), inner)
        | st.frozensets(st.integers())
        | st.sets(st.text())
        | st.builds(Point, inner, inner)
        | st.builds(Pair, inner, inner)
        | st.lists(inner).map(collections.deque)
    ),
    max_leaves=30,
)
# Sizes about every threshold: no element, in band, out of band, more than a frame.
arrays = st.builds(
    lambda dtype, shape: np.arange(math.prod(shape)).astype(dtype).reshape(shape),
    st.sampled_from(("u1", "<f8", ">i4", "c16")),
    npst.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=40),
)


def crossed(value):
    """Return what comes out of an anonymous file that the value went into."""
    body, fd, _ = encode_large(value)
    return decode_large(body, fd)


def descriptors():
    """Return the descriptors that this process has open."""
    gc.collect()
    return {path.name for path in Path("/dev/fd").iterdir()}


@pytest.fixture
def connection():
    """Two ends of a stream, the second one non-blocking."""
    here, there = socket.socketpair()
    with here, there:
        there.setblocking(False)
        yield here, there


class TestSmall:
    @given(values)
    def test_any_value_comes_back_equal(self, value):
        """What was encoded unpickles to an equal value of the same type."""
        again = pickle.loads(encode(value))
        assert again == value
        assert type(again) is type(value)

    @pytest.mark.parametrize(
        "make",
        [bytes, bytearray, "x".__mul__, lambda size: np.zeros(size, "u1")],
        ids=["bytes", "bytearray", "str", "array"],
    )
    def test_more_than_a_frame_is_refused(self, make):
        """The limit is the pickle's size, whatever holds the bytes; what fits is encoded."""
        with pytest.raises(TooLarge):
            encode(make(INLINE_BYTES))
        encoded = encode(make(INLINE_BYTES - 1000))
        assert len(encoded) <= INLINE_BYTES
        assert len(pickle.loads(encoded)) == INLINE_BYTES - 1000

    def test_many_small_parts_are_refused_together(self):
        """A long list of small objects is refused as soon as its pickle exceeds a frame."""
        pickled = []

        class Counted:
            def __reduce__(self):
                pickled.append(1)
                return str, (f"{len(pickled):100}",)

        with pytest.raises(TooLarge):
            encode([Counted() for _ in range(100_000)])
        assert len(pickled) < 2_000

    def test_error_of_a_reducer_passes(self):
        """What pickling raises is raised as it is, not as too large."""
        with pytest.raises(ZeroDivisionError):
            encode([Unpicklable()])


class Unpicklable:
    def __reduce__(self):
        return 1 // 0


class TestLarge:
    @given(values)
    def test_any_value_comes_back_equal(self, value):
        """A value of any size unpickles to an equal value of the same type."""
        again = crossed(value)
        assert again == value
        assert type(again) is type(value)

    @settings(max_examples=30)
    @given(values, st.sampled_from((0, 1, 4095, 4096, 65535, 65536, 65537, 300_000)))
    def test_large_parts_come_back_equal(self, value, size):
        """Text, bytes and byte arrays of any size cross beside other values."""
        value = [value, b"\xff" * size, "é" * size, bytearray(size), value]
        assert crossed(value) == value

    def test_calls_are_split(self, monkeypatch):
        """What is more than the kernel moves in one call is moved in several."""
        inside.move_bytes_at_once(monkeypatch, 1000)
        value = [b"b" * 99_999, "s" * 99_999, bytearray(99_999), np.arange(99_999)]
        *again, array = crossed(value)
        assert again == value[:-1]
        assert np.array_equal(array, value[-1])

    def test_body_tells_little(self):
        """The frame beside the file is small, however large the value is."""
        body, fd, size = encode_large([bytes(1_000_000), np.zeros(1_000_000)])
        os.close(fd)
        assert len(body) < 200
        assert size > 9_000_000

    def test_size_is_that_of_the_file(self):
        """The size that counts against `max_queued_bytes` is the whole payload."""
        _, fd, size = encode_large([b"x" * 100_000, np.zeros(10_000)])
        try:
            assert 0 <= os.fstat(fd).st_size - size < 100  # a table of where its buffers are
        finally:
            os.close(fd)

    def test_newlines_in_the_stream_are_found(self):
        """A reducer's text opcodes, which end in a newline, are read to it and no further."""
        source = sources.FileSource(anonymous_file(), 0)
        try:
            source.end = os.write(source.fd, b"one\ntwo")
            assert [source.readline() for _ in range(3)] == [b"one\n", b"two", b""]
            assert source.read() == b""
        finally:
            os.close(source.fd)

    @pytest.mark.parametrize("size", [0, 100_000])
    def test_error_of_a_reducer_closes_the_file(self, size):
        """What pickling raises is raised as it is, and no descriptor is left of the attempt."""
        before = descriptors()
        with pytest.raises(ZeroDivisionError):
            encode_large([np.zeros(size), Unpicklable()])
        assert descriptors() == before

    def test_error_of_unpickling_closes_the_file(self):
        """A payload that does not unpickle leaves no descriptor."""
        before = descriptors()
        body, fd, _ = encode_large([np.zeros(10_000), Breaks()])
        with pytest.raises(ZeroDivisionError):
            decode_large(body, fd)
        assert descriptors() == before


class Breaks:
    def __reduce__(self):
        return operator.floordiv, (1, 0)


class TestArrays:
    @settings(max_examples=200)
    @given(arrays, st.booleans(), st.booleans())
    def test_any_array_comes_back_equal(self, array, is_fortran, is_readonly):
        """Values, type, shape, order and writability of an array survive."""
        if is_fortran:
            array = np.asfortranarray(array)
        array.flags.writeable = not is_readonly
        again = crossed(array)
        assert np.array_equal(again, array)
        assert (again.dtype, again.shape) == (array.dtype, array.shape)
        assert again.flags.f_contiguous == array.flags.f_contiguous
        assert again.flags.c_contiguous == array.flags.c_contiguous
        assert again.flags.writeable == array.flags.writeable

    @pytest.mark.parametrize("size", [10, 300])
    @pytest.mark.parametrize(
        "view",
        [
            lambda array: array[::2, ::3],
            lambda array: array[::-1],
            lambda array: array[:, 5:],
            lambda array: np.broadcast_to(array[0], (4, *array[0].shape)),
            lambda array: np.moveaxis(array[None], 0, 1),
            lambda array: array.T[1:],
        ],
        ids=["steps", "reversed", "columns", "broadcast", "moved", "transposed"],
    )
    def test_views_come_back_equal(self, view, size):
        """A view that is not contiguous crosses as what it shows."""
        shown = view(np.arange(size * size).reshape(size, size))
        again = crossed(shown)
        assert np.array_equal(again, shown)
        assert again.shape == shown.shape

    @pytest.mark.parametrize("shape", [(0,), (0, 5), (5, 0), (0, 0, 0)])
    def test_empty_arrays_keep_their_shape(self, shape):
        """Nothing, in a shape, is still that shape; also beside arrays that are not empty."""
        empty, full, again = crossed([np.empty(shape), np.ones(9_999), np.empty(shape)])
        assert empty.shape == again.shape == shape
        assert full.sum() == 9_999

    def test_one_array_twice_is_one_array(self):
        """What the sender shared, the receiver shares."""
        array = np.zeros(10_000)
        first, second, other = crossed([array, array, array.copy()])
        assert first is second
        assert not np.shares_memory(first, other)

    def test_arrays_do_not_overlap(self):
        """Writing into one array that came changes no other, whatever their sizes."""
        sizes = (1, 4095, 4096, 4097, 8191, 65_536, 5)
        again = crossed([np.full(size, 1, "u1") for size in sizes])
        for number, array in enumerate(again):
            array[:] = number
        for number, array in enumerate(again):
            assert len(array) == sizes[number]
            assert (array == number).all()

    def test_writing_does_not_reach_the_sender(self):
        """The receiver's array is its own: neither the sender's nor another receiver's changes."""
        array = np.zeros(10_000)
        body, fd, _ = encode_large(array)
        other = os.dup(fd)
        first = decode_large(body, fd)
        first[:] = 1
        second = decode_large(body, other)
        second += 2
        assert (array.max(), first.max(), second.max()) == (0, 1, 2)

    def test_array_outlives_everything_else(self):
        """An array is whole after the file, its list and its neighbours are gone."""
        array = crossed([np.zeros(50_000), np.arange(50_000), np.zeros(50_000)])[1]
        gc.collect()
        crossed([np.ones(50_000)] * 2)
        assert np.array_equal(array, np.arange(50_000))

    def test_picklebuffers_come_back(self):
        """A `PickleBuffer` crosses as its bytes, writable if it was, in band and out of it."""
        for size in (10, 100_000):
            writable = crossed(pickle.PickleBuffer(bytearray(b"x" * size)))
            readonly = crossed(pickle.PickleBuffer(b"x" * size))
            assert bytes(writable) == bytes(readonly) == b"x" * size
            assert memoryview(readonly).readonly
            assert not memoryview(writable).readonly

    def test_scattered_picklebuffer_is_an_error(self):
        """A `PickleBuffer` of scattered bytes does not pickle, here as everywhere."""
        before = descriptors()
        with pytest.raises(pickle.PicklingError, match="non-contiguous"):
            encode_large(pickle.PickleBuffer(memoryview(bytes(100_000))[::2]))
        assert descriptors() == before

    def test_small_buffers_are_not_mapped(self):
        """Buffers so small that a mapping costs more than a copy are part of the stream."""
        before = descriptors()
        arrays = crossed([np.full(500, number) for number in range(100)])
        assert descriptors() == before
        assert all((array == number).all() for number, array in enumerate(arrays))

    @pytest.mark.parametrize("size", [100, 100_000])
    def test_readonly_stays_readonly(self, size):
        """An array that could not be written to still cannot, in band and out of it."""
        array = np.zeros(size)
        array.flags.writeable = False
        frozen, free = crossed([array, np.zeros(size)])
        assert (frozen.flags.writeable, free.flags.writeable) == (False, True)

    def test_structured_and_object_arrays_come_back(self):
        """Arrays that hold records or objects cross as others do."""
        records = np.zeros(2_000, dtype=[("id", "i4"), ("name", "U10")])
        records["id"] = np.arange(2_000)
        objects = np.array([{"a": 1}, None, uuid.uuid4()] * 2_000, dtype=object)
        assert np.array_equal(crossed(records), records)
        assert np.array_equal(crossed(objects), objects)


class TestDescriptors:
    @pytest.mark.parametrize(
        "value", [b"x" * 100_000, np.zeros(100_000), [], [np.zeros(9_999)] * 3]
    )
    def test_none_is_left_when_the_value_is_gone(self, value):
        """After a round trip there are as many descriptors as before."""
        before = descriptors()
        for _ in range(5):
            crossed(value)
        assert descriptors() == before

    def test_kept_values_keep_few_open(self):
        """A server that keeps a thousand arrays can still open sockets."""
        before = descriptors()
        kept = [crossed(np.full(1_000, number)) for number in range(300)]
        limit = 0 if sys.version_info >= (3, 13) else inside.max_mappings()
        assert len(descriptors() - before) <= limit
        assert all((array == number).all() for number, array in enumerate(kept))
        kept[0][:] = kept[-1][:] = 7  # mapped or copied, it is the receiver's own
        del kept
        assert descriptors() == before

    def test_mapping_is_used_again_after_many_were_kept(self):
        """What was kept and given up again no longer counts."""
        kept = [crossed(np.zeros(1_000)) for _ in range(inside.max_mappings() + 5)]
        del kept
        gc.collect()
        array = crossed(np.zeros(1_000))
        used = inside.used_mappings()
        assert used == (0 if sys.version_info >= (3, 13) else 1)
        assert not array.any()

    def test_anonymous_file_is_not_inherited(self):
        """Programs that a task starts do not get the file."""
        fd = anonymous_file()
        try:
            assert not os.get_inheritable(fd)
            assert os.fstat(fd).st_size == 0
        finally:
            os.close(fd)

    def test_received_descriptor_is_not_inherited(self, connection):
        """A descriptor that came over the socket is as private as one that was opened here."""
        here, there = connection
        fd = anonymous_file()
        here.sendmsg([pack_frame(1, b"", Flag.LARGE)], pack_descriptors(fd))
        os.close(fd)
        frames = Assembler()
        frames.receive(there)
        received = frames.take().take_descriptor()
        try:
            assert not os.get_inheritable(received)
        finally:
            os.close(received)

    def test_lost_descriptor_is_an_error(self, connection):
        """At the limit of open files a frame is not taken without its descriptor."""
        here, there = connection
        fd = anonymous_file()
        here.sendmsg([pack_frame(1, b"", Flag.LARGE)], pack_descriptors(fd))
        frames = Assembler()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (fd + 1, hard))
        try:
            with pytest.raises(OSError, match="could not be received"):
                frames.receive(there)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            os.close(fd)

    def test_descriptors_that_nobody_took_are_closed(self, connection):
        """Closing an assembler closes what came with frames that were not taken."""
        here, there = connection
        before = descriptors()
        frames = Assembler()
        for _ in range(3):
            fd = anonymous_file()
            here.sendmsg([pack_frame(1, b"", Flag.LARGE)], pack_descriptors(fd))
            os.close(fd)
            frames.receive(there)
        assert len(descriptors()) == len(before) + 3
        frames.close()
        frames.close()
        assert descriptors() == before


class TestOwners:
    """Every descriptor has one owner, who closes it once."""

    def test_frame_closes_what_nobody_took(self, connection):
        """The file of a payload and those of arguments, and none of them twice."""
        here, there = connection
        before = descriptors()
        fds = [anonymous_file() for _ in range(3)]
        here.sendmsg([pack_frame(1, b"", Flag.LARGE, 2)], pack_descriptors(*fds))
        for fd in fds:
            os.close(fd)
        frames = Assembler()
        frames.receive(there)
        received = frames.take()
        taken = received.take_descriptor()
        assert taken is not None
        assert received.take_descriptor() is None
        # By count: to list descriptors takes one itself, whose number is another's later.
        assert len(descriptors()) == len(before) + 3
        received.close()
        received.close()
        assert len(descriptors()) == len(before) + 1
        os.close(taken)

    def test_copy_of_a_frame_has_a_file_of_its_own(self):
        """Closing one leaves the other its file."""
        first = Frame(1, Flag.LARGE, b"body", anonymous_file(), 7)
        second = first.copy()
        first.close()
        assert (second.kind, second.flags, second.body, second.task) == (1, Flag.LARGE, b"body", 7)
        assert os.fstat(second.descriptor).st_size == 0
        second.close()

    def test_request_is_closed_once(self):
        """However often it is closed, its file is closed once, and by whom it is told."""
        closed = []
        request = Request(b"", 1_000_000, 5)
        request.close(closed.append)
        request.close(closed.append)
        assert closed == [1_000_000]
        assert request.descriptor is None

    def test_request_lets_go_of_the_files_of_its_arguments(self):
        """With its own file it closes those that were to travel beside it."""
        before = descriptors()
        fd = anonymous_file()
        shared = SharedFile(fd, 0)
        request = request_in_thread((None, (shared,), {}, None), 1, None)
        assert len(descriptors() - before) == 3
        request.close()
        assert len(descriptors() - before) == 1
        shared.close()
        assert descriptors() == before


@pytest.mark.parametrize(
    "size,way",
    [
        (INLINE_BYTES, Way.FRAME),
        (INLINE_BYTES + 1, Way.SHARED_BUFFER),
        (BUFFER_BYTES, Way.SHARED_BUFFER),
        (BUFFER_BYTES + 1, Way.FILE),
    ],
)
def test_size_decides_the_way(size, way):
    """A payload goes by the frame, the shared buffer or a file, by its size."""
    assert way_of(size) == way


@pytest.mark.parametrize(
    "argument,has_file",
    [
        (list(range(1000)), False),
        ([bytes(1000)] * 10, False),
        (list(range(INLINE_BYTES)), True),
        (bytes(BUFFER_BYTES + 1), True),
    ],
    ids=["numbers", "pieces", "many numbers", "bytes"],
)
def test_thread_makes_a_file_only_of_what_is_large(argument, has_file):
    """A list that takes too long to pickle on the loop still travels in a frame."""
    request = request_in_thread((None, (argument,), {}, None), 1, None)
    try:
        assert (request.descriptor is not None) == has_file
    finally:
        request.close()


messages = st.lists(
    st.tuples(
        st.integers(0, 255),
        st.sampled_from((0, Flag.RECYCLE, Flag.SLOW, Flag.LARGE, Flag.LARGE | Flag.RECYCLE)),
        st.binary(max_size=50) | st.integers(1, 3000).map(bytes),
    ),
    max_size=6,
)


class TestAssembler:
    @given(messages, st.data())
    def test_frames_come_whole_however_the_stream_is_cut(self, messages, data):
        """Any cut of the stream gives the same frames, in order, each with its own descriptor."""
        stream, files = b"", {}
        for number, (kind, flags, body) in enumerate(messages):
            if flags & Flag.LARGE:
                files[len(stream)] = number
            stream += pack_frame(kind, body, flags)
        cuts = data.draw(st.sets(st.integers(0, len(stream)))) | {0, len(stream)} | set(files)
        # Whoever reads may look after each piece, or let several arrive.
        looks = data.draw(st.sets(st.sampled_from(sorted(cuts))))
        frames, taken = Assembler(), []
        here, there = socket.socketpair()
        with here, there:
            for start, end in zip(sorted(cuts), sorted(cuts)[1:], strict=False):
                send(here, stream[start:end], files.get(start))
                assert frames.receive(there)
                while start in looks and (found := frames.take()) is not None:
                    taken.append(found)
            while (found := frames.take()) is not None:
                taken.append(found)
        assert [(each.kind, each.flags, each.body) for each in taken] == messages
        for number, each in enumerate(taken):
            assert (each.descriptor is not None) == bool(each.flags & Flag.LARGE)
            if each.descriptor is not None:
                assert os.fstat(each.descriptor).st_size == number
            each.close()
            assert each.descriptor is None

    def test_byte_by_byte(self, connection):
        """A stream that comes one byte at a time gives each frame with its last byte."""
        here, there = connection
        frames = Assembler()
        wanted = [(1, 0, b""), (2, Flag.SLOW, b"body"), (3, 0, bytes(300))]
        for kind, flags, body in wanted:
            stream = pack_frame(kind, body, flags)
            for number, byte in enumerate(stream, start=1):
                here.send(bytes([byte]))
                assert frames.receive(there)
                found = frames.take()
                assert (found is not None) == (number == len(stream))
            assert (found.kind, found.flags, found.body) == (kind, flags, body)
            assert found.descriptor is None

    def test_several_frames_in_one_piece(self, connection):
        """What comes together is taken one by one."""
        here, there = connection
        frames = Assembler()
        here.send(pack_frame(1, b"a") + pack_frame(2, b"b") + pack_frame(3, b"c")[:-1])
        frames.receive(there)
        assert [frames.take().body for _ in range(2)] == [b"a", b"b"]
        assert frames.take() is None

    def test_largest_frame_crosses(self, connection):
        """A body of the largest inline size comes whole."""
        here, there = connection
        frames = Assembler()
        body = os.urandom(INLINE_BYTES)
        pending = pack_frame(1, body)
        while pending:
            pending = pending[here.send(pending) :]
            frames.receive(there)
        while (found := frames.take()) is None:
            frames.receive(there)
        assert (found.kind, found.flags, found.body, found.descriptor) == (1, 0, body, None)

    def test_nothing_to_read_is_told_apart_from_the_end(self, connection):
        """An empty non-blocking socket raises; a closed one returns False."""
        here, there = connection
        frames = Assembler()
        with pytest.raises(BlockingIOError):
            frames.receive(there)
        here.close()
        assert frames.receive(there) is False
        assert frames.take() is None


def send(connection, data, size=None):
    """Send a piece of a stream; with it, the descriptor of a file of `size` bytes."""
    if size is None:
        connection.sendall(data)
        return
    fd = anonymous_file()
    try:
        os.truncate(fd, size)
        assert connection.sendmsg([data], pack_descriptors(fd)) == len(data)
    finally:
        os.close(fd)
