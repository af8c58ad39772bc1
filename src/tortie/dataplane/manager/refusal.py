"""What the kernel refuses is found, closed and reported, so that all else goes in.

A batch is all or nothing: without this, one object that the kernel does not
take would keep out every change of every other one. Closed means: a policy is
the chain that drops; a list has no chain; an endpoint has no entry, and so is
dropped; a set is not written, and the policies that name it drop.

The kernel mostly says which message it refuses, and every chain, set and
element belongs to one object: that one is closed, and the rest sent again.
What it refuses as a whole is bisected: everything that is pending is closed,
and let in again by halves. So for some milliseconds the sound objects among
them are closed too.

A refused object is tried again when it changes and at every resync; in between
it costs nothing.
"""

import contextlib
import errno
import logging
from collections.abc import Hashable, Iterator
from typing import Literal, NamedTuple, cast

from tortie.dataplane.driver.nftables import ARP, INET, NftablesDriver
from tortie.dataplane.manager.endpoint import EndpointManager
from tortie.dataplane.manager.host_endpoint import HostEndpointManager
from tortie.dataplane.manager.ipset import IPSetManager
from tortie.dataplane.manager.limit import LimitManager
from tortie.dataplane.manager.policy import PolicyManager
from tortie.dataplane.manager.source import SourceList, SourceManager
from tortie.desired.endpoint import EndpointId
from tortie.desired.kinds import Kind
from tortie.kernel.nft.connection import OperationRefused
from tortie.kernel.nft.objects import TableName
from tortie.kernel.nft.operations import (
    AddChain,
    AddElements,
    AddRule,
    AddSet,
    DeleteElements,
    ReplaceRule,
)
from tortie.lib.errors import KernelRefused

log = logging.getLogger(__name__)

ATTEMPTS = 16
"""Objects that one apply isolates; more is no accident of single objects, and the next apply's."""

_NOT_ALLOWED = (errno.EPERM, errno.EACCES)
"""No object is to blame: we are not allowed to, or the table has another owner."""


class Fault(NamedTuple):
    """An object that the kernel refused."""

    kind: Literal["policy", "list", "endpoint", "set", "limit", "sources", "host endpoint"]
    name: Hashable
    """`PolicyId`; `PlacedList`; `EndpointId`; set id; the limit's set; `SourceList`;
    the host endpoint's name."""

    def __str__(self) -> str:
        if self.kind == "sources":
            return f"sources {', '.join(map(str, cast(SourceList, self.name)))}"
        return f"{self.kind} {self.name}"


_FAULT_KINDS: dict[Kind, Literal["policy", "endpoint", "set", "host endpoint"]] = {
    Kind.POLICY: "policy",
    Kind.ENDPOINT: "endpoint",
    Kind.IP_SET: "set",
    Kind.HOST_ENDPOINT: "host endpoint",
}


_DEPENDENCE = ("set", "limit", "sources", "policy", "list", "endpoint", "host endpoint")
"""What may name what comes before it."""


class Refusals:
    """Loop task only."""

    def __init__(
        self,
        driver: NftablesDriver,
        policies: PolicyManager,
        endpoints: EndpointManager,
        ip_sets: IPSetManager,
        limits: LimitManager,
        sources: SourceManager,
        host_endpoints: HostEndpointManager,
    ) -> None:
        self._driver = driver
        self._policies = policies
        self._endpoints = endpoints
        self._ip_sets = ip_sets
        self._limits = limits
        self._sources = sources
        self._host_endpoints = host_endpoints
        self._refused: dict[Fault, KernelRefused] = {}

    async def apply(self) -> None:
        """`NftablesDriver.apply`, without what the kernel refuses.

        Raises:
            KernelRefused: no object is to blame, or too many are.
            KernelBusy: as there.
        """
        for attempt in range(ATTEMPTS + 1):
            try:
                await self._driver.apply()
                return
            except KernelRefused as error:
                if error.errno in _NOT_ALLOWED or attempt == ATTEMPTS:
                    raise
                fault = self._blamed(error)
                if fault is not None and fault not in self._refused:
                    self._refuse(fault, error)
                else:
                    await self._bisect(error)

    async def resync(self) -> None:
        """`NftablesDriver.resync`, and try every refused object again. Raises as `apply`."""
        with contextlib.suppress(KernelRefused):  # comes again in `apply`, which deals with it
            await self._driver.resync()
        for fault in tuple(self._refused):
            self._forgive(fault)
        await self.apply()

    def on_update(self, kind: Kind, name: Hashable) -> None:
        """It is about to change, or to go: what is said of it is over."""
        if not self._refused:
            return
        fault_kind = _FAULT_KINDS.get(kind)
        if fault_kind is not None:
            self._forgive(Fault(fault_kind, name))

    @property
    def refused(self) -> dict[str, str]:
        """What is closed because the kernel does not take it, and what the kernel said."""
        return {str(fault): str(error) for fault, error in self._refused.items()}

    def is_closed(self, endpoint_id: EndpointId) -> bool:
        """Whether the endpoint, or a list of its own, is refused."""
        return any(
            fault.name == endpoint_id
            if fault.kind == "endpoint"
            else fault.kind == "list" and endpoint_id in self._policies.users(fault.name)
            for fault in self._refused
        )

    def __len__(self) -> int:
        return len(self._refused)

    # Who is to blame.

    def _blamed(self, error: KernelRefused) -> Fault | None:
        if not isinstance(error, OperationRefused):
            return None
        match error.refused:
            case AddRule() | ReplaceRule() as operation:
                return self._chain_owner(operation.rule.chain)
            case AddChain() as operation:
                return self._chain_owner(operation.chain.name)
            case AddSet() as operation:
                return self._set_owner(operation.table, operation.set.name, None)
            case AddElements() | DeleteElements() as operation:
                key = error.element.key if error.element is not None else None
                return self._set_owner(operation.table, operation.set.name, key)
        return None

    def _chain_owner(self, name: str) -> Fault | None:
        policy = self._policies.policy_of_chain(name)
        if policy is not None:
            return Fault("policy", policy)
        found = self._policies.list_of_chain(name)
        if found is not None:
            return Fault("list", found)
        sources = self._sources.list_of_chain(name)
        return Fault("sources", sources) if sources is not None else None

    def _set_owner(self, table: TableName, name: str, key: bytes | None) -> Fault | None:
        """
        Args:
            key: which element, if that is known; a set may hold those of many objects.
        """
        set_id = self._ip_sets.id_of(name)
        if set_id is not None:
            return Fault("set", set_id)
        if self._limits.owns(name):
            return Fault("limit", name)
        policy = self._policies.policy_of_set(name, key)
        if policy is not None:
            return Fault("policy", policy)
        sources = self._sources.list_of_set(name)
        if sources is not None:
            return Fault("sources", sources)
        if key is None:
            return None
        found = self._policies.list_of_element(name, key)
        if found is not None:
            return Fault("list", found)
        sources = self._sources.list_of_element(name, key)
        if sources is not None:
            return Fault("sources", sources)
        host_endpoint = self._host_endpoints.owner_of(name, key)
        if host_endpoint is not None:
            return Fault("host endpoint", host_endpoint)
        endpoint = self._endpoints.owner_of(name, key, is_arp=table == ARP)
        return Fault("endpoint", endpoint) if endpoint is not None else None

    # Searching.

    async def _bisect(self, error: KernelRefused) -> None:
        # What names others behind them: a policy is not itself while a set of its is closed,
        # and would go in as what drops.
        candidates = sorted(set(self._pending()), key=lambda fault: _DEPENDENCE.index(fault.kind))
        for fault in candidates:
            self._close(fault, closed=True)
        try:
            await self._driver.apply()
        except KernelRefused:
            for fault in candidates:
                self._close(fault, closed=False)
            raise error from None
        await self._admit(candidates, error)

    def _pending(self) -> Iterator[Fault]:
        """Objects with something in the batch; those that are refused already have nothing."""
        for table, state in ((INET, self._driver.inet), (ARP, self._driver.arp)):
            owners = [self._chain_owner(name) for name in state.pending_chains()]
            owners += [self._set_owner(table, *one) for one in state.pending_elements()]
            yield from (one for one in owners if one is not None and one not in self._refused)

    async def _admit(self, group: list[Fault], error: KernelRefused) -> None:
        """Open what the kernel takes of these; all are closed, and all else is in."""
        if not group:
            return
        for fault in group:
            self._close(fault, closed=False)
        try:
            await self._driver.apply()
            return
        except KernelRefused as again:
            error = again
        for fault in group:
            self._close(fault, closed=True)
        if len(group) == 1:
            self._refuse(group[0], error)
            return
        middle = len(group) // 2
        await self._admit(group[:middle], error)
        await self._admit(group[middle:], error)

    # Closing.

    def _refuse(self, fault: Fault, error: KernelRefused) -> None:
        log.error("the kernel refuses %s, which is closed: %s", fault, error)
        self._refused[fault] = error
        self._close(fault, closed=True)

    def _forgive(self, fault: Fault) -> None:
        if self._refused.pop(fault, None) is not None:
            self._close(fault, closed=False)

    def _close(self, fault: Fault, *, closed: bool) -> None:
        match fault.kind:
            case "policy":
                self._policies.close(fault.name, closed=closed)
            case "list":
                self._policies.close_list(fault.name, closed=closed)
            case "endpoint":
                self._endpoints.close(fault.name, closed=closed)
            case "limit":
                self._limits.close(fault.name, closed=closed)
            case "host endpoint":
                self._host_endpoints.close(fault.name, closed=closed)
            case "sources":
                self._sources.close(fault.name, closed=closed)
            case "set":
                self._ip_sets.close(fault.name, closed=closed)
