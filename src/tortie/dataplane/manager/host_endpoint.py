"""Host endpoints to map elements: each interface gets the lists of the one it belongs to.

Which one that is may change with the interfaces' addresses, too; so after a
change all is worked out anew, once for each apply, and what differs is written.

An interface that an endpoint names has its elements before there is such a link,
so that it is closed when it comes. What the tables need for host endpoints is
there as long as there is one (see `rules.host_endpoint`).
"""

import logging
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Literal, cast

from tortie.dataplane.driver.table import TableState
from tortie.dataplane.manager.policy import PlacedList, PolicyManager
from tortie.dataplane.rules import host_endpoint as rules
from tortie.dataplane.rules import names
from tortie.dataplane.rules.content import Content
from tortie.dataplane.settings import Settings
from tortie.desired.host_endpoint import ALL_INTERFACES, LOOPBACK, HostEndpoint
from tortie.desired.kinds import Kind
from tortie.kernel.nft import keys
from tortie.lib.errors import InvalidInput
from tortie.lib.ip import Network

log = logging.getLogger(__name__)

_LISTS_MAPS = frozenset(
    names.lists_map(direction, place) for place, direction in (*names.HOST_PLACES, names.TRANSLATED)
)


HostEndpointStatus = Literal["up", "down", "error"]


class HostEndpointManager:
    """Loop task only."""

    def __init__(self, table: TableState, policies: PolicyManager, settings: Settings) -> None:
        self._table = table
        self._policies = policies
        self._workloads = settings.interface_prefixes
        self._settings = settings
        self._content: Content | None = None
        """As it is in the tables; None while no interface has an endpoint."""
        self._closed_interfaces: list[str] = []
        """For which `_content` is."""
        self._endpoints: dict[str, HostEndpoint] = {}
        self._addresses: Mapping[str, frozenset[Network]] = {}
        self._names: dict[str, str] = {}
        """Of endpoints, by interface."""
        self._written: dict[str, HostEndpoint] = {}
        """By interface; but for those that are closed."""
        self._closed: set[str] = set()
        """Endpoints that the kernel refused: see `manager.refusal`."""
        self._stale = False
        """Something was noted since `resolve`."""
        self._tightened = False

    def on_update(self, kind: Kind, name: Hashable, value: object | None) -> None:
        """`HOST_ENDPOINT`."""
        assert kind is Kind.HOST_ENDPOINT
        endpoint = cast("HostEndpoint | None", value)
        if endpoint is not None and not self._can_be(endpoint.interface):
            log.warning("host endpoint %s: there can be no interface %r", name, endpoint.interface)
            endpoint = None
        if endpoint is None:
            self._endpoints.pop(cast(str, name), None)
        else:
            self._endpoints[cast(str, name)] = endpoint
        self._stale = True

    @property
    def needs_addresses(self) -> bool:
        """Whether an endpoint goes by the addresses of interfaces."""
        return any(not endpoint.interface for endpoint in self._endpoints.values())

    def on_addresses(self, addresses: Mapping[str, frozenset[Network]]) -> None:
        """All that this host's own interfaces have, by interface; only while they are needed."""
        if addresses != self._addresses:
            self._addresses = addresses
            self._stale = True

    def interfaces(self) -> dict[str, str]:
        """Name of the host endpoint by interface; `*` is those that are not named."""
        return self._names

    def endpoint_of(self, interface: str) -> HostEndpoint | None:
        """The endpoint that an interface belongs to; for workloads' that of all interfaces."""
        own = self._names.get(interface)
        if own is None and interface != LOOPBACK:
            own = self._names.get(ALL_INTERFACES)
        return None if own is None else self._endpoints.get(own)

    def statuses(self, is_running: Callable[[str], bool | None]) -> dict[str, HostEndpointStatus]:
        """Of each endpoint, as Felix has it: `down` if a link of it is, `error` if there is none
        that belongs to it; that of all interfaces is up. One that the kernel refused is in error.

        Args:
            is_running: whether a link is up; None for one that is not there.

        Source: felix/dataplane/linux/endpoint_mgr.go, calculateHostEndpointStatus.
        """
        links: defaultdict[str, list[bool]] = defaultdict(list)
        for interface, name in self._names.items():
            running = True if interface == ALL_INTERFACES else is_running(interface)
            if running is not None:
                links[name].append(running)
        found: dict[str, HostEndpointStatus] = {}
        for name in self._endpoints:
            if name in self._closed or name not in links:
                found[name] = "error"
            else:
                found[name] = "up" if all(links[name]) else "down"
        return found

    @property
    def for_all(self) -> HostEndpoint | None:
        return self._endpoints.get(self._names.get(ALL_INTERFACES, ""))

    @property
    def told_apart(self) -> bool:
        """Whether not all interfaces belong to the same endpoint."""
        return bool(self._names.keys() - {ALL_INTERFACES})

    def take_tightened(self) -> bool:
        """Whether an interface has other lists than when this was last asked."""
        tightened, self._tightened = self._tightened, False
        return tightened

    @property
    def in_sync(self) -> bool:
        return not self._stale

    def resolve(self) -> None:
        """Have the tables want what was noted; before they are written."""
        if self._stale:
            self._stale = False
            self._names = dict(self._belonging())
            self._write()

    def close(self, name: Hashable, *, closed: bool) -> None:
        """Have the endpoint's interfaces no elements, and drop all but what is always open; or
        have them again."""
        if closed:
            self._closed.add(cast(str, name))
        else:
            self._closed.discard(cast(str, name))
        self._write()

    def owner_of(self, set_name: str, key: bytes) -> str | None:
        """The endpoint that an element, with this key, of a map to lists is of."""
        if set_name not in _LISTS_MAPS:
            return None
        found = (name for one, name in self._names.items() if keys.ifname(one) == key)
        return next(found, None)

    def _can_be(self, interface: str) -> bool:
        """Workloads' interfaces are no host endpoint's, whatever it says."""
        if not interface:
            return True
        try:
            keys.ifname(interface)
        except InvalidInput:
            return False
        return not interface.startswith(self._workloads)

    def _belonging(self) -> Iterator[tuple[str, str]]:
        """Who has which interface, as `desired.host_endpoint.host_endpoint_for` says, for all."""
        by_interface: dict[str, str] = {}
        by_address: dict[Network, str] = {}
        for name in sorted(self._endpoints, reverse=True):  # so that the lowest is what stays
            endpoint = self._endpoints[name]
            if endpoint.interface:
                by_interface[endpoint.interface] = name
            else:
                by_address.update(dict.fromkeys(endpoint.addresses, name))
        for interface in by_interface.keys() | self._addresses.keys():
            fitting = [by_interface[interface]] if interface in by_interface else []
            addresses = self._addresses.get(interface, frozenset())
            fitting += [by_address[one] for one in addresses if one in by_address]
            if fitting:
                yield interface, min(fitting)

    def _write(self) -> None:
        wanted = {
            one: self._endpoints[name]
            for one, name in self._names.items()
            if name not in self._closed and name in self._endpoints
        }
        old, self._written = self._written, wanted
        self._write_content()
        changed = [one for one in old.keys() | wanted.keys() if old.get(one) != wanted.get(one)]
        self._tightened = self._tightened or bool(changed)
        # The new lists first: a policy that both name then stays as it is.
        for interface in changed:
            for one in self._lists(wanted, interface) - self._lists(old, interface):
                self._policies.use(one, interface)
                self._want_element(interface, one, names.list_data(names.list_id(one.policies)))
        for interface in changed:
            now = self._lists(wanted, interface)
            places = {(one.direction, one.place) for one in now}
            for one in self._lists(old, interface) - now:
                self._policies.release(one, interface)
                if (one.direction, one.place) not in places:
                    self._want_element(interface, one, None)
        if self._content is not None and not self._names:
            self._table.drop_content(self._content)
            self._content = None

    def _write_content(self) -> None:
        closed = sorted(one for one, name in self._names.items() if name in self._closed)
        if self._names and (self._content is None or closed != self._closed_interfaces):
            self._content = rules.host_table(self._settings, closed)
            self._closed_interfaces = closed
            self._table.want_content(self._content)

    def _want_element(self, interface: str, one: PlacedList, data: bytes | None) -> None:
        lists = names.lists_map(one.direction, one.place)
        self._table.want_element(lists, keys.ifname(interface), data)

    def _lists(self, endpoints: Mapping[str, HostEndpoint], interface: str) -> set[PlacedList]:
        endpoint = endpoints.get(interface)
        if endpoint is None:
            return set()
        found = rules.lists_of(endpoint, self._settings)
        return {PlacedList(policies, direction, place) for (place, direction), policies in found}
