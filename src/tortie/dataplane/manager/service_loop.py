"""Networks of services to the sets that are asked for them: see `rules.service_loop`."""

from collections.abc import Hashable
from typing import cast

from tortie.dataplane.driver.cover import Cover
from tortie.dataplane.driver.table import TableState
from tortie.dataplane.rules import names
from tortie.dataplane.rules.content import NO_DATA, network_key
from tortie.dataplane.rules.service_loop import service_loops_table
from tortie.dataplane.settings import Settings
from tortie.desired.kinds import Kind
from tortie.lib.ip import Network


class ServiceLoopManager:
    """Loop task only."""

    def __init__(self, table: TableState, settings: Settings) -> None:
        self._table = table
        self._content = service_loops_table(settings)
        self._covers = {family: Cover() for family in names.SERVICES}

    def on_update(self, kind: Kind, name: Hashable, value: object | None) -> None:
        """`SERVICE_NETWORK`."""
        assert kind is Kind.SERVICE_NETWORK
        if not self._content.chains:
            return
        network = cast(Network, name)
        cover = self._covers[network.family]
        if value is not None:
            self._table.want_content(self._content)
        change = cover.remove(network) if value is None else cover.add(network)
        for gone in change.removed:
            self._table.want_element(names.SERVICES[network.family], network_key(gone), None)
        for come in change.added:
            self._table.want_element(names.SERVICES[network.family], network_key(come), NO_DATA)
        if not any(map(len, self._covers.values())):
            self._table.drop_content(self._content)
