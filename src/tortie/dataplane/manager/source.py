"""Lists of prefixes that endpoints may send from beside their own addresses.

A list is in the kernel while an endpoint has it; the endpoint's entry is an element like its
others (see `rules.endpoint`). Where the host does not let anybody do so nothing is written.
"""

import logging
from collections import defaultdict
from collections.abc import Hashable
from typing import cast

from tortie.dataplane.driver.link import Links
from tortie.dataplane.driver.table import TableState
from tortie.dataplane.rules import names, source
from tortie.dataplane.settings import Settings
from tortie.desired.endpoint import Endpoint, EndpointId
from tortie.desired.kinds import Kind
from tortie.kernel.nft.expressions import goto
from tortie.lib.ip import Network

log = logging.getLogger(__name__)

SourceList = tuple[Network, ...]


class SourceManager:
    """Loop task only. Told of an endpoint before `EndpointManager` is."""

    def __init__(self, table: TableState, links: Links, settings: Settings) -> None:
        self._table = table
        self._links = links
        self._settings = settings
        self._had: dict[EndpointId, tuple[str, SourceList]] = {}
        """Interface and prefixes, of those that have any."""
        self._users: defaultdict[SourceList, set[EndpointId]] = defaultdict(set)
        self._interface_owners: dict[str, EndpointId] = {}
        self._closed: set[SourceList] = set()

    def on_update(self, kind: Kind, name: Hashable, value: object | None) -> None:
        """`ENDPOINT`."""
        assert kind is Kind.ENDPOINT
        endpoint_id = cast(EndpointId, name)
        endpoint = cast("Endpoint | None", value)
        networks = endpoint.sources if endpoint is not None else ()
        if networks and not self._settings.other_sources:
            log.warning(
                "%s may send from its own addresses only: allowSpoofedSourcePrefixes"
                " counts where workloadSourceSpoofing is Any",
                endpoint_id,
            )
            return
        before = self._had.pop(endpoint_id, None)
        if endpoint is not None and networks:
            self._had[endpoint_id] = endpoint.interface, networks
            self._use(networks, endpoint_id)
            self._interface_owners[endpoint.interface] = endpoint_id
            self._links.loosen(endpoint.interface, loose=True)
        if before is not None:
            interface, former = before
            if former != networks:
                self._release(former, endpoint_id)
            gone = endpoint is None or not networks or endpoint.interface != interface
            if gone and self._interface_owners.get(interface) == endpoint_id:
                del self._interface_owners[interface]
                self._links.loosen(interface, loose=False)

    def close(self, networks: Hashable, *, closed: bool) -> None:
        """Have the list no chain, so that those who have it send from their own addresses only;
        or have it again."""
        found = cast(SourceList, networks)
        if closed:
            self._closed.add(found)
        else:
            self._closed.discard(found)
        if found in self._users:
            self._write(found, wanted=not closed)

    # These searches are slow, and made only when the kernel has refused something.

    def list_of_chain(self, name: str) -> SourceList | None:
        return next((one for one in self._users if names.source_chain(one) == name), None)

    def list_of_set(self, name: str) -> SourceList | None:
        found = (
            one
            for one in self._users
            if name in (names.source_set(one, 4), names.source_set(one, 6))
        )
        return next(found, None)

    def list_of_element(self, set_name: str, key: bytes) -> SourceList | None:
        """The one that an element of the map to chains is of."""
        if set_name != names.SOURCE_CHAINS:
            return None
        return next((one for one in self._users if names.source_list_id(one) == key), None)

    def _use(self, networks: SourceList, endpoint_id: EndpointId) -> None:
        users = self._users[networks]
        users.add(endpoint_id)
        if len(users) == 1 and networks not in self._closed:
            self._write(networks, wanted=True)

    def _release(self, networks: SourceList, endpoint_id: EndpointId) -> None:
        self._users[networks].discard(endpoint_id)
        if not self._users[networks]:
            del self._users[networks]
            if networks not in self._closed:
                self._write(networks, wanted=False)

    def _write(self, networks: SourceList, *, wanted: bool) -> None:
        content = source.source_list(networks, self._settings)
        identity = names.source_list_id(networks)
        if wanted:
            self._table.want_content(content)
            chain = goto(names.source_chain(networks))
            self._table.want_element(names.SOURCE_CHAINS, identity, chain)
        else:
            self._table.want_element(names.SOURCE_CHAINS, identity, None)
            self._table.drop_content(content)
