"""The filter of system calls, run by an interpreter in Python: also for machines of other kinds."""

import errno
import struct
import sys
from typing import NamedTuple

import pytest

if not sys.platform.startswith("linux"):
    pytest.skip("filters of Linux", allow_module_level=True)

from offload._child.seccomp import program

_ALLOWED = 0x7FFF0000
_REFUSED = 0x00050000
_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
MACHINES = pytest.mark.parametrize("machine", _ARCHITECTURES)


class Numbers(NamedTuple):
    """Numbers of system calls, from the headers of Linux; newer ones are the same everywhere."""

    read: int
    socket: int
    socketpair: int
    clone: int
    ioctl: int
    prlimit64: int
    setpriority: int
    ptrace: int
    prctl: int
    fchmod: int
    utimensat: int
    truncate: int
    memfd_create: int
    execve: int
    kill: int
    io_uring_setup: int = 425
    clone3: int = 435


NUMBERS = {
    "x86_64": Numbers(0, 41, 53, 56, 16, 302, 141, 101, 157, 91, 280, 76, 319, 59, 62),
    "aarch64": Numbers(63, 198, 199, 220, 29, 261, 140, 117, 167, 52, 88, 45, 279, 221, 129),
}


def verdict(code: bytes, number: int, *arguments: int, architecture: int) -> int:
    """Run a filter as the kernel does; see "The classic BPF" of its documentation."""
    whole = (*arguments, *([0] * (6 - len(arguments))))
    data = struct.pack("<iIQ6Q", number, architecture, 0, *whole)
    steps = list(struct.iter_unpack("<HBBI", code))
    accumulator, at = 0, 0
    while True:
        operation, if_true, if_false, value = steps[at]
        at += 1
        if operation == 0x20:
            (accumulator,) = struct.unpack_from("<I", data, value)
        elif operation == 0x54:
            accumulator &= value
        elif operation == 0x06:
            return value
        else:
            test = {
                0x15: accumulator == value,
                0x35: accumulator >= value,
                0x45: bool(accumulator & value),
            }[operation]
            at += if_true if test else if_false


class Filter:
    """A filter of one machine."""

    def __init__(
        self,
        machine: str,
        *,
        network: bool = False,
        can_change: bool = False,
        truncate: bool = True,
    ) -> None:
        self.code = program(machine, network=network, can_change=can_change, can_truncate=truncate)
        self.architecture = _ARCHITECTURES[machine]
        self.numbers = NUMBERS[machine]

    def __call__(self, name: str, *arguments: int) -> str:
        """Return "allowed", or the name of the error."""
        number = getattr(self.numbers, name)
        return said(verdict(self.code, number, *arguments, architecture=self.architecture))


def said(result: int) -> str:
    """Return "allowed", or the name of the error."""
    if result == _ALLOWED:
        return "allowed"
    assert result & 0xFFFF0000 == _REFUSED
    return errno.errorcode[result & 0xFFFF]


@MACHINES
def test_usual_calls_are_allowed(machine: str) -> None:
    """What every program does needs no filter."""
    decide = Filter(machine)
    for name in ("read", "memfd_create", "execve", "kill"):
        assert decide(name) == "allowed"
    assert decide("clone", 0x01200011) == "allowed"  # as fork(3) makes it
    assert decide("clone", 0x003D0F00) == "allowed"  # as pthread_create(3)
    assert decide("ioctl", 1, 0x5401) == "allowed"  # TCGETS
    assert decide("prctl", 15, 1) == "allowed"  # PR_SET_NAME
    assert decide("prlimit64", 0, 4) == "allowed"
    assert decide("setpriority", 0, 0, 10) == "allowed"


@MACHINES
@pytest.mark.parametrize(
    "name, arguments, error",
    [
        ("io_uring_setup", (), "ENOSYS"),
        ("clone3", (), "ENOSYS"),
        ("ptrace", (), "EPERM"),
        ("prctl", (4, 1), "EPERM"),  # PR_SET_DUMPABLE
        ("clone", (0x10000011,), "EPERM"),  # CLONE_NEWUSER
        ("clone", (0x40000011,), "EPERM"),  # CLONE_NEWNET
        ("ioctl", (0, 0x5412), "EPERM"),  # TIOCSTI
        ("ioctl", (0, 0x541C), "EPERM"),  # TIOCLINUX
        ("prlimit64", (1234,), "EPERM"),
        ("setpriority", (0, 1234), "EPERM"),
        ("setpriority", (2, 0), "EPERM"),  # all of the user's
        ("socket", (1, 1), "EPERM"),
        ("socketpair", (1, 2), "EPERM"),  # datagrams
        ("socketpair", (1, 3), "EPERM"),  # SOCK_RAW, which is taken for datagrams
        ("socketpair", (30, 5), "EPERM"),  # TIPC
        ("fchmod", (), "EPERM"),
        ("utimensat", (), "EPERM"),
    ],
)
def test_ways_out_are_refused(
    machine: str, name: str, arguments: tuple[int, ...], error: str
) -> None:
    """Whatever leads to other processes, to networks, or to files by another way."""
    assert Filter(machine)(name, *arguments) == error


@MACHINES
def test_upper_halves_of_arguments_change_nothing(machine: str) -> None:
    """The kernel takes them for 32 bits: a filter that did not would be passed by."""
    decide = Filter(machine)
    assert decide("ioctl", 0, 0x5412 | 1 << 32) == "EPERM"
    assert decide("socketpair", 1 | 1 << 40, 2 | 1 << 40) == "EPERM"
    assert decide("prlimit64", 1234 | 1 << 32) == "EPERM"


@MACHINES
def test_pairs_of_streams_are_allowed(machine: str) -> None:
    """With SOCK_CLOEXEC and SOCK_NONBLOCK as well: asyncio needs one."""
    decide = Filter(machine)
    for kind in (1, 5, 1 | 0o2000000, 1 | 0o4000):
        assert decide("socketpair", 1, kind) == "allowed"


@MACHINES
def test_what_is_wanted_is_allowed(machine: str) -> None:
    """A network, changes of files, and truncation where the kernel cannot look after it."""
    free = Filter(machine, network=True, can_change=True)
    assert free("socket", 2, 1) == free("socketpair", 1, 2) == free("fchmod") == "allowed"
    assert Filter(machine)("truncate") == "allowed"
    assert Filter(machine, truncate=False)("truncate") == "EPERM"


@MACHINES
def test_calls_of_another_convention_are_refused(machine: str) -> None:
    """A 32-bit program, or x32, has other numbers for the same calls."""
    decide = Filter(machine)
    for architecture in {0x40000003, 0x40000028, *_ARCHITECTURES.values()} - {decide.architecture}:
        result = verdict(decide.code, decide.numbers.read, architecture=architecture)
        assert said(result) == "ENOSYS"
    x32 = decide.numbers.socket | 0x40000000
    assert said(verdict(decide.code, x32, architecture=decide.architecture)) == "ENOSYS"
