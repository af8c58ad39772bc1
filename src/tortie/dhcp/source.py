"""What the datastore says of this host's guests: the syncer's sink.

Keys are looked at before values: in a large cluster almost all endpoints are elsewhere.
"""

import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

import msgspec

from tortie.datastore.syncer import Status, Update
from tortie.dhcp.served import Defaults, Result, decide
from tortie.lib.errors import InvalidInput
from tortie.lib.ip import Network, parsed_network
from tortie.model import codec
from tortie.model.endpoint import WorkloadEndpoint
from tortie.model.keys import RESOURCES, ResourceKey, parse_key
from tortie.model.node import IPPool
from tortie.model.validation import check
from tortie.openstack.labels import ORCHESTRATOR
from tortie.openstack.subnets import SubnetValue, subnets_prefix

K = TypeVar("K")
V = TypeVar("V")

log = logging.getLogger(__name__)

ENDPOINTS = f"{RESOURCES}workloadendpoints/"
POOLS = f"{RESOURCES}ippools/"

_subnet_decoder = msgspec.json.Decoder(SubnetValue)


def prefixes(host: str, region: str, namespace: str, *, openstack_only: bool) -> tuple[str, ...]:
    """What to watch.

    Args:
        openstack_only: nothing but OpenStack's endpoints of this host.
    """
    subnets = subnets_prefix(region)
    if openstack_only:
        return (f"{ENDPOINTS}{namespace}/{_escaped(host)}-{ORCHESTRATOR}-", subnets)
    return (ENDPOINTS, POOLS, subnets)


class Source:
    """
    Args:
        on_change: something that matters to this host has changed.
    """

    def __init__(self, host: str, region: str, on_change: Callable[[], None]) -> None:
        self._host = host
        self._start = f"{_escaped(host)}-"
        self._subnets_prefix = subnets_prefix(region)
        self._on_change = on_change
        self._endpoints: dict[ResourceKey, WorkloadEndpoint] = {}
        self._subnets: dict[str, SubnetValue] = {}
        self._pools: dict[str, Network] = {}
        self._invalid: dict[str, str] = {}
        self.status = Status.CONNECTING
        self.in_sync = False
        """Was the first snapshot complete?"""

    async def on_updates(self, updates: Sequence[Update]) -> None:
        changed = False
        for update in updates:
            changed |= self._on_update(update)
        if changed and self.in_sync:
            self._on_change()

    def on_status(self, status: Status) -> None:
        if status is not self.status:
            log.info("datastore %s", status.value)
        self.status = status
        if status is Status.IN_SYNC and not self.in_sync:
            self.in_sync = True
            self._on_change()

    def decide(self, mtus: dict[str, int], defaults: Defaults) -> Result:
        result = decide(self._endpoints, self._subnets, self._pools.values(), mtus, defaults)
        return Result(result.networks, self._invalid | result.problems)

    def _on_update(self, update: Update) -> bool:
        """Does it matter to this host?"""
        if update.key.startswith(self._subnets_prefix):
            subnet = update.key[len(self._subnets_prefix) :]
            value = None
            if update.value is not None:
                value = self._decode_subnet(subnet, update.value)
            return _set(self._subnets, subnet, value)
        if update.key.startswith(POOLS):
            return self._on_pool(update)
        name = update.key.rpartition("/")[2]
        if not (update.key.startswith(ENDPOINTS) and name.startswith(self._start)):
            return False
        key = parse_key(update.key)
        if not isinstance(key, ResourceKey):
            return False
        endpoint = None if update.value is None else self._decode(key, update.value)
        if endpoint is not None and endpoint.spec.node != self._host:
            endpoint = None
        return _set(self._endpoints, key, endpoint)

    def _on_pool(self, update: Update) -> bool:
        key = parse_key(update.key)
        if not isinstance(key, ResourceKey):
            return False
        pool = None
        if update.value is not None:
            try:
                found = codec.decode(key, update.value)
                pool = parsed_network(found.spec.cidr) if isinstance(found, IPPool) else None
            except InvalidInput as error:
                log.error("%s: %s", key, error)
        return _set(self._pools, key.name, pool)

    def _decode(self, key: ResourceKey, raw: bytes) -> WorkloadEndpoint | None:
        try:
            endpoint = codec.decode(key, raw)
            if not isinstance(endpoint, WorkloadEndpoint):
                return None
            check(endpoint, stored=True)
        except InvalidInput as error:
            self._complain(str(key), str(error))
            return None
        self._invalid.pop(str(key), None)
        return endpoint

    def _decode_subnet(self, subnet: str, raw: bytes) -> SubnetValue | None:
        name = f"subnet {subnet}"
        try:
            value = _subnet_decoder.decode(raw)
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            self._complain(name, str(error))
            return None
        self._invalid.pop(name, None)
        return value

    def _complain(self, name: str, problem: str) -> None:
        self._invalid[name] = problem


def _set(there: dict[K, V], key: K, value: V | None) -> bool:
    """Whether it is another one."""
    if there.get(key) == value:
        return False
    if value is None:
        there.pop(key, None)
    else:
        there[key] = value
    return True


def _escaped(host: str) -> str:
    return host.replace("-", "--")
