"""What a process of root's may do, and giving up what it need not.

Capabilities belong to a thread: call `keep` before there is a second one. What
is given up comes back when root executes a program, unless `no_new_privileges`.

Source: capabilities(7), capset(2); numbers of include/uapi/linux/capability.h.
"""

import ctypes
import os
from collections.abc import Iterable
from enum import IntEnum

from tortie.lib.errors import kernel_error

_VERSION_3 = 0x20080522
_PR_GET_NO_NEW_PRIVS = 39

_libc = ctypes.CDLL(None, use_errno=True)


class Capability(IntEnum):
    NET_ADMIN = 12
    SYS_PTRACE = 19
    SYS_ADMIN = 21


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Words(ctypes.Structure):
    """Low and high 32 bits of each set, as capset(2) wants them."""

    _fields_ = tuple(
        (f"{name}{word}", ctypes.c_uint32)
        for word in ("_low", "_high")
        for name in ("effective", "permitted", "inheritable")
    )


def keep(wanted: Iterable[Capability]) -> None:
    """Give up every capability that this thread has but these.

    Raises:
        KernelRefused: it cannot be done.
    """
    header, words = _Header(_VERSION_3, 0), _Words()
    _check(_libc.capget(ctypes.byref(header), ctypes.byref(words)), "capget")
    mask = sum(1 << one for one in wanted)
    words.effective_low = words.permitted_low = words.permitted_low & mask
    words.effective_high = words.permitted_high = words.permitted_high & (mask >> 32)
    words.inheritable_low = words.inheritable_high = 0
    _check(_libc.capset(ctypes.byref(header), ctypes.byref(words)), "capset")


def no_new_privileges() -> bool:
    """Whether executing a program gives nothing back, as under the agent's unit."""
    found: int = _libc.prctl(_PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0)
    return found == 1


def _check(code: int, operation: str) -> None:
    if code != 0:
        raise kernel_error(operation, ctypes.get_errno())


def of_process(pid: int | None = None) -> frozenset[int]:
    """Numbers of the capabilities in effect; of this process if none is named."""
    with open(f"/proc/{pid or os.getpid()}/status") as status:
        found = next(line.split()[1] for line in status if line.startswith("CapEff:"))
    mask = int(found, 16)
    return frozenset(bit for bit in range(mask.bit_length()) if mask >> bit & 1)
