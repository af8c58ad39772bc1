"""Host endpoints to map elements: each interface gets the lists of the one it belongs to.

Which one that is may change with the interfaces' addresses, too; so after a
change all is worked out anew, and what differs is written. A host has few links
that are not workloads'.

An interface that an endpoint names has its elements before there is such a link,
so that it is closed when it comes. What the tables need for host endpoints is
there as long as there is one (see `rules.host_endpoint`).

Known connections of the host are never cut: they may be our own to the datastore.
"""

import logging
from collections.abc import Hashable, Iterator, Mapping
from typing import cast

from tortie.dataplane.driver.table import TableState
from tortie.dataplane.manager.policy import PlacedList, PolicyManager
from tortie.dataplane.rules import host_endpoint as rules
from tortie.dataplane.rules import names
from tortie.dataplane.settings import Settings
from tortie.desired.host_endpoint import ALL_INTERFACES, HostEndpoint, host_endpoint_for
from tortie.desired.kinds import Kind
from tortie.kernel.nft import keys
from tortie.lib.errors import InvalidInput
from tortie.lib.ip import Network

log = logging.getLogger(__name__)

_Lists = dict[PlacedList, None]


class HostEndpointManager:
    """Loop task only."""

    def __init__(self, table: TableState, policies: PolicyManager, settings: Settings) -> None:
        self._table = table
        self._policies = policies
        self._workloads = settings.interface_prefix
        self._content = rules.host_table(settings)
        self._endpoints: dict[str, HostEndpoint] = {}
        self._addresses: Mapping[str, frozenset[Network]] = {}
        self._written: dict[str, _Lists] = {}
        """By interface."""

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
        self._write()

    @property
    def needs_addresses(self) -> bool:
        """Whether an endpoint goes by the addresses of interfaces."""
        return any(not endpoint.interface for endpoint in self._endpoints.values())

    def on_addresses(self, addresses: Mapping[str, frozenset[Network]]) -> None:
        """All that this host's own interfaces have, by interface; only while they are needed."""
        if addresses != self._addresses:
            self._addresses = addresses
            self._write()

    def interfaces(self) -> dict[str, str]:
        """Name of the host endpoint by interface; `*` is those that are not named."""
        return dict(self._belonging())

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
        named = {one.interface for one in self._endpoints.values() if one.interface}
        for interface in sorted(named | self._addresses.keys()):
            addresses = self._addresses.get(interface, frozenset())
            found = host_endpoint_for(interface, addresses, self._endpoints)
            is_its_own = found and self._endpoints[found].interface != ALL_INTERFACES
            if found and (is_its_own or interface == ALL_INTERFACES):
                yield interface, found

    def _write(self) -> None:
        wanted = {
            interface: {
                PlacedList(policies, direction, place): None
                for (place, direction), policies in rules.lists_of(self._endpoints[name])
            }
            for interface, name in self._belonging()
        }
        if wanted and not self._written:
            self._table.want_content(self._content)
        old, self._written = self._written, wanted
        # The new lists first: a policy that both name then stays as it is.
        for interface, found in wanted.items():
            for one in found:
                if one not in old.get(interface, ()):
                    self._policies.use(one, interface)
                    self._want_element(interface, one, names.list_data(names.list_id(one.policies)))
        for interface, found in old.items():
            for one in found:
                if one not in wanted.get(interface, ()):
                    self._policies.release(one, interface)
                    self._drop_element(interface, one)
        if old and not wanted:
            self._table.drop_content(self._content)

    def _drop_element(self, interface: str, gone: PlacedList) -> None:
        """Unless another list has taken the place."""
        place = (gone.direction, gone.place)
        there = self._written.get(interface, ())
        if not any((one.direction, one.place) == place for one in there):
            self._want_element(interface, gone, None)

    def _want_element(self, interface: str, one: PlacedList, data: bytes | None) -> None:
        lists = names.lists_map(one.direction, one.place)
        self._table.want_element(lists, keys.ifname(interface), data)
