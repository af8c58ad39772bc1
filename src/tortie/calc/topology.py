"""Hosts, pools and service networks of the cluster: told onwards, the first two also to the routes
that rest on them."""

from tortie.calc.claims import Claims
from tortie.calc.routes import Routes
from tortie.calc.sequencer import Sequencer
from tortie.calc.validation import ParsedPool
from tortie.desired.endpoint import Host
from tortie.desired.kinds import Kind
from tortie.lib.ip import Network


class Topology:
    """Two pools may not have one network, but if they do, the first by name counts."""

    def __init__(self, sequencer: Sequencer, routes: Routes) -> None:
        self._sequencer = sequencer
        self._routes = routes
        self._pools: dict[str, ParsedPool] = {}
        self._names: Claims[Network, str] = Claims()
        self._service_networks: frozenset[Network] = frozenset()

    def on_host(self, name: str, host: Host | None) -> None:
        self._sequencer.put(Kind.HOST, name, host)
        self._routes.on_host(name, host)

    def on_service_networks(self, networks: frozenset[Network]) -> None:
        for network in networks ^ self._service_networks:
            self._sequencer.put(Kind.SERVICE_NETWORK, network, network in networks or None)
        self._service_networks = networks

    def on_pool(self, name: str, parsed: ParsedPool | None) -> None:
        before = self._pools.pop(name, None)
        if before is not None:
            self._names.discard(before.network, name)
        if parsed is not None:
            self._pools[name] = parsed
            self._names.add(parsed.network, name)
        for network in {pool.network for pool in (before, parsed) if pool is not None}:
            holder = self._names.holder(network)
            pool = self._pools[holder].pool if holder else None
            self._sequencer.put(Kind.POOL, network, pool)
            self._routes.on_pool(network, holder is not None)
