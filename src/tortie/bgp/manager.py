"""From desired objects and BGP's resources to a running BIRD: collect, snapshot, configure."""

import logging
from collections.abc import Hashable, Mapping
from pathlib import Path

from tortie.bgp import services
from tortie.bgp.bird import Bird
from tortie.bgp.filters import parse_community
from tortie.bgp.peers import sessions
from tortie.bgp.render import render_bird
from tortie.bgp.resources import BGPResources
from tortie.bgp.secrets import Secrets
from tortie.bgp.services import Services
from tortie.bgp.snapshot import (
    DEFAULT_LISTEN_PORT,
    DEFAULT_OWN_METRIC6,
    DEFAULT_PRIORITY,
    IMPORT_LIMIT,
    Advertisement,
    Snapshot,
)
from tortie.desired.endpoint import Host, Pool, Route, RouteType
from tortie.desired.kinds import Kind
from tortie.lib.errors import InvalidInput
from tortie.lib.ip import Network, parse_address, parse_network
from tortie.model.bgp_configuration import BGPConfigurationSpec
from tortie.model.keys import ResourceKey
from tortie.model.validation.bgp import is_interface_pattern

log = logging.getLogger(__name__)

SECRETS_DIRECTORY = Path("/etc/tortie/bgp-secrets")

NO_SERVICES_LABEL = "node.kubernetes.io/exclude-from-external-load-balancers"
"""`true` on a node: it announces no service addresses."""


class BGPManager:
    """This host's BGP. Hears what the dataplane hears; the same owner calls `apply`.

    Args:
        own_metric4: of the agent's routes; 0 for none.
    """

    def __init__(
        self,
        host: str,
        bird: Bird,
        *,
        route_protocol: int,
        own_metric4: int = 0,
        own_metric6: int = 0,
        secrets: Path = SECRETS_DIRECTORY,
        import_limit: int = IMPORT_LIMIT,
    ) -> None:
        self._host = host
        self._bird = bird
        self._route_protocol = route_protocol
        self._own_metrics = own_metric4, own_metric6 or DEFAULT_OWN_METRIC6
        self._secrets = Secrets(secrets)
        self._import_limit = import_limit
        self._resources = BGPResources(host)
        self._services = Services(host)
        self._hosts: dict[str, Host] = {}
        self._pools: dict[Network, Pool] = {}
        self._own_blocks: set[Network] = set()
        self._problems: dict[str, str] = {}
        self._changed = True
        self.configured: Snapshot | None = None
        """What BIRD has last accepted."""

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

    def on_resource(self, key: ResourceKey, value: object | None) -> None:
        """A resource as stored; those that are no concern of BGP's are fine."""
        known = self._services if key.kind in services.KINDS else self._resources
        if known.on_resource(key, value):
            self._changed = True
        if key == ResourceKey("Node", self._host) and self._services.on_own_node(value):
            self._changed = True

    @property
    def problems(self) -> Mapping[str, str]:
        """By name of BGPPeer (empty: the mesh): why it has no session, or a closed one."""
        return self._problems

    def snapshot(self) -> Snapshot:
        source = self._resources.source(self._hosts)
        self._secrets.forget()
        found = sessions(source, self._secrets.password)
        self._note_problems(found.problems)
        spec, own = source.configuration, self._hosts.get(self._host, Host())
        announced = {*services.whole(spec), *self._services.announced(spec)}
        own_metric4, own_metric6 = self._own_metrics
        silent = self._resources.own_labels().get(NO_SERVICES_LABEL) == "true"
        return Snapshot(
            ipv4=own.ipv4,
            ipv6=own.ipv6,
            ipv4_subnet=own.ipv4_subnet,
            ipv6_subnet=own.ipv6_subnet,
            as_number=source.as_number(source.own),
            listen_port=spec.listen_port or DEFAULT_LISTEN_PORT,
            bind_to_address=spec.bind_mode == "NodeIP",
            cluster_id=_cluster_id(source.own.cluster_id),
            debug=(spec.log_severity_screen or "").lower() in ("debug", "trace"),
            ignored_interfaces=tuple(filter(is_interface_pattern, spec.ignored_interfaces or ())),
            priority4=spec.ipv4_normal_route_priority or DEFAULT_PRIORITY,
            priority6=spec.ipv6_normal_route_priority or DEFAULT_PRIORITY,
            metric4=max(spec.ipv4_normal_route_priority or DEFAULT_PRIORITY, own_metric4 + 1),
            metric6=max(spec.ipv6_normal_route_priority or DEFAULT_PRIORITY, own_metric6 + 1),
            peers=found.peers,
            filters=self._resources.filters(),
            pools=tuple(sorted(self._pools)),
            exported_pools=tuple(sorted(cidr for cidr, pool in self._pools.items() if pool.export)),
            own_blocks=tuple(sorted(self._own_blocks)),
            services=() if silent else tuple(sorted(announced)),
            foreign_services=services.around(spec),
            advertisements=_advertisements(spec),
            route_protocol=self._route_protocol,
            import_limit=self._import_limit,
        )

    async def apply(self) -> None:
        """Configure BIRD if anything changed since it last accepted a configuration.

        Raises:
            Unavailable: BIRD is not there or does not answer; call again later.
            InvalidInput: it refuses what we rendered, and keeps the last good one.
        """
        if not self._changed and not self._secrets.changed():
            return
        snapshot = self.snapshot()
        if await self._bird.configure(render_bird(snapshot)):
            fields = {"peers": len(snapshot.peers), "blocks": len(snapshot.own_blocks)}
            log.info("BIRD configured", extra={"fields": fields})
        self.configured = snapshot
        self._changed = False

    async def close(self) -> None:
        await self._bird.close()

    def _note_problems(self, found: Mapping[str, str]) -> None:
        for name, problem in found.items():
            if self._problems.get(name) != problem:
                what = f"BGPPeer({name})" if name else "node-to-node mesh"
                log.error("%s: %s", what, problem)
        self._problems = dict(found)


def _cluster_id(text: str) -> Network | None:
    try:
        return parse_address(text) if text else None
    except InvalidInput:
        return None


def _advertisements(spec: BGPConfigurationSpec) -> tuple[Advertisement, ...]:
    """Of each prefix its communities, names replaced; what does not parse adds nothing."""
    named = {community.name: community.value for community in spec.communities}
    found = []
    for prefix in spec.prefix_advertisements:
        try:
            communities = tuple(parse_community(named.get(c, c)) for c in prefix.communities)
            found.append(Advertisement(parse_network(prefix.cidr), communities))
        except InvalidInput as error:
            log.error("BGPConfiguration: prefix advertisement %s: %s", prefix.cidr, error)
    return tuple(found)
