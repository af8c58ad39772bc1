"""From desired objects to a running BIRD: collect, snapshot, render, configure."""

import logging
from collections.abc import Hashable

from tortie.bgp.bird import Bird
from tortie.bgp.render import render_bird
from tortie.bgp.snapshot import (
    DEFAULT_AS_NUMBER,
    DEFAULT_LISTEN_PORT,
    Snapshot,
    mesh_peers,
)
from tortie.desired.endpoint import Host, Pool, Route, RouteType
from tortie.desired.kinds import Kind
from tortie.lib.ip import Network
from tortie.model.bgp_configuration import BGPConfigurationSpec

log = logging.getLogger(__name__)


class BGPManager:
    """This host's BGP. Hears what the dataplane hears; the same owner calls `apply`."""

    def __init__(self, host: str, bird: Bird, *, route_protocol: int) -> None:
        self._host = host
        self._bird = bird
        self._route_protocol = route_protocol
        self._hosts: dict[str, Host] = {}
        self._pools: dict[Network, Pool] = {}
        self._own_blocks: set[Network] = set()
        self._configuration = BGPConfigurationSpec()
        self._changed = True

    def on_update(self, kind: Kind, name: Hashable, value: object | None) -> None:
        match kind, name, value:
            case Kind.HOST, str(), Host():
                self._hosts[name] = value
            case Kind.HOST, str(), None:
                self._hosts.pop(name, None)
            case Kind.POOL, Network(), Pool():
                self._pools[name] = value
            case Kind.POOL, Network(), None:
                self._pools.pop(name, None)
            case Kind.ROUTE, Network(), Route() | None:
                if value is not None and value.type is RouteType.LOCAL_BLOCK:
                    self._own_blocks.add(name)
                elif name in self._own_blocks:
                    self._own_blocks.discard(name)
                else:
                    return
            case _:
                return
        self._changed = True

    def on_configuration(self, spec: BGPConfigurationSpec | None) -> None:
        """The BGPConfiguration `default`; None when there is none."""
        self._configuration = spec or BGPConfigurationSpec()
        self._changed = True

    def snapshot(self) -> Snapshot:
        own = self._hosts.get(self._host, Host())
        default_as = self._configuration.as_number or DEFAULT_AS_NUMBER
        mesh = self._configuration.node_to_node_mesh_enabled is not False
        return Snapshot(
            ipv4=own.ipv4,
            ipv6=own.ipv6,
            as_number=own.as_number or default_as,
            listen_port=self._configuration.listen_port or DEFAULT_LISTEN_PORT,
            peers=mesh_peers(self._host, self._hosts, default_as) if mesh else (),
            pools=tuple(sorted(self._pools)),
            exported_pools=tuple(sorted(cidr for cidr, pool in self._pools.items() if pool.export)),
            own_blocks=tuple(sorted(self._own_blocks)),
            route_protocol=self._route_protocol,
        )

    async def apply(self) -> None:
        """Configure BIRD if anything changed since it last accepted a configuration.

        Raises:
            Unavailable: BIRD is not there or does not answer; call again later.
            InvalidInput: it refuses what we rendered, and keeps the last good one.
        """
        if not self._changed:
            return
        snapshot = self.snapshot()
        if await self._bird.configure(render_bird(snapshot)):
            fields = {"peers": len(snapshot.peers), "blocks": len(snapshot.own_blocks)}
            log.info("BIRD configured", extra={"fields": fields})
        self._changed = False

    async def close(self) -> None:
        await self._bird.close()
