"""Workload endpoints to map elements, neighbours, and the use of policy lists.

An interface or an address may pass from one endpoint to another in one batch,
and additions come before removals: so every element has an owner, the latest
who claimed it, and only its owner takes it away.
"""

from collections.abc import Hashable, Iterator
from typing import NamedTuple, cast

from tortie.dataplane.driver.neighbour import NeighbourDriver
from tortie.dataplane.driver.table import TableState
from tortie.dataplane.manager.policy import PlacedList, PolicyManager
from tortie.dataplane.rules import names
from tortie.dataplane.rules.endpoint import ElementData, arp_elements, endpoint_elements
from tortie.dataplane.settings import Settings
from tortie.desired.endpoint import Endpoint, EndpointId
from tortie.desired.kinds import Kind
from tortie.kernel.nft import keys
from tortie.kernel.rtnl.link import parse_mac
from tortie.lib.ip import Network


class _Claim(NamedTuple):
    """One element of one table."""

    is_arp: bool
    set_name: str
    key: bytes


class EndpointManager:
    def __init__(
        self,
        inet: TableState,
        arp: TableState,
        policies: PolicyManager,
        neighbours: NeighbourDriver,
        settings: Settings,
    ) -> None:
        self._tables = {False: inet, True: arp}
        self._policies = policies
        self._neighbours = neighbours
        self._settings = settings
        self._endpoints: dict[EndpointId, Endpoint] = {}
        self._owners: dict[_Claim, EndpointId] = {}
        self._address_owners: dict[Network, EndpointId] = {}
        self._departed: dict[Network, EndpointId] = {}
        self._tightened: set[EndpointId] = set()
        self._is_first_batch = True
        self._closed: set[EndpointId] = set()
        """Those that the kernel refused: they have no elements (see `manager.refusal`)."""

    def on_update(self, kind: Kind, name: Hashable, value: object | None) -> None:
        """`ENDPOINT`."""
        assert kind is Kind.ENDPOINT
        endpoint_id = cast(EndpointId, name)
        new = cast("Endpoint | None", value)
        old = self._endpoints.get(endpoint_id)
        if old == new:
            return
        before, after = _lists(old), _lists(new)
        if old is None:
            # A new workload has no connections; one that was there before us may have.
            changed = self._is_first_batch
        else:
            changed = new is not None and before != after
        if changed:
            self._tightened.add(endpoint_id)
        # The new lists first: a policy that both name then stays as it is.
        for one in after - before:
            self._policies.use(one, endpoint_id)
        if new is not None:
            self._endpoints[endpoint_id] = new
        else:
            del self._endpoints[endpoint_id]
        self._write_elements(endpoint_id, old, new)
        self._write_addresses(endpoint_id, old, new)
        self._write_neighbours(endpoint_id, old, new)
        for one in before - after:
            self._policies.release(one, endpoint_id)

    @property
    def endpoints(self) -> dict[EndpointId, Endpoint]:
        """Every endpoint of this host; not to be changed."""
        return self._endpoints

    def at(self, address: Network) -> Endpoint | None:
        """The endpoint that has this address."""
        owner = self._address_owners.get(address)
        return None if owner is None else self._endpoints.get(owner)

    def by_interface(self, interface: str) -> EndpointId | None:
        """The endpoint that decides what passes the interface; None if there is none, or it is
        closed."""
        name = names.LISTS["egress"]
        return self._owners.get(_Claim(is_arp=False, set_name=name, key=keys.ifname(interface)))

    def take_tightened(self) -> set[EndpointId]:
        """Endpoints whose lists are others than when this was last asked; at first, all."""
        tightened, self._tightened = self._tightened, set()
        self._is_first_batch = False
        return tightened

    def close(self, name: Hashable, *, closed: bool) -> None:
        """Take the endpoint out of all sets, so that its packets are dropped; or put it back."""
        endpoint_id = cast(EndpointId, name)
        endpoint = self._endpoints.get(endpoint_id)
        if closed:
            self._write_elements(endpoint_id, endpoint, None)
            self._closed.add(endpoint_id)
        else:
            self._closed.discard(endpoint_id)
            self._write_elements(endpoint_id, None, endpoint)

    def owner_of(self, set_name: str, key: bytes, *, is_arp: bool) -> EndpointId | None:
        """Whose element that is."""
        return self._owners.get(_Claim(is_arp, set_name, key))

    @property
    def departed(self) -> frozenset[Network]:
        """Addresses that left an endpoint since `confirm_departed`: their connections
        must be cut before anyone else may use them."""
        return frozenset(self._departed)

    def confirm_departed(self, addresses: frozenset[Network]) -> None:
        for address in addresses:
            self._departed.pop(address, None)

    def _write_elements(
        self, endpoint_id: EndpointId, old: Endpoint | None, new: Endpoint | None
    ) -> None:
        if endpoint_id in self._closed:
            return
        wanted = dict(self._elements(new))
        for claim, data in wanted.items():
            self._owners[claim] = endpoint_id
            self._tables[claim.is_arp].want_element(claim.set_name, claim.key, data)
        for claim, _ in self._elements(old):
            if claim not in wanted and self._owners.get(claim) == endpoint_id:
                del self._owners[claim]
                self._tables[claim.is_arp].want_element(claim.set_name, claim.key, None)

    def _elements(self, endpoint: Endpoint | None) -> Iterator[tuple[_Claim, bytes]]:
        if endpoint is None:
            return
        inet = endpoint_elements(endpoint, self._settings)
        for is_arp, elements in ((False, inet), (True, arp_elements(endpoint))):
            for element in elements:
                yield _claim(element, is_arp=is_arp), element.data

    def _write_addresses(
        self, endpoint_id: EndpointId, old: Endpoint | None, new: Endpoint | None
    ) -> None:
        now = set(new.networks) if new else set()
        for address in now:
            owner = self._address_owners.get(address)
            if owner is not None and owner != endpoint_id:
                self._departed[address] = owner
            elif self._departed.get(address) == endpoint_id:
                del self._departed[address]  # back where it was, nobody had it meanwhile
            self._address_owners[address] = endpoint_id
        for address in old.networks if old else ():
            if address not in now and self._address_owners.get(address) == endpoint_id:
                del self._address_owners[address]
                self._departed[address] = endpoint_id

    def _write_neighbours(
        self, endpoint_id: EndpointId, old: Endpoint | None, new: Endpoint | None
    ) -> None:
        if new is not None and new.mac:
            mac = parse_mac(new.mac)
            for address in new.networks:
                self._neighbours.want(new.interface, address, mac, owner=endpoint_id)
        if old is None or not old.mac:
            return
        for address in old.networks:
            same_place = new is not None and new.mac and new.interface == old.interface
            if not (same_place and new is not None and address in new.networks):
                self._neighbours.drop(old.interface, address, owner=endpoint_id)


def _lists(endpoint: Endpoint | None) -> set[PlacedList]:
    if endpoint is None:
        return set()
    return {PlacedList(endpoint.ingress, "ingress"), PlacedList(endpoint.egress, "egress")}


def _claim(element: ElementData, *, is_arp: bool) -> _Claim:
    return _Claim(is_arp, element.set_name, element.key)
