"""Pools and hosts to the sets that masquerading asks."""

from collections.abc import Hashable
from typing import cast

from tortie.dataplane.driver.cover import Cover
from tortie.dataplane.driver.table import TableState
from tortie.dataplane.rules import names, nat
from tortie.dataplane.rules.content import NO_DATA, network_key
from tortie.dataplane.settings import Settings
from tortie.desired.endpoint import Host, Pool
from tortie.desired.kinds import Kind
from tortie.lib.ip import Network


class MasqueradeManager:
    def __init__(self, table: TableState, settings: Settings) -> None:
        self._table = table
        self._with_hosts = settings.nat_exclusions == "IPPoolsAndHostIPs"
        self._chain, self._content = nat.masquerade_chain(settings)
        self._masquerading: set[Network] = set()
        """Pools; without any there is no chain either."""
        self._covers: dict[str, Cover] = {}
        self._hosts: dict[str, frozenset[Network]] = {}

    def on_update(self, kind: Kind, name: Hashable, value: object | None) -> None:
        """`POOL` and `HOST`."""
        if kind is Kind.POOL:
            network = cast(Network, name)
            pool = cast("Pool | None", value)
            self._put(names.POOLS[network.family], network, pool is not None)
            masquerade = pool is not None and pool.masquerade
            self._put(names.MASQUERADE[network.family], network, masquerade)
            (self._masquerading.add if masquerade else self._masquerading.discard)(network)
            self._table.want_chain(self._chain, self._content if self._masquerading else None)
        elif self._with_hosts:
            self._on_host(cast(str, name), cast("Host | None", value))

    def _on_host(self, name: str, host: Host | None) -> None:
        """Two hosts may give one address for a while: it stays until both let go."""
        known = (host.ipv4, host.ipv6) if host else ()
        addresses = frozenset(address for address in known if address is not None)
        old = self._hosts.pop(name, frozenset())
        if addresses:
            self._hosts[name] = addresses
        for address in addresses:
            self._put(names.HOSTS[address.family], address, True)
        for address in old - addresses:
            if not any(address in others for others in self._hosts.values()):
                self._put(names.HOSTS[address.family], address, False)

    def _put(self, set_name: str, network: Network, present: bool) -> None:
        cover = self._covers.setdefault(set_name, Cover())
        change = cover.add(network) if present else cover.remove(network)
        for gone in change.removed:
            self._table.want_element(set_name, network_key(gone), None)
        for come in change.added:
            self._table.want_element(set_name, network_key(come), NO_DATA)
