"""A network as dnsmasq's configuration. Pure.

Everything in it comes from a type: numbers, addresses, MACs, interface and host names that have
been checked, options of a table. `_line` refuses whatever else would get there.

Guests are known by their interface and MAC together (`tag:`, which dnsmasq gives each request by
the interface that it came in on): a guest that claims another one's MAC gets nothing.

Leases are in memory alone. All of them follow from the configuration, so a new process knows what
the one before did; `dhcp-authoritative` lets it confirm what guests have. So a change is a new
process, and no guest waits for an address that a former one holds a lease of.

Several dnsmasqs share port 67, and the kernel gives a broadcast to all of them, but a unicast
packet to any one. So guests are told to ask everybody (T2) soon after they have asked the server
(T1).

IPv6: dnsmasq advertises on a link only where that has an address of a range that it knows. That is
`ADVERTISED`, the same on every link; guests are told neither to make addresses in it nor that it
is on the link. Theirs come by DHCPv6.

Source: dnsmasq(8), 2.90.
"""

import re
from collections.abc import Iterator

from tortie.attach.inside import GATEWAY_4
from tortie.dhcp.served import NAMESERVERS_MAX, Defaults, Guest, Served, Subnet
from tortie.lib.errors import InvalidInput
from tortie.lib.ip import Network, parse_address, parse_network

ADVERTISED = parse_network("fd74:6f72:7469:6500::/64")
"""A unique local prefix (RFC 4193) that leads nowhere."""
METADATA = parse_address("169.254.169.254")
_DEFAULT = parse_network("0.0.0.0/0")

CLASSLESS_ROUTES, MICROSOFT_CLASSLESS_ROUTES = 121, 249
"""RFC 3442, and what Windows used before it."""
_NETMASK, _ROUTER, _DNS, _DOMAIN, _BROADCAST, _MTU = 1, 3, 6, 15, 28, 26
_T1, _T2 = 58, 59
_DNS6, _SEARCH6 = 23, 24

SERVER_DUID = "32473,74:6f:72:74:69:65"
"""The same on all hosts, so that a guest that has moved is answered when it asks its server. The
enterprise number is the one for examples (RFC 5612): there is nothing else for us to name."""
T2_AFTER_T1_SECONDS = 60
RA_INTERVAL_SECONDS, ROUTER_LIFETIME_SECONDS = 600, 9000
"""The lifetime is the longest that RFC 4861 allows, so that a host without us for two hours
does not cost its guests their route."""
LINE_MAX_BYTES = 1000
"""dnsmasq reads 1,024 at a time and takes the rest for another line (MAXDNAME)."""

_LINE = re.compile(r"[a-z0-9-]+(?:=[A-Za-z0-9*][A-Za-z0-9_.,:/@+~*!\[\]-]*)?")


def render(
    served: Served, defaults: Defaults, *, lease_seconds: int, user: str, log_dhcp: bool = False
) -> str:
    """
    Args:
        lease_seconds: -1 for ever.
        user: whom dnsmasq becomes once it has its sockets.

    Raises:
        InvalidInput: something got into it that must not; the network cannot be served.
    """
    lines = [*_fixed(user), *(["log-dhcp"] if log_dhcp else _QUIET)]
    lines.append(f"dhcp-lease-max={2 * len(served.guests) + 16}")
    lines += _timers(lease_seconds)
    lease = "infinite" if lease_seconds < 0 else str(lease_seconds)
    for place, subnet in enumerate(served.subnets):
        lines += _subnet(place, subnet, served, defaults, lease)
    if any(subnet.cidr.family == 6 for subnet in served.subnets):
        lines += ["enable-ra", f"dhcp-duid={SERVER_DUID}"]
        lines.append(f"dhcp-range={_range(ADVERTISED, 'a', lease)}")
    for place, guest in enumerate(served.guests):
        lines += _guest(place, guest, served)
    return "".join(f"{_line(line)}\n" for line in lines)


_QUIET = ("quiet-dhcp", "quiet-dhcp6", "quiet-ra")


def _fixed(user: str) -> list[str]:
    return [
        f"user={user}",
        "no-hosts",
        "no-resolv",
        "no-poll",
        "port=0",
        "bind-dynamic",
        "except-interface=lo",
        "leasefile-ro",
        "dhcp-authoritative",
        "no-ping",
        "dhcp-ignore=tag:!known",
        "dhcp-ignore-names",
    ]


def _timers(lease_seconds: int) -> list[str]:
    if lease_seconds < 0:
        return []
    renew = lease_seconds // 2
    rebind = min(renew + T2_AFTER_T1_SECONDS, lease_seconds - 1)
    return [f"dhcp-option-force={_T1},{renew}s", f"dhcp-option-force={_T2},{rebind}s"]


def _subnet(
    place: int, subnet: Subnet, served: Served, defaults: Defaults, lease: str
) -> Iterator[str]:
    tag = f"s{place}"
    guests = [guest for guest in served.guests if place in guest.subnets]
    if subnet.cidr.family == 4:
        yield f"dhcp-range={_range(subnet.cidr, tag, lease)}"
        yield from _options4(tag, subnet, defaults)
        spans = [subnet.cidr]
    elif subnet.slaac:
        yield f"dhcp-range=set:{tag},{subnet.cidr.address_text},ra-only,off-link,64,{lease}"
        yield from _options6(tag, subnet, defaults)
        return  # its own addresses are on the links
    else:
        spans = _spans(subnet, guests)
        for span in spans:
            yield f"dhcp-range={_range(span, tag, lease)}"
        yield from _options6(tag, subnet, defaults)
    for guest in guests:
        for span in spans:
            if any(span.contains(address) for address in guest.addresses):
                yield f"shared-network={guest.interface},{span.address_text}"


def _range(network: Network, tag: str, lease: str) -> str:
    if network.family == 6:
        return f"set:{tag},{network.address_text},static,off-link,{network.length},{lease}"
    mask = Network(4, (1 << 32) - (1 << (32 - network.length)), 32).address_text
    return f"set:{tag},{network.address_text},static,{mask},{lease}"


def _spans(subnet: Subnet, guests: list[Guest]) -> list[Network]:
    """What dnsmasq takes for ranges: it wants prefixes of 64 bits and more."""
    if subnet.cidr.length >= 64:
        return [subnet.cidr]
    values = {
        address.value >> 64 << 64
        for guest in guests
        for address in guest.addresses
        if subnet.cidr.contains(address)
    }
    return [Network(6, value, 64) for value in sorted(values)]


def _options4(tag: str, subnet: Subnet, defaults: Defaults) -> Iterator[str]:
    gateway = GATEWAY_4 if subnet.routed else subnet.gateway
    yield _option(tag, _ROUTER, [gateway.address_text] if gateway else [])
    if subnet.routed:
        yield _option(tag, _NETMASK, ["255.255.255.255"], force=True)
    routes: list[tuple[Network, Network | None]] = list(subnet.routes)
    told = {route.destination for route in subnet.routes}
    if subnet.routed:
        routes.insert(0, (GATEWAY_4, None))
    elif METADATA not in told:
        routes.append((METADATA, gateway))
    # Who understands this option does not look at the router (RFC 3442).
    if gateway is not None and _DEFAULT not in told:
        routes.append((_DEFAULT, gateway))
    if routes:
        texts = [
            part
            for destination, via in routes
            for part in (str(destination), via.address_text if via else "0.0.0.0")
        ]
        for number in (CLASSLESS_ROUTES, MICROSOFT_CLASSLESS_ROUTES):
            yield _option(tag, number, texts)
    servers = _family(subnet.dns, 4) or _family(defaults.dns, 4)
    yield _option(tag, _DNS, servers)
    if subnet.mtu:
        yield _option(tag, _MTU, [str(subnet.mtu)])


def _options6(tag: str, subnet: Subnet, defaults: Defaults) -> Iterator[str]:
    servers = _family(subnet.dns, 6) or _family(defaults.dns, 6)
    if servers:
        yield _option(tag, _DNS6, servers, family=6)


def _guest(place: int, guest: Guest, served: Served) -> Iterator[str]:
    tag = f"g{place}"
    yield f"interface={guest.interface}"
    if any(served.subnets[one].cidr.family == 6 for one in guest.subnets):
        mtu = f"mtu:{guest.mtu}," if guest.mtu >= 1280 else ""
        times = f"{RA_INTERVAL_SECONDS},{ROUTER_LIFETIME_SECONDS}"
        yield f"ra-param={guest.interface},{mtu}{times}"
    # id:*: a boot loader and the system after it may call themselves differently.
    parts = [guest.mac or "*:*:*:*:*:*", "id:*", f"tag:{guest.interface}", f"set:{tag}"]
    for address in guest.addresses:
        parts.append(address.address_text if address.family == 4 else f"[{address.address_text}]")
    yield "dhcp-host=" + ",".join([*parts, *([guest.hostname] if guest.hostname else [])])
    given = {(option.family, option.number) for option in guest.options}
    for family, number in ((4, _DNS), (6, _DNS6)):
        if (family, number) not in given and (servers := _family(guest.dns, family)):
            yield _option(tag, number, servers, family=family)
    if guest.domain:
        for family, number in ((4, _DOMAIN), (6, _SEARCH6)):
            if (family, number) not in given:
                yield _option(tag, number, [guest.domain], family=family)
    mtus = [served.subnets[one].mtu for one in guest.subnets]
    smallest = min(filter(None, (guest.mtu, *mtus)), default=0)
    if smallest and (4, _MTU) not in given:
        yield _option(tag, _MTU, [str(smallest)])
    for option in guest.options:
        yield _option(tag, option.number, [option.value], family=option.family)


def _family(addresses: tuple[Network, ...], family: int) -> list[str]:
    texts = [one.address_text for one in addresses if one.family == family][:NAMESERVERS_MAX]
    return texts if family == 4 else [f"[{text}]" for text in texts]


def _option(
    tag: str, number: int, values: list[str], *, family: int = 4, force: bool = False
) -> str:
    """No values: dnsmasq is not to send its own."""
    name = f"option6:{number}" if family == 6 else str(number)
    directive = "dhcp-option-force" if force else "dhcp-option"
    return f"{directive}=" + ",".join([f"tag:{tag}", name, *values])


def _line(text: str) -> str:
    if len(text) > LINE_MAX_BYTES or not _LINE.fullmatch(text):
        raise InvalidInput(f"not fit for dnsmasq's configuration: {text[:200]!r}")
    return text
