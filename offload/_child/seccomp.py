"""Which system calls a worker and all that it starts may make, for good.

A filter is a program that the kernel runs at each system call. Calls that are allowed whatever
their arguments cost next to nothing: the kernel notes them as it takes the filter (Linux 5.11).

What needs a capability is not here, since hardened workers have none: mounts, modules, the clock.

Source:
    seccomp(2); https://docs.kernel.org/userspace-api/seccomp_filter.html; the numbers are those of
    asm/unistd_64.h (x86_64) and asm-generic/unistd.h (aarch64).
"""

from __future__ import annotations

import errno
import os
import sys

from offload._child.system_calls import Memory
from offload._wire.lean import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["install", "is_known_machine", "program"]

_PR_SET_SECCOMP = 22
_MODE_FILTER = 2
_INSTRUCTION = struct.Struct("=HBBI")
# A number of instructions, and where they are.
_PROGRAM = struct.Struct("@HP")
_LOAD, _AND, _IF_EQUAL, _IF_AT_LEAST, _IF_ANY_BIT, _RETURN = 0x20, 0x54, 0x15, 0x35, 0x45, 0x06
_ALLOW = 0x7FFF0000
_FAIL = 0x00050000
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16

# By machine: AUDIT_ARCH_*, and whether numbers from 2^30 on are of another convention (x32).
_MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
_X32 = 0x40000000
# Numbers on x86_64 and aarch64; None: it has no such call.
_Numbers = tuple[int | None, int | None]

# Not there, so that programs do without: they would pass by this filter (io_uring makes sockets),
# or have their flags where it cannot look (clone3).
_ABSENT: tuple[_Numbers, ...] = (
    (425, 425),  # io_uring_setup
    (426, 426),  # io_uring_enter
    (427, 427),  # io_uring_register
    (435, 435),  # clone3
)
# Memory of other processes, and what the kernel's holes of late years were reached by.
_FORBIDDEN: tuple[_Numbers, ...] = (
    (101, 117),  # ptrace
    (310, 270),  # process_vm_readv
    (311, 271),  # process_vm_writev
    (312, 272),  # kcmp
    (438, 438),  # pidfd_getfd
    (440, 440),  # process_madvise
    (448, 448),  # process_mrelease
    (279, 239),  # move_pages
    (256, 238),  # migrate_pages
    (298, 241),  # perf_event_open
    (321, 280),  # bpf
    (323, 282),  # userfaultfd
    (248, 217),  # add_key
    (249, 218),  # request_key
    (250, 219),  # keyctl
    (272, 97),  # unshare
    (308, 268),  # setns
    # What processes of one user share by a number or a name, outside of the file system.
    (29, 194),  # shmget
    (31, 195),  # shmctl
    (64, 190),  # semget
    (66, 191),  # semctl
    (68, 186),  # msgget
    (71, 187),  # msgctl
    (240, 180),  # mq_open
    (241, 181),  # mq_unlink
)
_SOCKETS: tuple[_Numbers, ...] = (
    (41, 198),  # socket
    (42, 203),  # connect
    (49, 200),  # bind
    (50, 201),  # listen
    (43, 202),  # accept
    (288, 242),  # accept4
)
# What Landlock lets anybody do with files of his own: modes, owners, times, attributes.
_CHANGES: tuple[_Numbers, ...] = (
    (90, None),  # chmod
    (91, 52),  # fchmod
    (268, 53),  # fchmodat
    (452, 452),  # fchmodat2
    (92, None),  # chown
    (93, 55),  # fchown
    (94, None),  # lchown
    (260, 54),  # fchownat
    (132, None),  # utime
    (235, None),  # utimes
    (261, None),  # futimesat
    (280, 88),  # utimensat
    (188, 5),  # setxattr
    (189, 6),  # lsetxattr
    (190, 7),  # fsetxattr
    (463, 463),  # setxattrat
    (197, 14),  # removexattr
    (198, 15),  # lremovexattr
    (199, 16),  # fremovexattr
    (466, 466),  # removexattrat
    (469, 469),  # file_setattr
)
_TRUNCATE: _Numbers = (76, 45)

# CLONE_NEW*: namespaces, in which anybody has every capability.
_NEW_NAMESPACES = 0x7E020080
# TIOCSTI and TIOCLINUX put letters into the terminal that the server was started from.
_TERMINAL_REQUESTS = (0x5412, 0x541C)
# PR_SET_DUMPABLE: what reads core dumps from a pipe heeds no other limit.
_SET_DUMPABLE = 4
_UNIX, _STREAM, _SEQPACKET, _TYPE_MASK = 1, 1, 5, 0xF
_OF_USER_PRIORITY, _OF_USER_IO = 2, 3

_Code = list[tuple[int, int, int, int]]


def is_known_machine() -> bool:
    """Return whether there is a filter for this machine and interpreter."""
    # A 32-bit interpreter on a 64-bit kernel makes calls of another convention.
    return os.uname().machine in _MACHINES and sys.maxsize > 1 << 32


def _refuse(number: int = errno.EPERM) -> tuple[int, int, int, int]:
    return (_RETURN, 0, 0, _FAIL | number)


def _argument(index: int) -> tuple[int, int, int, int]:
    # The lower half, which is all that these calls look at. Both machines are little-endian.
    return (_LOAD, 0, 0, _ARGUMENTS + 8 * index)


def _refuse_if(how: int, value: int) -> _Code:
    return [(how, 0, 1, value), _refuse()]


def _refuse_unless(*values: int) -> _Code:
    tests = [(_IF_EQUAL, len(values) - place, 0, value) for place, value in enumerate(values)]
    return [*tests, _refuse()]


def _only_itself(index: int) -> _Code:
    """Refuse a call for another process than the caller, which is 0 in this argument."""
    return [_argument(index), *_refuse_unless(0)]


def _by_arguments(*, network: bool) -> list[tuple[_Numbers, _Code]]:
    """Return the calls that are allowed or not by what they are for."""
    rules: list[tuple[_Numbers, _Code]] = [
        ((56, 220), [_argument(0), *_refuse_if(_IF_ANY_BIT, _NEW_NAMESPACES)]),  # clone
        (
            (16, 29),  # ioctl
            [
                _argument(1),
                *(step for each in _TERMINAL_REQUESTS for step in _refuse_if(_IF_EQUAL, each)),
            ],
        ),
        ((157, 167), [_argument(0), *_refuse_if(_IF_EQUAL, _SET_DUMPABLE)]),  # prctl
        ((302, 261), _only_itself(0)),  # prlimit64
        ((203, 122), _only_itself(0)),  # sched_setaffinity
        ((144, 119), _only_itself(0)),  # sched_setscheduler
        ((142, 118), _only_itself(0)),  # sched_setparam
        ((314, 274), _only_itself(0)),  # sched_setattr
        ((141, 140), _only_itself_of(_OF_USER_PRIORITY)),  # setpriority
        ((251, 30), _only_itself_of(_OF_USER_IO)),  # ioprio_set
    ]
    if not network:
        # A pair of streams leads nowhere. One of datagrams can be sent to any address.
        pair = [
            _argument(0),
            *_refuse_unless(_UNIX),
            _argument(1),
            (_AND, 0, 0, _TYPE_MASK),
            *_refuse_unless(_STREAM, _SEQPACKET),
        ]
        rules.append(((53, 199), pair))  # socketpair
    return rules


def _only_itself_of(of_user: int) -> _Code:
    """Refuse what is for another process, or for all processes of the user."""
    return [_argument(0), *_refuse_if(_IF_EQUAL, of_user), *_only_itself(1)]


def program(machine: str, *, network: bool, can_change: bool, can_truncate: bool) -> bytes:
    """Return the filter for a machine.

    Args:
        machine: as `os.uname()` calls it.
        network: whether sockets may be made.
        can_change: whether modes, owners, times and attributes of files may be changed.
        can_truncate: whether the kernel looks after truncate(2) by other means.
    """
    place, architecture = _MACHINES[machine]
    # Programs of another architecture would make calls by other numbers.
    code: _Code = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_IF_EQUAL, 1, 0, architecture),
        _refuse(errno.ENOSYS),
        (_LOAD, 0, 0, _NUMBER),
        (_IF_AT_LEAST, 0, 1, _X32),
        _refuse(errno.ENOSYS),
    ]
    forbidden = [
        *_FORBIDDEN,
        *(() if network else _SOCKETS),
        *(() if can_change else _CHANGES),
        *(() if can_truncate else (_TRUNCATE,)),
    ]
    refusals = [(each, errno.ENOSYS) for each in _ABSENT] + [
        (each, errno.EPERM) for each in forbidden
    ]
    for numbers, error in refusals:
        if (number := numbers[place]) is not None:
            code += [(_IF_EQUAL, 0, 1, number), _refuse(error)]
    for numbers, steps in _by_arguments(network=network):
        number = numbers[place]
        assert number is not None
        code += [(_IF_EQUAL, 0, len(steps) + 1, number), *steps, (_RETURN, 0, 0, _ALLOW)]
    code.append((_RETURN, 0, 0, _ALLOW))
    return b"".join(_INSTRUCTION.pack(*each) for each in code)


def install(filter_program: bytes, prctl: Callable[..., int]) -> bool:
    """Live by a filter from now on; False if the kernel refused."""
    instructions = Memory(filter_program)
    count = len(filter_program) // _INSTRUCTION.size
    whole = _PROGRAM.pack(count, instructions.address)
    return prctl(_PR_SET_SECCOMP, _MODE_FILTER, whole, 0, 0) == 0
