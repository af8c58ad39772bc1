"""Addresses for services of type LoadBalancer, from pools that allow it.

A service keeps its address while it is one of ours: without a class, or of class `calico`. Where
no pool is for load balancers, all services are somebody else's. Hosts announce the addresses by
BGP as BGPConfiguration says (`serviceLoadBalancerIPs`).

Source: Calico, kube-controllers/pkg/controllers/loadbalancer; annotations of its reference.
"""

import contextlib
import hashlib
import logging
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from tortie.datastore.client import Client
from tortie.datastore.resources import Resources
from tortie.ipam.allocator import Allocator
from tortie.kube.api import Api, Name
from tortie.kube.kinds import SERVICES
from tortie.lib.errors import AlreadyExists, InvalidInput, NotFound
from tortie.lib.ip import Network, parse_address
from tortie.model.keys import IPAM, HandleKey, parse_key
from tortie.model.kubernetes.fields import Object, mapping, objects, sequence, strings, text
from tortie.model.node import IPPool

log = logging.getLogger(__name__)

OWNER = "load-balancer"
"""Of its blocks: `virtual:load-balancer`."""
HANDLE_PREFIX = "lb-"
CLASSES = ("", "calico", "tortie")

ADDRESSES_ANNOTATION = "projectcalico.org/loadBalancerIPs"
POOL_ANNOTATIONS = ("projectcalico.org/ipv4pools", "projectcalico.org/ipv6pools")


class Wanted(NamedTuple):
    families: frozenset[int]
    requested: tuple[Network, ...]
    pools: tuple[str, ...]


class LoadBalancer:
    """
    Args:
        everything: also services that ask for no address of ours.
        changed: told each service that is to be reconciled.
    """

    def __init__(
        self,
        api: Api,
        resources: Resources,
        changed: Callable[[Name], None],
        *,
        everything: bool = True,
    ) -> None:
        self._api = api
        self._resources = resources
        self._allocator = Allocator(resources.client, OWNER, virtual=True)
        self._changed = changed
        self._everything = everything
        self._wanted: dict[Name, Wanted] = {}
        self._shown: dict[Name, tuple[str, ...]] = {}
        """What the status of each service of type LoadBalancer says."""
        self.is_ready = False

    def seen(self, name: Name, service: Object) -> None:
        """
        Raises:
            InvalidInput: an annotation is wrong; it counts as a service that is not ours.
        """
        self._wanted.pop(name, None)
        before = self._shown.pop(name, None)
        if text(mapping(service, "spec"), "type") == "LoadBalancer":
            ingress = objects(mapping(mapping(service, "status"), "loadBalancer"), "ingress")
            self._shown[name] = tuple(text(entry, "ip") for entry in ingress)
            wanted = wanted_of(service)
            if wanted is not None and (self._everything or wanted.requested or wanted.pools):
                self._wanted[name] = wanted
        if before is not None or name in self._shown:
            self._changed(name)

    def gone(self, name: Name) -> None:
        self._wanted.pop(name, None)
        if self._shown.pop(name, None) is not None:
            self._changed(name)

    def listed(self) -> None:
        self.is_ready = True
        self.look_at_all()

    def look_at_all(self) -> None:
        for name in self._shown if self.is_ready else ():
            self._changed(name)

    async def reconcile(self, name: Name) -> None:
        """
        Raises:
            InvalidInput, PoolExhausted: there is no address for it; for people.
            TortieError: try again later.
        """
        if not self.is_ready:
            return
        wanted = self._wanted.get(name)
        if wanted is None or not await self._has_pool():
            if await self._allocator.release(handle_of(name)):
                log.info("address given back", extra={"fields": {"service": name}})
            return
        addresses = await self._assign(name, wanted)
        shown = tuple(address.address_text for address in addresses)
        if self._shown.get(name) != shown:
            ingress = [{"ip": one} for one in shown]
            body = {"status": {"loadBalancer": {"ingress": ingress}}}
            with contextlib.suppress(NotFound):
                await self._api.patch(SERVICES, name, body, subresource="status")
            log.info("address", extra={"fields": {"service": name, "is": ",".join(shown)}})

    async def collect(self) -> list[str]:
        """Give back what belongs to services that ended while nobody looked; their handles."""
        known = {handle_of(name) for name in self._wanted}
        released = []
        for handle in await _handles(self._resources.client):
            if handle not in known and await self._allocator.release(handle):
                released.append(handle)
        return released

    async def _assign(self, name: Name, wanted: Wanted) -> list[Network]:
        handle = handle_of(name)
        attributes = {"service": name.name, "namespace": name.namespace, "type": "loadBalancer"}
        held = await self._allocator.addresses_of(handle)
        if not set(wanted.requested) <= set(held) or not held:
            await self._allocator.release(handle)
        elif {address.family for address in held} == wanted.families:
            return held
        try:
            return await self._allocator.assign(
                wanted.families,
                handle,
                attributes,
                requested=wanted.requested,
                pools=await self._pool_names(wanted.pools),
                use="LoadBalancer",
            )
        except AlreadyExists as error:
            raise InvalidInput(str(error)) from None

    async def _has_pool(self) -> bool:
        pools = await self._resources.all_of(IPPool)
        return any("LoadBalancer" in pool.spec.allowed_uses for pool in pools)

    async def _pool_names(self, texts: tuple[str, ...]) -> list[str]:
        """By name, or by CIDR as Calico's annotations may have it."""
        by_cidr = {
            pool.spec.cidr: pool.metadata.name for pool in await self._resources.all_of(IPPool)
        }
        return [by_cidr.get(one, one) for one in texts]


def wanted_of(service: Object) -> Wanted | None:
    """None: it is another's to serve.

    Raises:
        InvalidInput: an annotation is wrong.
    """
    spec, annotations = (
        mapping(service, "spec"),
        strings(mapping(service, "metadata"), "annotations"),
    )
    if text(spec, "loadBalancerClass") not in CLASSES:
        return None
    given = _listed(annotations, ADDRESSES_ANNOTATION)
    if not given and text(spec, "loadBalancerIP"):
        given = [text(spec, "loadBalancerIP")]
    requested = tuple(parse_address(one) for one in given)
    named = sequence(spec, "ipFamilies") or [text(spec, "ipFamily") or "IPv4"]
    families = frozenset(6 if family == "IPv6" else 4 for family in named)
    pools = tuple(pool for name in POOL_ANNOTATIONS for pool in _listed(annotations, name))
    asked = frozenset(address.family for address in requested)
    return Wanted(asked or families, requested, pools)


def handle_of(name: Name) -> str:
    digest = hashlib.sha256(f"{name.namespace}/{name.name}".encode()).hexdigest()
    return f"{HANDLE_PREFIX}{digest[:40]}"


def _listed(annotations: dict[str, str], name: str) -> list[str]:
    if name not in annotations:
        return []
    try:
        return msgspec.json.decode(annotations[name], type=list[str])
    except msgspec.DecodeError:
        raise InvalidInput(f'annotation {name} is not a list such as ["one","two"]') from None


async def _handles(client: Client) -> list[str]:
    listing = await client.list(f"{IPAM}handle/{HANDLE_PREFIX}", keys_only=True)
    keys = (parse_key(entry.key) for entry in listing.entries)
    return [key.handle_id for key in keys if isinstance(key, HandleKey)]
