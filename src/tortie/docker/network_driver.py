"""Docker's NetworkDriver: what each call does.

    CreateEndpoint ─► link and endpoint ─► Join: names, gateway ─► Docker moves the link's end
    Leave, DeleteEndpoint ─► both go

All state is in `Records` (networks) and `Endpoints`; a call only translates. No call asks
Docker anything: it waits for us, at its start even before it answers anybody.

Source: moby/libnetwork, docs/remote.md; Calico, libnetwork-plugin/driver/network_driver.go
(names, refusals).
"""

import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

from tortie.docker import messages
from tortie.docker.endpoints import Endpoint, Endpoints, made_mac
from tortie.docker.ipam_driver import ANY
from tortie.docker.messages import decode
from tortie.docker.records import Records
from tortie.lib.errors import InvalidInput, NotFound
from tortie.lib.ip import parse_address

log = logging.getLogger(__name__)

ID_MAX_CHARACTERS = 64
"""Docker's own have 64, swarm's 25."""

_UNDERSTOOD = frozenset({messages.ENABLE_IPV6, messages.INTERNAL, "com.docker.network.enable_ipv4"})


class NetworkDriver:
    """Holds nothing itself.

    Args:
        interface_prefix: of interfaces in containers; Docker appends a number.
    """

    def __init__(self, records: Records, endpoints: Endpoints, interface_prefix: str) -> None:
        self._records = records
        self._endpoints = endpoints
        self._interface_prefix = interface_prefix

    async def allocate_network(self, body: bytes) -> Mapping[str, Any]:
        """Swarm's manager asks before any node does; refusals are best made here."""
        request = decode(body, messages.CreateNetwork)
        _check_network(request)
        return {"Options": {}}

    async def create_network(self, body: bytes) -> Mapping[str, Any]:
        """
        Raises:
            InvalidInput: an option that we do not have, or addresses that are not ours.
        """
        request = decode(body, messages.CreateNetwork)
        _check_network(request)
        internal = (request.options or {}).get(messages.INTERNAL) is True
        self._records.ensure(_required(request.network_id, "NetworkID"), internal=internal)
        return {}

    async def delete_network(self, body: bytes) -> Mapping[str, Any]:
        """The profile stays: another host may have a network of that name."""
        request = decode(body, messages.CreateNetwork)
        self._records.forget(request.network_id)
        return {}

    async def create_endpoint(self, body: bytes) -> Mapping[str, Any]:
        """
        Raises:
            InvalidInput: published ports, or no address.
            AlreadyExists, Unavailable: as the attach service says.
        """
        request = decode(body, messages.Endpoint)
        _refuse_published(request.options or {})
        wanted = request.interface or messages.Interface()
        texts = [text for text in (wanted.address, wanted.address_ipv6) if text]
        if not texts:
            raise InvalidInput("No address assigned for endpoint")
        endpoint_id = _required(request.endpoint_id, "EndpointID")
        endpoint = Endpoint(
            endpoint_id,
            _required(request.network_id, "NetworkID"),
            tuple(parse_address(text.partition("/")[0]) for text in texts),
            wanted.mac_address or made_mac(endpoint_id),
        )
        await self._endpoints.create(endpoint)
        # What Docker chose itself may not be in the answer.
        return {"Interface": {} if wanted.mac_address else {"MacAddress": endpoint.mac}}

    async def endpoint_oper_info(self, _: bytes) -> Mapping[str, Any]:
        return {"Value": {}}

    async def join(self, body: bytes) -> Mapping[str, Any]:
        """
        Raises:
            NotFound: nobody made this endpoint.
        """
        request = decode(body, messages.Endpoint)
        endpoint = self._endpoints.get(request.endpoint_id)
        if endpoint is None:
            raise NotFound(
                f"endpoint {request.endpoint_id[:12]} is not known here; start the container again"
            )
        network = self._records.ensure(endpoint.network_id)
        answer: dict[str, Any] = {
            "InterfaceName": {
                "SrcName": endpoint.temporary_name,
                "DstPrefix": self._interface_prefix,
            },
            "Gateway": "",
            "GatewayIPv6": "",
            "StaticRoutes": [],
        }
        families = {address.family for address in endpoint.addresses}
        for family, field in ((4, "Gateway"), (6, "GatewayIPv6")):
            if family in families:
                gateway = network.gateway(family)
                answer[field] = gateway.address_text
                connected = {"RouteType": messages.CONNECTED, "NextHop": ""}
                answer["StaticRoutes"].append({"Destination": str(gateway), **connected})
        return answer

    async def delete_endpoint(self, body: bytes) -> Mapping[str, Any]:
        request = decode(body, messages.Endpoint)
        await self._endpoints.remove(_required(request.endpoint_id, "EndpointID"))
        return {}

    async def nothing(self, _: bytes) -> Mapping[str, Any]:
        """What we have no part in, or do with another call."""
        return {}


Call = Callable[[NetworkDriver, bytes], Awaitable[Mapping[str, Any]]]

CALLS: Mapping[str, Call] = {
    "AllocateNetwork": NetworkDriver.allocate_network,
    "FreeNetwork": NetworkDriver.nothing,
    "CreateNetwork": NetworkDriver.create_network,
    "DeleteNetwork": NetworkDriver.delete_network,
    "CreateEndpoint": NetworkDriver.create_endpoint,
    "EndpointOperInfo": NetworkDriver.endpoint_oper_info,
    "DeleteEndpoint": NetworkDriver.delete_endpoint,
    "Join": NetworkDriver.join,
    "Leave": NetworkDriver.nothing,
    "DiscoverNew": NetworkDriver.nothing,
    "DiscoverDelete": NetworkDriver.nothing,
    "ProgramExternalConnectivity": NetworkDriver.nothing,
    "RevokeExternalConnectivity": NetworkDriver.nothing,
}


def _check_network(request: messages.CreateNetwork) -> None:
    """
    Raises:
        InvalidInput: which option, and what to do instead.
    """
    for name, value in (request.options or {}).items():
        if name in _UNDERSTOOD or not value:
            continue
        if name == messages.GENERIC and isinstance(value, dict):
            flags = ", ".join(sorted(value))
            word = "flags" if len(value) > 1 else "flag"
            raise InvalidInput(
                f"Calico driver does not support the {word} {flags}. (Leave --opt out; what a "
                "network may do is in its profile.)"
            )
        flag = "--" + name.removeprefix("com.docker.network.")
        raise InvalidInput(f"Calico driver does not support the flag {flag}.")
    for found, family in ((request.ipv4, 4), (request.ipv6, 6)):
        _check_addresses(found or (), family)


def _check_addresses(found: Iterable[messages.IPAMData], family: int) -> None:
    for data in found:
        # A gateway within a subnet is what any other IPAM driver hands out.
        if data.gateway and data.gateway.partition("/")[0] != ANY[family].partition("/")[0]:
            raise InvalidInput(
                "Non-Calico IPAM driver is used. (Add --ipam-driver tortie-ipam: addresses must "
                "come from IPPools, so that they are routed and the same nowhere else.)"
            )


def _refuse_published(options: Mapping[str, Any]) -> None:
    """
    Raises:
        InvalidInput: -p, with what does the same here.
    """
    published = options.get(messages.PORT_MAP)
    if not published:
        return
    ports = sorted({str(port.get("Port")) for port in published if isinstance(port, dict)})
    raise InvalidInput(
        f"ports cannot be published on this network (-p, port {', '.join(ports)}): its "
        "containers are reached at their own addresses, from everywhere that routes lead to "
        "them. Leave -p out; or start the container on Docker's bridge network with -p, and "
        "`docker network connect` it to this one"
    )


def _required(text: str, field: str) -> str:
    if not (text.isascii() and text.isalnum() and len(text) <= ID_MAX_CHARACTERS):
        raise InvalidInput(f"{field} is {text[:80]!r}; it must be an id of Docker's")
    return text
