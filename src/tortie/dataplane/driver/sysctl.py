"""Sysctls that must hold: forwarding for the host, and the settings of workload links.

Ownership: only keys that are wanted are ever written; a key that is no longer
wanted keeps its value (the link that had it is gone).
"""

import asyncio
import logging
from collections import defaultdict
from typing import Literal, NamedTuple, cast

from tortie.kernel import sysctl
from tortie.lib.delta import Delta
from tortie.lib.errors import NotFound, TortieError

log = logging.getLogger(__name__)

_READS_PER_TURN = 1000


class SysctlKey(NamedTuple):
    family: int
    interface: str
    """Empty for a setting of the whole namespace, whose path below net is `key`."""
    table: str
    key: str


def global_key(path: str) -> SysctlKey:
    """For a path below net, `ipv4/ip_forward`."""
    return SysctlKey(0, "", "", path)


class SysctlDriver:
    """Loop task only."""

    def __init__(self) -> None:
        self._delta: Delta[SysctlKey, str] = Delta()
        self._by_interface: defaultdict[str, set[SysctlKey]] = defaultdict(set)

    def want(self, key: SysctlKey, value: str) -> None:
        self._delta.want(key, value)
        self._by_interface[key.interface].add(key)

    def forget_interface(self, name: str) -> None:
        """The link is gone, and all that was set on it."""
        for key in self._by_interface.pop(name, ()):
            self._delta.want(key, None)
            self._delta.observe(key, None)

    def apply(self) -> list[TortieError]:
        """Write what differs. A key that there is not (its link has just gone, or
        IPv6 is not compiled in) counts as written. Returns what was refused."""
        refused: list[TortieError] = []
        for key, value in self._delta.updates():
            try:
                _write(key, value)
            except NotFound:
                log.debug("no sysctl %s", key)
            except TortieError as error:
                refused.append(error)
                continue
            self._delta.confirm(key)
        return refused

    async def resync(self) -> None:
        """Read every wanted key back; what differs is written by the next `apply`.

        A file takes 15 µs to read: with thousands of links others get a turn between.
        """
        found: dict[SysctlKey, str] = {}
        for count, key in enumerate(self._delta.wanted_keys):
            if count % _READS_PER_TURN == _READS_PER_TURN - 1:
                await asyncio.sleep(0)
            try:
                found[key] = _read(key)
            except NotFound:
                wanted = self._delta.wanted(key)
                assert wanted is not None
                found[key] = wanted
        self._delta.observe_all(found)

    @property
    def pending_count(self) -> int:
        return len(self._delta)


_Table = Literal["conf", "neigh"]


def _write(key: SysctlKey, value: str) -> None:
    if key.interface:
        table = cast(_Table, key.table)
        sysctl.set_interface(key.family, key.interface, key.key, value, table=table)
    else:
        sysctl.set_global(key.key, value)


def _read(key: SysctlKey) -> str:
    if key.interface:
        table = cast(_Table, key.table)
        return sysctl.get_interface(key.family, key.interface, key.key, table=table)
    return sysctl.get_global(key.key)
