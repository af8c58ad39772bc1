"""Answers, in the form that the configuration's version of CNI has.

| version            | form |
|--------------------|------|
| none, 0.1.0, 0.2.0 | `ip4`, `ip6`, one address of each |
| 0.3.0 to 0.4.0     | `interfaces`, `ips` with `version` |
| 1.0.0, 1.1.0       | `interfaces`, `ips` |

Gateways and routes are left out of the newer forms: the container has them, and a chained
plugin that added them again would be wrong about their scope.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from tortie.attach.inside import GATEWAY_4, GATEWAY_6, HOST_MAC
from tortie.attach.requests import Attached
from tortie.kernel.rtnl.link import mac_text
from tortie.lib.errors import InvalidInput
from tortie.lib.ip import Network, parse_address, parse_network

_OLD = ("0.1.0", "0.2.0")
_WITH_FAMILY = ("0.3.0", "0.3.1", "0.4.0")


def attached_result(attached: Attached, version: str, netns: str) -> bytes:
    """
    Args:
        netns: as the runtime knows it.
    """
    addresses = [parse_network(text) for text in attached.addresses]
    if version in _OLD:
        return msgspec.json.encode(_old(addresses, version))
    return msgspec.json.encode(
        {
            "cniVersion": version,
            "interfaces": [
                {"name": attached.interface, "mac": mac_text(HOST_MAC)},
                {"name": attached.inside, "mac": attached.mac, "sandbox": netns},
            ],
            "ips": [{**_ip(address, version), "interface": 1} for address in addresses],
            "dns": {},
        }
    )


def ipam_result(addresses: Sequence[Network], version: str) -> bytes:
    """What an IPAM plugin says: no interfaces."""
    if version in _OLD:
        return msgspec.json.encode(_old(addresses, version))
    ips = [_ip(address, version) for address in addresses]
    return msgspec.json.encode({"cniVersion": version, "ips": ips, "dns": {}})


class _IP(msgspec.Struct, frozen=True):
    address: str = ""
    ip: str = ""


class _Said(msgspec.Struct, frozen=True):
    """Any version's result, as far as addresses go."""

    ips: tuple[_IP, ...] | None = None
    ip4: _IP | None = None
    ip6: _IP | None = None


def parse_addresses(result: str | bytes) -> tuple[Network, ...]:
    """The addresses in somebody's result, each as a /32 or /128, IPv4 first.

    Raises:
        InvalidInput: not a result.
    """
    try:
        said = msgspec.json.decode(result, type=_Said)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise InvalidInput(f"the IPAM plugin's answer: {error}") from None
    texts = [found.address for found in said.ips or ()]
    texts += [found.ip for found in (said.ip4, said.ip6) if found]
    return tuple(sorted(parse_address(text.partition("/")[0]) for text in texts))


def _ip(address: Network, version: str) -> dict[str, Any]:
    found: dict[str, Any] = {"address": str(address)}
    return {"version": str(address.family), **found} if version in _WITH_FAMILY else found


def _old(addresses: Sequence[Network], version: str) -> dict[str, Any]:
    found: dict[str, Any] = {"cniVersion": version}
    for address in addresses:
        gateway = GATEWAY_4 if address.family == 4 else GATEWAY_6
        found[f"ip{address.family}"] = {"ip": str(address), "gateway": gateway.address_text}
    return {**found, "dns": {}}
