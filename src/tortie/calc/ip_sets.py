"""Who is in which set: members counted by how many bring them, sets by how many need them.

Sets exist only while an active policy or profile refers to them. Two endpoints with one address,
or two network sets with one network, make one member, which goes with the last of them. Members
may overlap (a network and an address in it): making them disjoint is the driver's business.
"""

from collections.abc import Iterator
from typing import NamedTuple

from tortie.calc.members import Item, Members
from tortie.calc.rule_scanner import SetSpec
from tortie.calc.sequencer import Sequencer
from tortie.calc.services import Services
from tortie.calc.validation import Labelled, Member, Served
from tortie.desired.endpoint import EndpointId
from tortie.desired.kinds import Kind
from tortie.desired.policy import AddressPort, IPSetType
from tortie.lib.ip import Network
from tortie.model.keys import ResourceKey
from tortie.selector.index import LabelIndex


class IPSetStatistics(NamedTuple):
    item_count: int
    """Endpoints, network sets and slices of services of the whole cluster."""
    set_count: int
    member_count: int
    evaluation_count: int
    """Selectors matched against labels, since the start."""


class IPSets:
    """All active sets; `prune` ends a round of changes."""

    def __init__(self, sequencer: Sequencer) -> None:
        self._sequencer = sequencer
        self._members = Members()
        self._sets: dict[str, _ActiveSet] = {}
        self._unused: dict[str, None] = {}
        self._index: LabelIndex[str, Item] = LabelIndex(
            self._on_match_started, self._on_match_stopped
        )
        self._services: Services[Item] = Services(self._on_match_started, self._on_match_stopped)

    def on_item(self, item: Item, labelled: Labelled | None) -> None:
        """Add or replace what selectors can select; None: it is gone."""
        if labelled is None:
            self._index.remove_item(item)
            self._members.discard(item)
            return
        before = self._members.get(item)
        if before != labelled.member:
            self._members[item] = labelled.member
            if before is not None:
                self._replace(item, before, labelled.member)
        self._index.set_item(item, labelled.labels, labelled.parents)

    def on_slice(self, item: ResourceKey, served: Served | None) -> None:
        """Add or replace a part of where a service is served; None: it is gone."""
        before = self._members.get(item)
        if served is None:
            self._services.remove_slice(item)
            self._members.discard(item)
            return
        if before is not None and before != served.member:
            # First all that stays in its sets, so that no element goes and comes again.
            self._members[item] = served.member
            for set_id in self._services.sets_of(item):
                self._add(set_id, served.member)
                self._discard(set_id, before)
        self._members[item] = served.member
        self._services.set_slice(item, served.service)

    def member(self, item: Item) -> Member | None:
        return self._members.get(item)

    def endpoint_counts(self) -> tuple[int, int]:
        """Workload and host endpoints of the whole cluster."""
        workloads = sum(isinstance(item, EndpointId) for item in self._members)
        others = (item for item in self._members if isinstance(item, ResourceKey))
        return workloads, sum(item.kind == "HostEndpoint" for item in others)

    def on_profile_labels(self, profile: str, labels: dict[str, str]) -> None:
        """What everything with that profile inherits."""
        self._index.set_parent(profile, labels)

    def acquire(self, set_id: str, spec: SetSpec) -> None:
        """One more needs this set."""
        active = self._sets.get(set_id)
        if active is None:
            active = self._sets[set_id] = _ActiveSet(spec)
            self._sequencer.put(Kind.IP_SET, set_id, spec.type)
            if spec.selector is not None:
                self._index.set_selector(set_id, spec.selector)
            elif spec.service is not None:
                self._services.set_wanted(set_id, spec.service)
        active.user_count += 1
        self._unused.pop(set_id, None)

    def release(self, set_id: str) -> None:
        """One less needs it. It stays until `prune`, in case another comes to need it."""
        active = self._sets[set_id]
        active.user_count -= 1
        if not active.user_count:
            self._unused[set_id] = None

    def prune(self) -> None:
        """Drop the sets that nobody needs."""
        unused, self._unused = self._unused, {}
        for set_id in unused:
            self._index.remove_selector(set_id)
            self._services.remove_wanted(set_id)
            del self._sets[set_id]
            self._sequencer.put(Kind.IP_SET, set_id, None)

    def statistics(self) -> IPSetStatistics:
        member_count = sum(len(active.counts) for active in self._sets.values())
        evaluation_count = self._index.statistics().evaluation_count
        return IPSetStatistics(len(self._members), len(self._sets), member_count, evaluation_count)

    def _on_match_started(self, set_id: str, item: Item) -> None:
        self._add(set_id, self._members[item])

    def _on_match_stopped(self, set_id: str, item: Item) -> None:
        self._discard(set_id, self._members[item])

    def _replace(self, item: Item, before: Member, after: Member) -> None:
        """In the sets it is in already; additions first, so that what stays never goes."""
        for set_id in self._index.selectors_matching(item):
            self._add(set_id, after)
            self._discard(set_id, before)

    def _add(self, set_id: str, member: Member) -> None:
        active = self._sets[set_id]
        for element in _elements(active.spec, member):
            count = active.counts.get(element, 0)
            active.counts[element] = count + 1
            if not count:
                self._sequencer.put(Kind.IP_SET_MEMBER, (set_id, element), True)

    def _discard(self, set_id: str, member: Member) -> None:
        active = self._sets[set_id]
        for element in _elements(active.spec, member):
            count = active.counts[element]
            if count > 1:
                active.counts[element] = count - 1
            else:
                del active.counts[element]
                self._sequencer.put(Kind.IP_SET_MEMBER, (set_id, element), None)


class _ActiveSet:
    """A set that is needed, and how many bring each of its elements."""

    __slots__ = ("counts", "spec", "user_count")

    def __init__(self, spec: SetSpec) -> None:
        self.spec = spec
        self.user_count = 0
        self.counts: dict[Network | AddressPort, int] = {}


def _elements(spec: SetSpec, member: Member) -> Iterator[Network | AddressPort]:
    """What the member brings into such a set."""
    if spec.type is IPSetType.NET:
        yield from member.networks
        return
    for port in member.ports:
        # A service is served at all of its ports.
        if spec.service or (port.name, port.protocol) == (spec.port_name, spec.protocol):
            for network in member.networks:
                yield AddressPort(network, port.protocol, port.port)
