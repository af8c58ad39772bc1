"""The workload's end of a veth pair: addresses, routes, neighbours, and rules for a second one.

eth0 has the default routes in the main table. Every further interface has a table of its own,
which packets from its addresses look in: what is asked at its address is answered through it, and
policy of the right endpoint sees both ways. Without, answers would leave by eth0 with an
address that is not eth0's, and be dropped.

Works on a socket of rtnetlink in the workload's namespace; enters nothing.
"""

from collections.abc import Sequence

from tortie.kernel.rtnl import address, link, neighbour, route
from tortie.kernel.rtnl.address import SCOPE_UNIVERSE, Address
from tortie.kernel.rtnl.connection import Rtnl
from tortie.kernel.rtnl.link import Link, LinkChange, parse_mac
from tortie.kernel.rtnl.neighbour import Neighbour
from tortie.kernel.rtnl.route import SCOPE_LINK, TABLE_MAIN, Route
from tortie.kernel.rtnl.rule import Rule
from tortie.lib.errors import NotFound
from tortie.lib.ip import Network, parse_address, parse_network

HOST_MAC = parse_mac("ee:ee:ee:ee:ee:ee")
"""Of every host end, on every host: a workload may move without asking anew."""

GATEWAY_4 = parse_address("169.254.1.1")
GATEWAY_6 = parse_address("fe80::ecee:eeff:feee:eeee")
"""The link-local address that belongs to `HOST_MAC` (RFC 4291, appendix A)."""

_GATEWAYS = {4: GATEWAY_4, 6: GATEWAY_6}
_DEFAULT = {4: parse_network("0.0.0.0/0"), 6: parse_network("::/0")}
_IPV6_DEFAULT_METRIC = 1024

LOOPBACK = 1
"""Index of `lo` in every namespace. Source: include/net/flow.h, LOOPBACK_IFINDEX."""

SOURCE_TABLE = 1000
"""Table, and priority of its rules, of ethN: this plus N. The kernel's own tables are 253 to 255,
its rules have 0, 32766 and 32767."""

_NUMBER_MAX = 1000


def find(rtnl: Rtnl, name: str) -> Link | None:
    try:
        return rtnl.link(name)
    except NotFound:
        return None


def configure(
    inside: Rtnl,
    far: int,
    name: str,
    addresses: Sequence[Network],
    default_routes: bool,
    *,
    is_new: bool,
) -> None:
    """These addresses and no others, permanent neighbours, routes, and everything up.

    One send, in an order in which each may be made: only a link that is up keeps routes, and a
    gateway must be reachable before a route may name it.

    Args:
        far: index of the workload's end.
        is_new: it was made just now, so nothing is there that has to go.

    Raises:
        TortieError: the first refusal; the rest was tried.
    """
    if not is_new:
        for present in inside.addresses(interface=far):
            if present.address not in addresses and present.scope == SCOPE_UNIVERSE:
                inside.delete_address(present)
    requests = [
        address.add(Address(interface=far, address=own, length=own.bits)) for own in addresses
    ]
    requests += [link.change(index, LinkChange(up=True)) for index in (LOOPBACK, far)]
    families = _families(addresses)
    requests += [neighbour.replace(_gateway_neighbour(far, family)) for family in families]
    for family in families:
        wanted = _routes(far, name, family, default_routes)
        requests += [route.replace(one) for one in wanted]
    for outcome in inside.run(requests):
        if outcome is not None:
            raise outcome
    number = _number(name)
    if number:
        _write_rules(inside, SOURCE_TABLE + number, addresses)


def problems(
    inside: Rtnl, far: Link, addresses: Sequence[Network], default_routes: bool
) -> list[str]:
    """What is missing, one sentence each."""
    present = {address.address for address in inside.addresses(interface=far.index)}
    found = [
        f"{far.name} lacks address {address.address_text}"
        for address in addresses
        if address not in present
    ]
    for family in _families(addresses):
        routes = {r.key: r for r in inside.routes(family, interface=far.index)}
        for wanted in _routes(far.index, far.name, family, default_routes):
            there = routes.get(wanted.key)
            if there is None or there.gateway != wanted.gateway:
                found.append(f"{far.name} lacks the route {wanted}")
        keys = {n.address: n.mac for n in inside.neighbours(family, interface=far.index)}
        if keys.get(_GATEWAYS[family]) != HOST_MAC:
            gateway = _GATEWAYS[family].address_text
            found.append(f"{far.name} lacks the permanent neighbour {gateway}")
    number = _number(far.name)
    if number:
        rules = {(rule.source, rule.table) for rule in inside.rules()}
        found += [
            f"{far.name} lacks the rule for packets from {address.address_text}"
            for address in addresses
            if (address, SOURCE_TABLE + number) not in rules
        ]
    return found


def _write_rules(inside: Rtnl, table: int, addresses: Sequence[Network]) -> None:
    """One for each address; those of former addresses go."""
    present = {rule.source: rule for rule in inside.rules() if rule.table == table}
    for own in addresses:
        if own not in present:
            rule = Rule(family=own.family, priority=table, table=table, source=own)
            inside.add_rule(rule)
    for source, rule in present.items():
        if source not in addresses:
            inside.delete_rule(rule)


def _families(addresses: Sequence[Network]) -> list[int]:
    return sorted({address.family for address in addresses})


def _gateway_neighbour(far: int, family: int) -> Neighbour:
    return Neighbour(interface=far, address=_GATEWAYS[family], mac=HOST_MAC)


def _routes(far: int, name: str, family: int, default_routes: bool) -> list[Route]:
    """In an order in which each may be made."""
    number = _number(name)
    metric = number + _IPV6_DEFAULT_METRIC if number and family == 6 else number
    found = _in_table(far, family, TABLE_MAIN, metric, default=default_routes)
    if number:
        found += _in_table(far, family, SOURCE_TABLE + number, 0, default=True)
    return found


def _in_table(far: int, family: int, table: int, metric: int, *, default: bool) -> list[Route]:
    """
    Args:
        metric: eth0 before eth1: without one, the routes of one would replace the other's.
    """
    onlink = Route(
        destination=GATEWAY_4, interface=far, scope=SCOPE_LINK, table=table, metric=metric
    )
    out = Route(
        destination=_DEFAULT[family],
        interface=far,
        gateway=_GATEWAYS[family],
        table=table,
        metric=metric,
    )
    # A link-local gateway of IPv6 needs no route of its own.
    return [*([onlink] if family == 4 else []), *([out] if default else [])]


def _number(name: str) -> int:
    """1 of `eth1`; 0 where there is none, and for `eth0`."""
    return min(int(name[len(name.rstrip("0123456789")) :] or 0), _NUMBER_MAX)
