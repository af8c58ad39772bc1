"""Floating addresses of endpoints to map elements.

What the tables need for them is there as long as there is one (see `rules.nat`).
An address that leads elsewhere than before, or nowhere, is *departed*: its
connections must be cut.
"""

from collections import defaultdict
from collections.abc import Hashable, Iterable
from typing import cast

from tortie.dataplane.driver.table import TableState
from tortie.dataplane.rules import names
from tortie.dataplane.rules.nat import floating_table
from tortie.dataplane.settings import Settings
from tortie.desired.endpoint import Endpoint, EndpointId, FloatingAddress
from tortie.desired.kinds import Kind
from tortie.kernel.nft import keys
from tortie.lib.ip import Network


class FloatingManager:
    """Loop task only."""

    def __init__(self, table: TableState, settings: Settings) -> None:
        self._table = table
        self._ipv6 = settings.ipv6
        self._content = floating_table(settings)
        self._of_endpoint: dict[EndpointId, tuple[FloatingAddress, ...]] = {}
        self._claims: defaultdict[Network, dict[EndpointId, Network]] = defaultdict(dict)
        """By floating address: who claims it, and for which of their own."""
        self._written: dict[Network, Network] = {}
        """Floating address to own."""
        self._hairpins: defaultdict[Network, set[Network]] = defaultdict(set)
        """The other way round."""
        self._departed: set[Network] = set()

    def on_update(self, kind: Kind, name: Hashable, value: object | None) -> None:
        """`ENDPOINT`."""
        assert kind is Kind.ENDPOINT
        endpoint_id = cast(EndpointId, name)
        endpoint = cast("Endpoint | None", value)
        wanted = endpoint.floating if endpoint else ()
        old = self._of_endpoint.pop(endpoint_id, ())
        if wanted:
            self._of_endpoint[endpoint_id] = wanted
        if wanted == old:
            return
        for one in old:
            del self._claims[one.external][endpoint_id]
        for one in wanted:
            self._claims[one.external][endpoint_id] = one.internal
        self._write({one.external for one in (*old, *wanted)})

    @property
    def departed(self) -> frozenset[Network]:
        return frozenset(self._departed)

    def confirm_departed(self, addresses: Iterable[Network]) -> None:
        self._departed.difference_update(addresses)

    def _write(self, externals: set[Network]) -> None:
        if not self._written:
            self._table.want_content(self._content)
        for external in sorted(externals):
            claims = self._claims[external]
            if not claims:
                del self._claims[external]
            own = claims[min(claims)] if claims and self._is_on(external) else None
            before = self._written.pop(external, None)
            if own is not None:
                self._written[external] = own
            if own == before:
                continue
            if before is not None:
                self._departed.add(external)
                self._write_hairpin(before, external, present=False)
            if own is not None:
                self._write_hairpin(own, external, present=True)
            data = None if own is None else own.packed
            self._table.want_element(names.FLOATING[external.family], external.packed, data)
        if not self._written:
            self._table.drop_content(self._content)

    def _is_on(self, address: Network) -> bool:
        return self._ipv6 or address.family == 4

    def _write_hairpin(self, own: Network, external: Network, *, present: bool) -> None:
        """Of several floating addresses a workload that calls itself has the lowest."""
        known = self._hairpins[own]
        if present:
            known.add(external)
        else:
            known.discard(external)
        data = min(known).packed if known else None
        if not known:
            del self._hairpins[own]
        key = keys.concatenate(own.packed, own.packed)
        self._table.want_element(names.HAIRPIN[own.family], key, data)
