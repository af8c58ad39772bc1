"""Marks on what comes in by a link, on kernels that have no `skbedit` to write them.

Every distribution's kernel has it; those that machines for tests are started with may
not. There the same is done by a program of the kernel's other machine, which needs a
system call that the agent is not allowed. What follows from the marks is the same; what
`skbedit` itself makes of our requests is tested in a guest (`tests/soak`).
"""

import ctypes
import errno
import os
import platform
import struct
from collections.abc import Sequence

from tortie.kernel.netlink import Request, attribute_u32, nested
from tortie.kernel.rtnl import guard, kinds
from tortie.kernel.rtnl.backend import Outcomes
from tortie.kernel.rtnl.connection import Rtnl
from tortie.lib.errors import KernelRefused

_BPF = {"x86_64": 321, "aarch64": 280}
_PROG_LOAD, _SCHED_CLS = 5, 3
_INSTRUCTION = struct.Struct("=BBhi")
_ARP_ON_THE_WIRE = 0x0608
_LOAD, _STORE, _AND, _OR, _MOVE, _JUMP_EQUAL, _EXIT = 0x61, 0x63, 0x54, 0x44, 0xB7, 0x15, 0x95
_MARK, _PROTOCOL = 8, 16
"""struct __sk_buff."""
_OPTIONS, _FD, _FLAGS = 2, 6, 8


class MarkingRtnl(Rtnl):
    """As the agent has it, but for what the kernel lacks."""

    def mark_links(self, indexes: Sequence[int], mark: int, mask: int) -> Outcomes:
        outcomes = super().mark_links(indexes, mark, mask)
        places = [n for n, found in enumerate(outcomes) if isinstance(found, KernelRefused)]
        if places:
            program = _marker(mark, mask)
            try:
                done = self.run([_attach(indexes[place], program) for place in places])
            finally:
                os.close(program)  # it lives as long as a link has it
            for place, outcome in zip(places, done, strict=True):
                outcomes[place] = outcome
        return outcomes


def _attach(index: int, program: int) -> Request:
    options = attribute_u32(_FD, program) + attribute_u32(_FLAGS, 1)
    body = guard._filter(index, guard._INGRESS) + nested(_OPTIONS, options)
    return Request(f"mark what comes in by link {index}", kinds.NEW_FILTER, kinds.REPLACE, body)


def _marker(mark: int, mask: int) -> int:
    """A program that writes the mark, unless it sees ARP: its descriptor."""
    code = (
        (_LOAD, 0x12, _PROTOCOL, 0),
        (_JUMP_EQUAL, 2, 4, _ARP_ON_THE_WIRE),
        (_LOAD, 0x12, _MARK, 0),
        (_AND, 2, 0, _signed(~mask & 0xFFFFFFFF)),
        (_OR, 2, 0, _signed(mark)),
        (_STORE, 0x21, _MARK, 0),
        (_MOVE, 0, 0, -1),
        (_EXIT, 0, 0, 0),
    )
    packed = b"".join(_INSTRUCTION.pack(*one) for one in code)
    instructions = ctypes.create_string_buffer(packed, len(packed))
    licence = ctypes.create_string_buffer(b"GPL")
    request = struct.pack(
        "=IIQQ", _SCHED_CLS, len(code), ctypes.addressof(instructions), ctypes.addressof(licence)
    ) + bytes(104)
    libc = ctypes.CDLL(None, use_errno=True)
    made: int = libc.syscall(
        _BPF[platform.machine()], _PROG_LOAD, ctypes.create_string_buffer(request), len(request)
    )
    if made < 0:
        failure = ctypes.get_errno() or errno.EIO
        raise OSError(failure, f"load a program: {os.strerror(failure)}")
    return made


def _signed(value: int) -> int:
    return value - (1 << 32) if value >> 31 else value
