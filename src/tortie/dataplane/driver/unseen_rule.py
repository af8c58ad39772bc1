"""The routing rule that comes first: what our tables have not seen is not routed at all.

A packet that a workload has sent bears `Settings.mark_unseen` until our tables clear it,
before anything is routed (`driver.guard`). This rule sends what still bears it nowhere,
whether it is for this host or for others. So it must come before the kernel's own rule
for this host's addresses, which has priority 0. As there is nothing before 0, and the
kernel puts what is new behind its equals, that one is added once more behind ours, and
then its first copy goes: at no moment is there none. Rules of others are not touched.

What is marked between our rule and its absence is not much: nothing but packets of
workloads bears all these bits.

Ownership: a blackhole of priority 0 with our protocol. Who takes ours away leaves the
kernel's where it was, as far as anybody can see.
"""

import logging

from tortie.dataplane.settings import Settings
from tortie.kernel.rtnl import route
from tortie.kernel.rtnl.backend import Backend
from tortie.kernel.rtnl.rule import ACTION_BLACKHOLE, Rule
from tortie.lib.errors import KernelRefused, NotFound

log = logging.getLogger(__name__)

_FAMILIES = (4, 6)


class UnseenRuleDriver:
    """Loop task only."""

    def __init__(self, backend: Backend, settings: Settings) -> None:
        self._backend = backend
        self._settings = settings
        self._families = set(_FAMILIES)
        """Those that the kernel has rules for, as far as it is known."""
        self._pending = set(_FAMILIES)

    def resync(self) -> None:
        self._pending |= self._families

    def apply(self) -> None:
        """Have the rule where it should be, or take an earlier process's away.

        A kernel without such rules is told of once, and not asked again.

        Raises:
            KernelBusy: try again.
        """
        for family in tuple(self._pending):
            try:
                self._write(family)
            except KernelRefused as error:
                self._families.discard(family)
                if self._settings.mark_unseen:
                    log.warning("IPv%d: no second line from workloads: %s", family, error)
            self._pending.discard(family)

    @property
    def pending_count(self) -> int:
        return len(self._pending)

    def _write(self, family: int) -> None:
        unseen, mask = self._settings.mark_unseen, self._settings.mark_mask
        wanted = _unseen(family, unseen, mask, self._settings.route_protocol) if unseen else None
        found = self._backend.rules(family)
        for former in found:
            if former != wanted and _is_ours(former, self._settings.route_protocol):
                self._delete(former)
        if wanted is None:
            return
        if wanted not in found:
            self._backend.add_rule(wanted)
            found.append(wanted)  # at the end, for what is asked next
        place = found.index(wanted)
        for own in filter(_is_of_own_addresses, found[:place]):
            if own not in found[place:]:
                self._backend.add_rule(own, again=True)
            self._delete(own)

    def _delete(self, gone: Rule) -> None:
        try:
            self._backend.delete_rule(gone)
        except NotFound:
            log.debug("routing rule %s was gone", gone)


def remove(backend: Backend, route_protocol: int) -> None:
    """Take our rules away, of whatever mark, when a host is given up."""
    for one in backend.rules():
        if _is_ours(one, route_protocol):
            backend.delete_rule(one)


def _unseen(family: int, mark: int, mask: int, protocol: int) -> Rule:
    return Rule(
        family=family,
        priority=0,
        action=ACTION_BLACKHOLE,
        mark=mark,
        mask=mask,
        protocol=protocol,
    )


def _is_ours(one: Rule, protocol: int) -> bool:
    found = one.priority, one.action, one.protocol
    return found == (0, ACTION_BLACKHOLE, protocol)


def _is_of_own_addresses(one: Rule) -> bool:
    """The kernel's, or one that says the same."""
    kernels = Rule(family=one.family, priority=0, table=route.TABLE_LOCAL, protocol=one.protocol)
    return one == kernels
