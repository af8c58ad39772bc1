"""Who is to be served what: endpoints, subnets, pools and links, as networks. Pure.

Two kinds of guests:

- OpenStack's ports. Their subnets are under `/calico/dhcp/v2/`; a guest gets its subnet's
  prefix length and gateway, as from Neutron's own agents.
- Others, with the annotation `tortie/dhcp: "yes"`. A guest gets its address as /32, and routes
  that say where its gateway 169.254.1.1 is. They are one network, called `host`.

IPv6 addresses are /128 by DHCPv6, the gateway comes by router advertisement; a subnet with the
mode `slaac` is advertised for guests to make their addresses in.

An address belongs to one guest: the first by its endpoint's name. What does not parse is left
out, and concerns nobody else.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec

from tortie.dhcp.options import Option, parse_options
from tortie.lib.errors import InvalidInput
from tortie.lib.ip import Network, parse_address, parsed_network
from tortie.model import names
from tortie.model.endpoint import DNS_ANNOTATION, WorkloadEndpoint, served_by_dhcp
from tortie.model.keys import ResourceKey
from tortie.openstack.labels import (
    DHCP_OPTIONS_ANNOTATION,
    FQDN_ANNOTATION,
    NETWORK_ANNOTATION,
    ORCHESTRATOR,
)
from tortie.openstack.subnets import SubnetValue

HOST_NETWORK = "host"
"""The network of guests that are not OpenStack's."""

ROUTES_MAX = 24
"""Of one subnet: option 121 has 255 bytes, a route up to 9, and two are ours."""
NAMESERVERS_MAX = 8
SLAAC_LENGTH = 64

_LABEL = re.compile("[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
_NO_NAME = re.compile("ignore|infinite|[0-9]+[smhdwSMHDW]?")
"""What dnsmasq would take for another field of a `dhcp-host`."""


class HostRoute(NamedTuple):
    destination: Network
    gateway: Network | None
    """None: on the link itself."""


class Subnet(msgspec.Struct, frozen=True, kw_only=True):
    """Addresses that are served alike."""

    cidr: Network
    routed: bool = False
    """Guests get /32, and the link-local gateway; else the subnet's length, and its gateway."""
    gateway: Network | None = None
    dns: tuple[Network, ...] = ()
    routes: tuple[HostRoute, ...] = ()
    mtu: int = 0
    """0: the link's."""
    slaac: bool = False
    """IPv6: guests make their addresses themselves."""


class Guest(msgspec.Struct, frozen=True, kw_only=True):
    """One endpoint."""

    interface: str
    mac: str
    """Empty: any."""
    addresses: tuple[Network, ...]
    """At most one of a family: dnsmasq gives no more."""
    subnets: tuple[int, ...]
    """Places of the addresses' subnets in `Served.subnets`."""
    hostname: str = ""
    domain: str = ""
    mtu: int = 0
    """Of its link; 0: not known yet."""
    dns: tuple[Network, ...] = ()
    """Of this guest; empty: its subnets'."""
    options: tuple[Option, ...] = ()


class Served(msgspec.Struct, frozen=True, kw_only=True):
    """One network with everybody of this host who is in it."""

    name: str
    subnets: tuple[Subnet, ...]
    guests: tuple[Guest, ...]


class Defaults(NamedTuple):
    """What the administrator of this host has set."""

    interface_prefixes: tuple[str, ...] = ("cali",)
    dns: tuple[Network, ...] = ()
    """For subnets and guests that name none."""
    domain: str = ""


class Result(NamedTuple):
    networks: dict[str, Served]
    problems: dict[str, str]
    """By endpoint or subnet: why it, or a part of it, is not served."""


def decide(
    endpoints: Mapping[ResourceKey, WorkloadEndpoint],
    subnets: Mapping[str, SubnetValue],
    pools: Iterable[Network],
    mtus: Mapping[str, int],
    defaults: Defaults,
) -> Result:
    """
    Args:
        endpoints: of this host.
        subnets: OpenStack's, by id.
        mtus: of links that are there, by name.
    """
    problems: dict[str, str] = {}
    parsed = _parse_subnets(subnets, problems)
    ordered_pools = sorted(pools, key=lambda pool: (-pool.length, pool))
    builders: dict[str, _Builder] = {}
    taken: set[Network] = set()
    interfaces: set[str] = set()
    for key in sorted(endpoints):
        endpoint = endpoints[key]
        if not served_by_dhcp(endpoint):
            continue
        try:
            interface = _interface(endpoint, defaults.interface_prefixes)
            if interface in interfaces:
                raise InvalidInput(f"another endpoint has the interface {interface}")
            name, found = _subnets_of(endpoint, parsed, ordered_pools, taken)
            builder = builders.setdefault(name, _Builder(name))
            builder.add(endpoint, interface, found, mtus.get(interface, 0), defaults)
        except InvalidInput as error:
            problems[str(key)] = str(error)
            continue
        interfaces.add(interface)
        taken.update(address for address, _ in found)
    return Result({name: made.served() for name, made in builders.items()}, problems)


class _Parsed(NamedTuple):
    network: str
    subnet: Subnet


class _Builder:
    """Collects one network."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._subnets: dict[Subnet, int] = {}
        self._guests: list[Guest] = []

    def add(
        self,
        endpoint: WorkloadEndpoint,
        interface: str,
        found: "Sequence[tuple[Network, Subnet]]",
        mtu: int,
        defaults: Defaults,
    ) -> None:
        annotations = endpoint.metadata.annotations
        is_openstack = endpoint.spec.orchestrator == ORCHESTRATOR
        # Without a name of its own, a guest is called as its workload.
        fqdn = annotations.get(FQDN_ANNOTATION, "") if is_openstack else endpoint.spec.workload
        hostname, _, domain = fqdn.rstrip(".").partition(".")
        dns = _addresses(annotations.get(DNS_ANNOTATION, "").split(","))
        by_family: dict[int, Network] = {}
        for address, subnet in found:
            if not subnet.slaac:
                by_family.setdefault(address.family, address)
        places = [self._subnets.setdefault(subnet, len(self._subnets)) for _, subnet in found]
        guest = Guest(
            interface=interface,
            mac=_mac(endpoint.spec.mac),
            addresses=tuple(by_family.values()),
            subnets=tuple(dict.fromkeys(places)),
            hostname=hostname if _is_host_name(hostname) else "",
            domain=domain if is_domain(domain) else defaults.domain,
            mtu=mtu,
            dns=dns,
            options=parse_options(annotations.get(DHCP_OPTIONS_ANNOTATION, "")),
        )
        self._guests.append(guest)

    def served(self) -> Served:
        return Served(name=self._name, subnets=tuple(self._subnets), guests=tuple(self._guests))


def is_domain(text: str) -> bool:
    return len(text) <= 253 and all(map(_LABEL.fullmatch, text.split(".")))


def _is_host_name(text: str) -> bool:
    return bool(_LABEL.fullmatch(text)) and not _NO_NAME.fullmatch(text)


def _interface(endpoint: WorkloadEndpoint, prefixes: tuple[str, ...]) -> str:
    """
    Raises:
        InvalidInput: it is none of a workload: we would answer on the host's own network.
    """
    name = endpoint.spec.interface_name
    if not (names.is_interface_name(name) and name.startswith(prefixes)):
        beginnings = " or ".join(map(repr, prefixes))
        raise InvalidInput(f"interface {name!r} is not a workload's: these begin with {beginnings}")
    return name


def _mac(text: str) -> str:
    """As dnsmasq writes it; empty for any.

    Raises:
        InvalidInput: it is none.
    """
    if text and not re.fullmatch("[0-9A-Fa-f]{2}(?::[0-9A-Fa-f]{2}){5}", text):
        raise InvalidInput(f"{text!r} is no MAC address")
    return text.lower()


def _subnets_of(
    endpoint: WorkloadEndpoint,
    subnets: Mapping[str, _Parsed],
    pools: Sequence[Network],
    taken: set[Network],
) -> tuple[str, list[tuple[Network, Subnet]]]:
    """The network's name, and each address that is served with its subnet.

    Raises:
        InvalidInput: there is none.
    """
    spec = endpoint.spec
    pairs = set(_addresses(spec.allowed_ips))
    addresses = [one for one in _addresses(spec.ip_networks) if one not in pairs]
    free = [one for one in addresses if one not in taken]
    if not free:
        others = "others have its addresses" if addresses else "it has no address"
        raise InvalidInput(others)
    if spec.orchestrator != ORCHESTRATOR:
        return HOST_NETWORK, [(one, _pool_subnet(one, pools)) for one in free]
    wanted = endpoint.metadata.annotations.get(NETWORK_ANNOTATION, "")
    found: list[tuple[Network, Subnet]] = []
    network = wanted
    for address in free:
        for parsed in subnets.values():
            fits = not network or parsed.network == network
            if fits and parsed.subnet.cidr.contains(address):
                network = parsed.network
                found.append((address, parsed.subnet))
                break
    if not found:
        raise InvalidInput(f"no subnet with DHCP has {', '.join(a.address_text for a in free)}")
    return network, found


def _pool_subnet(address: Network, pools: Sequence[Network]) -> Subnet:
    """
    Args:
        pools: the longest prefix first.
    """
    cidr = next((pool for pool in pools if pool.contains(address)), address)
    return Subnet(cidr=cidr, routed=True)


def _parse_subnets(
    subnets: Mapping[str, SubnetValue], problems: dict[str, str]
) -> dict[str, _Parsed]:
    """In the order of ids, so that the same one serves an address each time."""
    found = {}
    for subnet_id in sorted(subnets):
        value = subnets[subnet_id]
        cidr = parsed_network(value.cidr)
        if cidr is None:
            problems[f"subnet {subnet_id}"] = f"{value.cidr!r} is no network"
            continue
        gateway = parsed_network(value.gateway_ip or "")
        if gateway is not None and not (gateway.is_address and gateway.family == cidr.family):
            gateway = None
        mtu = 0 if value.mtu is msgspec.UNSET else value.mtu
        modes = {value.ipv6_address_mode, value.ipv6_ra_mode}
        subnet = Subnet(
            cidr=cidr,
            gateway=gateway,
            dns=_addresses(() if value.dns_servers is msgspec.UNSET else value.dns_servers),
            routes=tuple(_routes(value.host_routes, cidr.family)),
            mtu=mtu if 68 <= mtu <= 65535 else 0,
            slaac=cidr.family == 6 and cidr.length == SLAAC_LENGTH and modes == {"slaac"},
        )
        found[subnet_id] = _Parsed(value.network_id, subnet)
    return found


def _routes(given: Iterable[Mapping[str, str]], family: int) -> Iterable[HostRoute]:
    """Those that can be told; IPv6 has no option for them."""
    count = 0
    for route in given:
        destination = parsed_network(str(route.get("destination", "")))
        gateway = parsed_network(str(route.get("nexthop", "")))
        good = destination is not None and gateway is not None and gateway.is_address
        if not good or family != 4 or count == ROUTES_MAX:
            continue
        assert destination is not None
        assert gateway is not None
        if destination.family == gateway.family == 4:
            count += 1
            yield HostRoute(destination, gateway if gateway.value else None)


def _addresses(texts: Iterable[str]) -> tuple[Network, ...]:
    """Those that are addresses; a few, and each once."""
    found: dict[Network, None] = {}
    for text in texts:
        try:
            found[parse_address(text.strip())] = None
        except InvalidInput:
            continue
    return tuple(found)
