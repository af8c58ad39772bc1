"""Limits of endpoints to sets of their interfaces, and bandwidth to their links.

A value's set and rule are there while an endpoint has it. A limit that the kernel
does not take is left out and reported (see `manager.refusal`).
"""

from collections import defaultdict
from collections.abc import Hashable
from typing import cast

from tortie.dataplane.driver.shaper import ShaperDriver
from tortie.dataplane.driver.table import TableState
from tortie.dataplane.rules.content import NO_DATA, Content
from tortie.dataplane.rules.limit import Value, limits_table, values_of
from tortie.dataplane.settings import Settings
from tortie.desired.endpoint import Endpoint, EndpointId, Limits
from tortie.desired.kinds import Kind
from tortie.kernel.nft import keys

_Had = tuple[str, frozenset[Value]]
"""Interface and values."""

_NOTHING: _Had = "", frozenset()


class LimitManager:
    """Loop task only."""

    def __init__(self, table: TableState, shaper: ShaperDriver, settings: Settings) -> None:
        self._table = table
        self._shaper = shaper
        self._shaped: dict[str, EndpointId] = {}
        """By interface: whose bandwidth it has."""
        self._interface_of: dict[EndpointId, str] = {}
        """Of those with a bandwidth."""
        self._settings = settings
        self._had: dict[EndpointId, _Had] = {}
        self._interfaces: defaultdict[Value, dict[str, EndpointId]] = defaultdict(dict)
        """By value: the interfaces that have it, and whose they are."""
        self._closed: set[str] = set()
        self._written = Content()

    def on_update(self, kind: Kind, name: Hashable, value: object | None) -> None:
        """`ENDPOINT`."""
        assert kind is Kind.ENDPOINT
        endpoint_id = cast(EndpointId, name)
        endpoint = cast("Endpoint | None", value)
        limits = endpoint.limits if endpoint and endpoint.interface else Limits()
        interface = endpoint.interface if endpoint else ""
        self._shape(endpoint_id, interface, limits)
        now = interface, frozenset(values_of(limits))
        before = self._had.pop(endpoint_id, _NOTHING)
        if now[1]:
            self._had[endpoint_id] = now
        if before == now or not (before[1] or now[1]):
            return
        gone = [one for one in before[1] if before[0] != interface or one not in now[1]]
        gone = [one for one in gone if self._interfaces[one].get(before[0]) == endpoint_id]
        for one in now[1]:
            self._interfaces[one][interface] = endpoint_id
        for one in gone:
            del self._interfaces[one][before[0]]
            self._want(one, before[0], present=False)
        self._write_content()
        for one in now[1]:
            self._want(one, interface, present=True)

    def _shape(self, endpoint_id: EndpointId, interface: str, limits: Limits) -> None:
        former = self._interface_of.get(endpoint_id, "")
        if former != interface and self._shaped.get(former) == endpoint_id:
            del self._shaped[former]
            self._shaper.want(former, Limits())
        has_bandwidth = limits.ingress_bandwidth or limits.egress_bandwidth
        if interface and (has_bandwidth or self._shaped.get(interface) == endpoint_id):
            self._shaped[interface] = endpoint_id
            self._shaper.want(interface, limits)
        if has_bandwidth:
            self._interface_of[endpoint_id] = interface
        else:
            self._interface_of.pop(endpoint_id, None)
            if self._shaped.get(interface) == endpoint_id:
                del self._shaped[interface]

    def close(self, set_name: Hashable, *, closed: bool) -> None:
        """Do without a limit, or have it again."""
        if closed:
            self._closed.add(cast(str, set_name))
        else:
            self._closed.discard(cast(str, set_name))
        self._write_content()
        for one, interfaces in self._interfaces.items():
            if one.set_name == set_name:
                for interface in interfaces:
                    self._want(one, interface, present=True)

    def owns(self, set_name: str) -> bool:
        """Whether that is a limit's set."""
        return set_name in self._written.sets

    def _write_content(self) -> None:
        for one in [one for one, interfaces in self._interfaces.items() if not interfaces]:
            del self._interfaces[one]
        wanted = [one for one in self._interfaces if one.set_name not in self._closed]
        content = limits_table(wanted, self._settings) if wanted else Content()
        if content == self._written:
            return
        before, self._written = self._written, content
        chains = {name: one for name, one in before.chains.items() if name not in content.chains}
        sets = {name: one for name, one in before.sets.items() if name not in content.sets}
        self._table.drop_content(Content(chains=chains, sets=sets))
        self._table.want_content(content)

    def _want(self, value: Value, interface: str, *, present: bool) -> None:
        if value.set_name in self._written.sets:
            data = NO_DATA if present else None
            self._table.want_element(value.set_name, keys.ifname(interface), data)
