"""Docker's IpamDriver: addresses from IPPools, for containers of this host.

A pool of Docker's is an IPPool, named by its CIDR, or all of a family together. Docker asks for
an address before it says what for, so each is held under a handle of its own, marked as none of
the agent's business. Networks have no gateway of their own: the answer `0.0.0.0/0` says so.

Swarm asks twice: its manager chooses an address for a task, wherever that will run; the node
that runs it asks for the very same. The manager's is marked; a node only borrows such a one,
and when it gives it back, the manager still holds it. Any manager may release it, for another
one may lead by then.

Source: moby/libnetwork, docs/ipam.md; Calico, libnetwork-plugin/driver/ipam_driver.go (names,
refusals); moby/swarmkit, manager/allocator.
"""

import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from tortie.datastore.client import Client
from tortie.docker.messages import (
    GATEWAY_TYPE,
    SERIAL,
    Address,
    RequestPool,
    decode,
)
from tortie.docker.pools import Pools
from tortie.docker.records import Records
from tortie.ipam.allocator import Allocator
from tortie.ipam.audit import FOREIGN
from tortie.lib.errors import AlreadyExists, InvalidInput
from tortie.lib.ip import Network, parse_address, parse_network
from tortie.model.ipam import Attribute

log = logging.getLogger(__name__)

HANDLE_PREFIX = "libnetwork."
SWARM = "swarm"
"""Attribute of an address that a manager of swarm mode chose; its value is that manager."""

POOL_IDS = {4: "CalicoPoolIPv4", 6: "CalicoPoolIPv6"}
ANY = {4: "0.0.0.0/0", 6: "::/0"}
_NOWHERE = ("", "0.0.0.0", "::")
_GATEWAY = "com.docker.network.gateway"

CAPABILITIES = {"RequiresMACAddress": False, "RequiresRequestReplay": False}
SPACES = {
    "LocalDefaultAddressSpace": "CalicoLocalAddressSpace",
    "GlobalDefaultAddressSpace": "CalicoGlobalAddressSpace",
}


class IPAMDriver:
    """One event loop only."""

    def __init__(self, client: Client, host: str, records: Records) -> None:
        self._client = client
        self._records = records
        self._host = host
        self._pools = Pools(client)
        self._allocator = Allocator(client, host)

    async def request_pool(self, body: bytes) -> Mapping[str, Any]:
        """
        Raises:
            InvalidInput: an option that we do not have, or no such IPPool.
        """
        request = decode(body, RequestPool)
        if request.sub_pool:
            raise InvalidInput(
                "Calico IPAM does not support sub pool configuration on 'docker create network'. "
                "Calico IP Pools should be configured first and IP assignment is from those "
                "pre-configured pools. (Leave --ip-range out; make an IPPool of that range, and "
                "name it with --subnet.)"
            )
        if request.options:
            raise InvalidInput(
                f"Arbitrary options are not supported (--ipam-opt {', '.join(request.options)})"
            )
        family = 6 if request.v6 else 4
        pool_id, pool = POOL_IDS[family], ANY[family]
        if request.pool not in ("", pool):  # swarm repeats what it was told
            wanted = _parse_pool(request.pool)
            if wanted not in await self._pools.names():
                raise InvalidInput(
                    "The requested subnet must match the CIDR of a configured Calico IP Pool. "
                    f"(There is no IPPool {wanted}.)"
                )
            pool_id = pool = str(wanted)
        # With a gateway in its data Docker does not ask for one.
        return {"PoolID": pool_id, "Pool": pool, "Data": {_GATEWAY: ANY[family]}}

    async def release_pool(self, _: bytes) -> Mapping[str, Any]:
        return {}

    async def request_address(self, body: bytes) -> Mapping[str, Any]:
        """
        Raises:
            InvalidInput: a gateway, or an address in no pool.
            AlreadyExists: the address is taken.
            PoolExhausted: none is free.
        """
        request = decode(body, Address)
        options = request.options or {}
        family = _family(request.pool_id)
        if options.get("RequestAddressType") == GATEWAY_TYPE:
            if request.address.partition("/")[0] not in _NOWHERE:
                raise InvalidInput(
                    "Calico IPAM does not support specifying a gateway. (Leave --gateway out: "
                    "each host is its containers' gateway.)"
                )
            return {"Address": ANY[family], "Data": {}}
        by_manager = options.get(SERIAL) == "true"
        if request.address:
            address = parse_address(request.address.partition("/")[0])
            await self._take(address, by_manager)
        else:
            pools = await self._pools_of(request.pool_id)
            [address] = await self._allocator.assign(
                {family}, _new_handle(), self._attributes(by_manager), pools=pools
            )
        return {"Address": str(address), "Data": {}}

    async def release_address(self, body: bytes) -> Mapping[str, Any]:
        """Free it, unless it is not Docker's, or no longer this host's."""
        request = decode(body, Address)
        if request.address.partition("/")[0] in _NOWHERE:
            return {}
        await self.release(parse_address(request.address.partition("/")[0]))
        return {}

    async def release(self, address: Network) -> bool:
        """Free what this host's Docker holds, or swarm's manager; False if that is not so."""
        if self._records.give_back(address.address_text):
            return False
        owner = await self._pools.holder(address)
        if owner is None or owner.handle_id is None or not self._is_ours(owner):
            return False
        # By its handle, which nobody else ever has: never what was freed a moment ago.
        return bool(await self._allocator.release(owner.handle_id))

    async def _take(self, address: Network, by_manager: bool) -> None:
        """An address by name; one that swarm's manager chose is there already."""
        owner = await self._pools.holder(address)
        if owner is not None and is_docker(owner) and SWARM in (owner.secondary or {}):
            if not by_manager:
                self._records.borrow(address.address_text)
            return
        try:
            await self._allocator.assign(
                {address.family},
                _new_handle(),
                self._attributes(by_manager),
                requested=(address,),
            )
        except AlreadyExists as error:
            raise AlreadyExists(f"Address already in use: {error}") from None

    def _attributes(self, by_manager: bool) -> dict[str, str]:
        marks = {SWARM: self._host} if by_manager else {}
        return {"namespace": "libnetwork", "attachment": FOREIGN, **marks}

    def _is_ours(self, owner: Attribute) -> bool:
        secondary = owner.secondary or {}
        return is_docker(owner) and (
            SWARM in secondary or secondary.get("node", self._host) == self._host
        )

    async def _pools_of(self, pool_id: str) -> tuple[str, ...]:
        """
        Raises:
            InvalidInput: it is gone.
        """
        if pool_id in POOL_IDS.values():
            return ()
        name = (await self._pools.names()).get(_parse_pool(pool_id))
        if name is None:
            raise InvalidInput(
                "The network references a Calico pool which has been deleted. Please re-instate "
                f"the Calico pool before using the network. (It is {pool_id}.)"
            )
        return (name,)


Call = Callable[[IPAMDriver, bytes], Awaitable[Mapping[str, Any]]]

CALLS: Mapping[str, Call] = {
    "RequestPool": IPAMDriver.request_pool,
    "ReleasePool": IPAMDriver.release_pool,
    "RequestAddress": IPAMDriver.request_address,
    "ReleaseAddress": IPAMDriver.release_address,
}


def _parse_pool(text: str) -> Network:
    try:
        return parse_network(text)
    except InvalidInput:
        raise InvalidInput(f"Invalid CIDR - {text}") from None


def _family(pool_id: str) -> int:
    for family, known in POOL_IDS.items():
        if pool_id == known:
            return family
    return _parse_pool(pool_id).family


def is_docker(owner: Attribute) -> bool:
    return (owner.handle_id or "").startswith(HANDLE_PREFIX)


def _new_handle() -> str:
    return HANDLE_PREFIX + secrets.token_hex(16)
