"""What Docker's remote drivers are asked, and what they answer.

Docker leaves fields out or sends null as its versions please, so everything is optional here;
what a call cannot do without, its driver checks. Unknown fields are ignored.

Source: moby/libnetwork, drivers/remote/api, ipams/remote/api.
"""

from typing import Any, TypeVar

import msgspec

from tortie.lib.errors import InvalidInput

PORT_MAP = "com.docker.network.portmap"
GENERIC = "com.docker.network.generic"
ENABLE_IPV6 = "com.docker.network.enable_ipv6"
INTERNAL = "com.docker.network.internal"
GATEWAY_TYPE = "com.docker.network.gateway"
SERIAL = "com.docker.network.ipam.serial"
"""Set by swarm's manager when it allocates for a task on whatever node."""

CONNECTED = 1
"""A static route without a next hop."""

T = TypeVar("T")
Options = dict[str, Any]


class _Message(msgspec.Struct, frozen=True, kw_only=True):
    pass


class IPAMData(_Message, frozen=True, kw_only=True, rename="pascal"):
    address_space: str = ""
    pool: str = ""
    gateway: str = ""


class CreateNetwork(_Message, frozen=True, kw_only=True):
    network_id: str = msgspec.field(default="", name="NetworkID")
    options: Options | None = msgspec.field(default=None, name="Options")
    ipv4: list[IPAMData] | None = msgspec.field(default=None, name="IPv4Data")
    ipv6: list[IPAMData] | None = msgspec.field(default=None, name="IPv6Data")


class Interface(_Message, frozen=True, kw_only=True):
    address: str = msgspec.field(default="", name="Address")
    address_ipv6: str = msgspec.field(default="", name="AddressIPv6")
    mac_address: str = msgspec.field(default="", name="MacAddress")


class Endpoint(_Message, frozen=True, kw_only=True):
    """CreateEndpoint, Join, Leave, DeleteEndpoint and EndpointOperInfo."""

    network_id: str = msgspec.field(default="", name="NetworkID")
    endpoint_id: str = msgspec.field(default="", name="EndpointID")
    interface: Interface | None = msgspec.field(default=None, name="Interface")
    sandbox_key: str = msgspec.field(default="", name="SandboxKey")
    options: Options | None = msgspec.field(default=None, name="Options")


class RequestPool(_Message, frozen=True, kw_only=True):
    pool: str = msgspec.field(default="", name="Pool")
    sub_pool: str = msgspec.field(default="", name="SubPool")
    options: Options | None = msgspec.field(default=None, name="Options")
    v6: bool = msgspec.field(default=False, name="V6")


class Address(_Message, frozen=True, kw_only=True):
    """RequestAddress and ReleaseAddress."""

    pool_id: str = msgspec.field(default="", name="PoolID")
    address: str = msgspec.field(default="", name="Address")
    options: Options | None = msgspec.field(default=None, name="Options")


def decode(body: bytes, kind: type[T]) -> T:
    """
    Raises:
        InvalidInput: it is not such a message.
    """
    try:
        return msgspec.json.decode(body or b"{}", type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInput(f"the request is none of Docker's: {error}") from None
