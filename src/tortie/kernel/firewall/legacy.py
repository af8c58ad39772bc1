"""The `filter` tables of the old iptables, judged for a flow of ours.

They are read by socket options, as the kernel packs them: one entry after the
other, each with its matches and its target; a jump is an offset.

Source: struct ipt_getinfo, ipt_get_entries, ipt_entry (ip6t_...),
xt_entry_match, xt_standard_target in include/uapi/linux/netfilter*.
"""

import ctypes
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tortie.kernel.firewall.outcome import (
    TCP,
    Flow,
    Judged,
    both,
    conntrack_matches,
    drops,
    interface_is,
    opposite,
)
from tortie.kernel.nft.constants import VerdictCode
from tortie.kernel.nft.expressions import ACCEPT, DROP, RETURN, Verdict
from tortie.lib.errors import kernel_error

_GET_INFO, _GET_ENTRIES = 64, 65
_INFO = struct.Struct("=32sI5I5III")
_ENTRIES_HEADER_BYTES = 40
_FORWARD = 2
_EXTENSION = struct.Struct("=H29sB")
"""Size of all of it, name, revision; a match and a target alike."""
_INVERT_INPUT, _INVERT_OUTPUT, _INVERT_PROTOCOL = 0x01, 0x02, 0x40
_GOTO = 0x02
_NAMES = {4: Path("/proc/net/ip_tables_names"), 6: Path("/proc/net/ip6_tables_names")}


class _Layout(NamedTuple):
    """Where the fields of an entry are."""

    family: int
    level: int
    addresses: int
    """Bytes of addresses and masks, which stand first; interfaces and their masks follow."""
    protocol: int
    flags: int
    target_offset: int
    entry_bytes: int


_LAYOUTS = {
    4: _Layout(socket.AF_INET, socket.SOL_IP, 16, 80, 82, 88, 112),
    6: _Layout(socket.AF_INET6, socket.IPPROTO_IPV6, 64, 128, 131, 140, 168),
}


def forward_drops(flow: Flow) -> bool:
    """Whether chain FORWARD of the old `filter` table drops the flow for certain.

    False where nobody uses that table here: asking would load it.

    Raises:
        KernelRefused: not allowed to look.
    """
    try:
        if "filter" not in _NAMES[flow.family].read_text().split():
            return False
    except OSError:
        return False
    table = _Table(flow)
    return drops(table.rules, str(table.first), policy_drops=table.policy_drops)


class _Table:
    def __init__(self, flow: Flow) -> None:
        self._flow = flow
        self._layout = _LAYOUTS[flow.family]
        with socket.socket(self._layout.family, socket.SOCK_RAW, socket.IPPROTO_RAW) as door:
            info = _INFO.unpack(self._ask(door, _GET_INFO, b"filter".ljust(_INFO.size, b"\0")))
            self.first, self._policy_at = info[2 + _FORWARD], info[7 + _FORWARD]
            size = info[13]
            request = struct.pack("=32sI", b"filter", size).ljust(
                _ENTRIES_HEADER_BYTES + size, b"\0"
            )
            self._data = self._ask(door, _GET_ENTRIES, request)[_ENTRIES_HEADER_BYTES:]

    def _ask(self, door: socket.socket, option: int, request: bytes) -> bytes:
        """getsockopt with something in the buffer, which Python's own has not."""
        buffer = ctypes.create_string_buffer(request, len(request))
        length = ctypes.c_uint32(len(request))
        libc = ctypes.CDLL(None, use_errno=True)
        answer = libc.getsockopt(
            door.fileno(), self._layout.level, option, buffer, ctypes.byref(length)
        )
        if answer:
            code = ctypes.get_errno()
            raise kernel_error(f"read iptables' filter table: {os.strerror(code)}", code)
        return buffer.raw

    @property
    def policy_drops(self) -> bool:
        judged = self._judge(self._policy_at)
        return judged.verdicts == (DROP,)

    def rules(self, chain: str) -> Iterator[Judged]:
        """From an offset to the end of that chain: the policy, or what returns for all."""
        at = int(chain)
        while at < len(self._data) and at != self._policy_at:
            judged = self._judge(at)
            yield judged
            size = struct.unpack_from("=H", self._data, at + self._layout.target_offset + 2)[0]
            if not size or (judged.matches and judged.verdicts == (RETURN,)):
                return
            at += size

    def _judge(self, at: int) -> Judged:
        layout = self._layout
        target = at + struct.unpack_from("=H", self._data, at + layout.target_offset)[0]
        matches = self._head_matches(at)
        place = at + layout.entry_bytes
        while place < target and matches is not False:
            size, name, revision = _EXTENSION.unpack_from(self._data, place)
            info = self._data[place + _EXTENSION.size : place + size]
            matches = both(matches, _extension(name.rstrip(b"\0"), revision, info))
            place += max(size, 1)
        goes_on = self._data[at + layout.flags] & _GOTO
        return Judged(matches, self._verdicts(target, goto=bool(goes_on)))

    def _head_matches(self, at: int) -> bool | None:
        layout, data = self._layout, self._data
        names = at + layout.addresses
        inverted = data[at + layout.flags + 1]
        matches: bool | None = None if any(data[at : at + layout.addresses]) else True
        for offset, prefix, bit in (
            (0, self._flow.input_prefix, _INVERT_INPUT),
            (16, self._flow.output_prefix, _INVERT_OUTPUT),
        ):
            mask = data[names + offset + 32 : names + offset + 48]
            wanted = data[names + offset : names + offset + 16][: 16 - mask.count(0)]
            if wanted:
                is_it = interface_is(prefix, wanted)
                matches = both(matches, opposite(is_it) if inverted & bit else is_it)
        protocol = struct.unpack_from("=H", data, at + layout.protocol)[0]
        if protocol:
            matches = both(matches, (protocol == TCP) != bool(inverted & _INVERT_PROTOCOL))
        return matches

    def _verdicts(self, target: int, *, goto: bool) -> tuple[Verdict, ...]:
        size, raw_name, _ = _EXTENSION.unpack_from(self._data, target)
        name = raw_name.rstrip(b"\0")
        if name in (b"REJECT", b"DROP"):
            return (DROP,)
        if name == b"ERROR":  # heads each chain of a user's, and ends the table
            return (RETURN,)
        if name == b"NFQUEUE":
            return (ACCEPT, DROP)
        if name or size < _EXTENSION.size + 4:
            return ()
        verdict = struct.unpack_from("=i", self._data, target + _EXTENSION.size)[0]
        if verdict >= 0:
            code = VerdictCode.GOTO if goto else VerdictCode.JUMP
            return (Verdict(code, str(verdict)),)
        return {-1: (DROP,), -2: (ACCEPT,), -5: (RETURN,)}.get(verdict, (ACCEPT, DROP))


def _extension(name: bytes, revision: int, info: bytes) -> bool | None:
    if name == b"conntrack":
        return conntrack_matches(revision, info)
    if name == b"state":
        return bool(int.from_bytes(info[:4], "little") & 1 << 3)
    if name == b"tcp":
        # Source and destination ports, from and to; then an option and flags.
        return info[:8] == b"\0\0\xff\xff\0\0\xff\xff" and not any(info[8:11])
    if name == b"multiport":
        return False
    return True if name == b"comment" else None
